"""`kasmina checkpoint`: what users see, exit codes, and that nothing is left half-done."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kasmina.checkpoint import CheckpointManager, Contents
from kasmina.checkpoint.disk import Disk
from kasmina.cli import main
from tests.faults.disks import contents, filled, number_in
from tests.helpers import ROOT, run_cli
from tests.runtime.checkpoint.golden import GOLDEN

Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are not folded."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def three(tmp_path: Path) -> tuple[Path, list[str]]:
    """A directory with three checkpoints; ids oldest first."""
    return tmp_path, filled(tmp_path, 3)[1]


def test_list_shows_the_newest_first(three: tuple[Path, list[str]], capsys: Printed) -> None:
    """Id, time, priority or that it is an archive, size, seeds, spec."""
    place, ids = three
    CheckpointManager(place).archive(ids[0])
    assert main(["checkpoint", "list", str(place)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["id", "created", "(UTC)", "priority", "size", "seeds", "spec"]
    assert [line.split()[0] for line in lines[1:]] == ids[::-1]
    assert lines[1].split()[3:] == ["normal", "1.11", "kB", "6", "00000000"]
    assert lines[3].split()[3] == "archived"


def test_list_shows_tags_where_there_are_any(
    three: tuple[Path, list[str]], capsys: Printed
) -> None:
    """What a checkpoint was called; what could move the cursor is spelled out."""
    place, ids = three
    tag = "before\x1b[2J lunch"
    tagged = CheckpointManager(place).save(replace(contents(4), metadata={"tag": tag}))
    assert main(["checkpoint", "list", str(place)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-2:] == ["spec", "tag"]
    assert lines[1].rstrip().endswith("before\\x1b[2J lunch")
    assert lines[2].rstrip().endswith("00000000")
    assert main(["checkpoint", "list", str(place), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["checkpoints"]
    assert {each["id"]: each["tag"] for each in found} == {tagged: tag, **dict.fromkeys(ids)}


def test_tables_fit_a_terminal_of_80_columns(
    tmp_path: Path, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line a checkpoint, no cell cut or folded, however much is in it; faults stand below."""
    monkeypatch.setenv("COLUMNS", "80")
    manager = CheckpointManager(tmp_path)
    for number in range(1, 4):
        manager.save(contents(number, seeds=100_000), priority="high")
    newest, _, oldest = [str(entry.id) for entry in manager.list()]
    manager.archive(oldest)
    (tmp_path / f"{newest}.ckpt").write_bytes(b"")
    for command, count in {"list": 6, "verify": 8}.items():
        assert main(["checkpoint", command, str(tmp_path)]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == count
        assert all(len(line.rstrip()) <= 80 for line in lines)
        assert "…" not in "".join(lines)
        assert lines[1].split()[-3:] in (["damaged", "0", "B"], ["0", "B", "damaged"])
        assert lines[5] == f"{newest}: is empty"


def test_list_as_json(three: tuple[Path, list[str]], capsys: Printed) -> None:
    """One object; a damaged one has its fault and ends the command with 1."""
    place, ids = three
    (place / f"{ids[2]}.ckpt").write_bytes(b"")
    assert main(["checkpoint", "list", str(place), "--json"]) == 1
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    assert found["directory"] == str(place)
    assert [row["id"] for row in found["checkpoints"]] == ids[::-1]
    assert found["checkpoints"][0]["fault"] == f"{place}/{ids[2]}.ckpt: is empty"
    assert found["checkpoints"][1]["priority"] == "normal"


def test_verify_reads_every_byte(three: tuple[Path, list[str]], capsys: Printed) -> None:
    """What a listing cannot see, a changed tensor, ends with 1."""
    place, ids = three
    assert main(["checkpoint", "verify", str(place)]) == 0
    assert capsys.readouterr().out.endswith("\n3 of 3 intact\n")
    path = place / f"{ids[1]}.ckpt"
    path.write_bytes(path.read_bytes()[:-73] + b"?" + path.read_bytes()[-72:])
    assert main(["checkpoint", "list", str(place)]) == 0
    capsys.readouterr()
    assert main(["checkpoint", "verify", str(place)]) == 1
    out = capsys.readouterr().out
    assert f"{ids[1]}: its tensors differ from their digest\n" in out
    assert out.endswith("\n2 of 3 intact\n")
    assert main(["checkpoint", "verify", str(place), ids[0], "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["checkpoints"]
    assert (row["id"], row["intact"], row["fault"]) == (ids[0], True, None)


def test_show_tells_everything(three: tuple[Path, list[str]], capsys: Printed) -> None:
    """Manifest and tensors of the newest intact one, and what was skipped."""
    place, ids = three
    (place / f"{ids[2]}.ckpt").write_bytes(b"")
    assert main(["checkpoint", "show", str(place)]) == 0
    out = capsys.readouterr().out
    for part in (ids[1], "parent", ids[0], "lifecycle, digest 0000", "state/alpha", "F32", "[6]",
                 "model/0.weight", '{"number": 2}', f"went back to {ids[1]}, because:"):  # fmt: skip
        assert part in out
    assert main(["checkpoint", "show", str(place), ids[0], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["manifest"]["id"] == ids[0]
    assert found["tensors"]["state/alpha"] == {"dtype": "F32", "shape": [6]}


def test_what_a_file_says_is_shown_as_text(tmp_path: Path, capsys: Printed) -> None:
    """Neither markup nor escape sequences of a file reach the terminal."""
    manager = CheckpointManager(tmp_path)
    manager.save(Contents(metadata={"note": "see [/docs]"}, device="cpu[/red]\x1b]0;title\x07"))
    for command in ("show", "list", "verify"):
        assert main(["checkpoint", command, str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        if command == "show":
            assert "cpu[/red]\\x1b]0;title\\x07" in out
            assert "see [/docs]" in out


def test_prune_deletes_what_it_says(three: tuple[Path, list[str]], capsys: Printed) -> None:
    """With --dry-run nothing."""
    place, ids = three
    assert main(["checkpoint", "prune", str(place), "--normal", "1", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"would delete {ids[0]}\nwould delete {ids[1]}\nwould delete 2, ")
    assert len(list(place.iterdir())) == 3
    assert main(["checkpoint", "prune", str(place), "--normal", "0", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["deleted"], done["last_good"]) == (ids[:2], ids[2])
    assert [path.stem for path in place.iterdir()] == [ids[2]]
    (place / f"{ids[2]}.ckpt").write_bytes(b"")
    assert main(["checkpoint", "prune", str(place)]) == 0
    assert capsys.readouterr().out == (
        f"{place}: no intact checkpoint, so there is nothing to delete\n"
    )


def test_archive_compresses(tmp_path: Path, capsys: Printed) -> None:
    """By id, or all but the newest; without either it asks."""
    manager = CheckpointManager(tmp_path)
    ids = [manager.save(contents(number, seeds=5000)) for number in (1, 2, 3)]
    assert main(["checkpoint", "archive", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "give the ids of the checkpoints, or --all for all but the newest; "
        f"kasmina checkpoint list {tmp_path} shows them\n"
    )
    assert main(["checkpoint", "archive", str(tmp_path), ids[0]]) == 0
    assert capsys.readouterr().out.startswith(f"{ids[0]}: 25.3 kB of tensors in ")
    assert main(["checkpoint", "archive", str(tmp_path), "--all", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = told["archived"]
    assert told["refused"] == []
    assert [row["id"] for row in rows] == ids[1::-1]
    assert all(row["bytes"] < row["content_bytes"] for row in rows)
    assert [number_in(manager.restore(id_).contents()) for id_ in ids] == [1, 2, 3]


def test_archive_all_goes_on_and_keeps_the_newest_intact(tmp_path: Path, capsys: Printed) -> None:
    """A damaged one is told, wherever it stands; what resuming would read stays as it is."""
    manager, ids = filled(tmp_path, 5)
    for place in (1, 4):
        (tmp_path / f"{ids[place]}.ckpt").write_bytes(b"")
    assert main(["checkpoint", "archive", str(tmp_path), "--all"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" B of")[0] for line in lines] == [
        f"refused: {tmp_path}/{ids[4]}.ckpt: is empty",
        f"{ids[2]}: 334",
        f"refused: {tmp_path}/{ids[1]}.ckpt: is empty",
        f"{ids[0]}: 334",
        "2 archived",
    ]
    archived = {str(entry.id) for entry in manager.list() if entry.is_archived}
    assert archived == {ids[0], ids[2]}


def test_archive_looks_at_all_ids_before_it_begins(tmp_path: Path, capsys: Printed) -> None:
    """One that is none, or that is not there, stops it before anything is changed."""
    manager, ids = filled(tmp_path, 2)
    for wrong, message in {
        "7": "'7' is no id of a checkpoint",
        "000000000009-00000000": f"there is no checkpoint 000000000009-00000000; the newest is {ids[1]}",
    }.items():
        assert main(["checkpoint", "archive", str(tmp_path), ids[0], wrong]) == 1
        assert message in capsys.readouterr().err
    assert not any(entry.is_archived for entry in manager.list())


def test_prune_tells_what_it_could_not_delete(
    three: tuple[Path, list[str]], capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 1, after it has deleted the others."""
    place, ids = three
    unlink = Disk.unlink

    def stuck(self: Disk, path: Path) -> None:
        if ids[0] in path.name:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(self, path)

    monkeypatch.setattr(Disk, "unlink", stuck)
    assert main(["checkpoint", "prune", str(place), "--normal", "1"]) == 1
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"deleted {ids[1]}",
        f"deleting {place}/{ids[0]}.ckpt: Operation not permitted; nothing was changed",
    ]
    assert main(["checkpoint", "prune", str(place), "--normal", "1", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["failed"]) == 1


def test_migrate_takes_the_golden_files_over(tmp_path: Path, capsys: Printed) -> None:
    """Format and spec in one command; the second time there is nothing to do."""
    place = tmp_path / "c"
    shutil.copytree(GOLDEN, place)
    assert main(["checkpoint", "list", str(place)]) == 0
    assert capsys.readouterr().out == (
        f"{place}: no checkpoints; it holds 2 of format 1: take them over with "
        f"kasmina checkpoint migrate {place}\n"
    )
    assert main(["checkpoint", "migrate", str(place), "--remove"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("2 changed, 0 as they were, 0 refused\n")
    assert "removed checkpoint_000012.safetensors\n" in out
    assert main(["checkpoint", "migrate", str(place), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["unchanged"]) == 2


def test_migrate_tells_what_it_refuses(three: tuple[Path, list[str]], capsys: Printed) -> None:
    """Rows of a spec that nobody knows; --keep-spec leaves them in peace."""
    place, _ = three
    assert main(["checkpoint", "migrate", str(place)]) == 1
    out = capsys.readouterr().out
    assert out.count("refused: ") == 3
    assert out.endswith("0 changed, 0 as they were, 3 refused\n")
    assert main(["checkpoint", "migrate", str(place), "--keep-spec"]) == 0


@pytest.mark.parametrize("command", ["list", "verify", "show", "prune", "migrate"])
def test_a_wrong_directory_is_wrong_usage(command: str, tmp_path: Path, capsys: Printed) -> None:
    """Missing, or a file; nothing is made."""
    assert main(["checkpoint", command, str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err == f"{tmp_path}/no: there is no such directory\n"
    (tmp_path / "file").write_text("")
    assert main(["checkpoint", command, str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == (
        f"{tmp_path}/file: is a file; give a directory of checkpoints\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_empty_directory_says_so(tmp_path: Path, capsys: Printed) -> None:
    """Listing it is no error; a check that finds nothing to check is one, and so is showing it."""
    assert main(["checkpoint", "list", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: no checkpoints\n"
    for command in ("verify", "show"):
        assert main(["checkpoint", command, str(tmp_path)]) == 1
        assert capsys.readouterr().err == f"{tmp_path}: there is no checkpoint\n"
    assert main(["checkpoint", "archive", str(tmp_path), "--all"]) == 0
    assert capsys.readouterr().out == "0 archived\n"


def test_a_wrong_id_says_how_ids_look(three: tuple[Path, list[str]], capsys: Printed) -> None:
    """And one that is not there, which is."""
    place, ids = three
    assert main(["checkpoint", "show", str(place), "7"]) == 1
    assert capsys.readouterr().err.startswith("'7' is no id of a checkpoint; an id looks like ")
    assert main(["checkpoint", "show", str(place), "000000000009-00000000"]) == 1
    assert capsys.readouterr().err.endswith(
        f"there is no checkpoint 000000000009-00000000; the newest is {ids[2]}\n"
    )


def test_a_run_directory_has_its_checkpoints_inside(tmp_path: Path, capsys: Printed) -> None:
    """The folder `checkpoints` is found."""
    _, ids = filled(tmp_path / "checkpoints", 1)
    assert main(["checkpoint", "list", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoints"][0]["id"] == ids[0]


def test_looking_sweeps_nothing(tmp_path: Path) -> None:
    """A listing does not touch what another writer may be at."""
    leftover = tmp_path / ".000000000001-00000000.00000000.tmp"
    leftover.write_bytes(b"")
    main(["checkpoint", "list", str(tmp_path)])
    assert leftover.exists()


def test_a_full_disk_is_a_message(tmp_path: Path) -> None:
    """Archiving where no byte can be written: exit code 1, the checkpoint as it was."""
    _, ids = filled(tmp_path, 1)
    before = (tmp_path / f"{ids[0]}.ckpt").read_bytes()
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from kasmina.cli import main\n"
        "before = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))\n"
        "code = main()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, before)\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "checkpoint", "archive", str(tmp_path), ids[0]],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == (
        f"refused: writing {tmp_path}/{ids[0]}.ckpt: File too large; nothing was changed\n0 archived\n"
    )
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(f"{ids[0]}.ckpt", before)]


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Interrupted in the middle of an archive: 130, and the checkpoint is as it was."""
    manager = CheckpointManager(tmp_path)
    id_ = manager.save(Contents(parts={"p": os.urandom(10), "w": contents(1).parts}))
    code = """
import os, signal, sys
from kasmina.checkpoint.disk import Disk
from kasmina.cli import main
write = Disk.write
def interrupted(self, file, data):
    write(self, file, data[:5])
    os.kill(os.getpid(), signal.SIGINT)
    return 5
Disk.write = interrupted
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "checkpoint", "archive", str(tmp_path), id_],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == [f"{id_}.ckpt"]
    assert manager.verify()[0].fault is None


def test_help_names_every_command() -> None:
    """In a process of its own, without loading torch."""
    done = run_cli("checkpoint", "--help")
    assert done.returncode == 0
    for name in ("list", "verify", "show", "prune", "migrate", "archive"):
        assert f" {name} " in done.stdout
