"""`kasmina checkpoint`: what users see, exit codes, and that nothing is left half-done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kasmina.checkpoint import CheckpointManager, Contents
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
    """Id, time, priority, size, seeds, spec; an archive says so."""
    place, ids = three
    CheckpointManager(place).archive(ids[0])
    assert main(["checkpoint", "list", str(place)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["id", "created", "(UTC)", "priority", "bytes", "seeds", "spec"]
    assert [line.split()[0] for line in lines[1:]] == ids[::-1]
    assert lines[1].split()[3:] == ["normal", lines[1].split()[4], "6", "lifecycle", "00000000"]
    assert lines[3].split()[-1] == "archived"


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
    assert "damaged: its tensors differ from their digest" in out
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
        f"{place}: no intact checkpoint, so nothing may be deleted\n"
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
    assert capsys.readouterr().out.startswith(f"{ids[0]}: 25,")
    assert main(["checkpoint", "archive", str(tmp_path), "--all", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["archived"]
    assert [row["id"] for row in rows] == ids[1::-1]
    assert all(row["bytes"] < row["content_bytes"] for row in rows)
    assert [number_in(manager.restore(id_).contents()) for id_ in ids] == [1, 2, 3]


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
    assert out.count("left as it is: ") == 3
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
    """Listing it is no error, showing its latest is."""
    for command in ("list", "verify"):
        assert main(["checkpoint", command, str(tmp_path)]) == 0
        assert capsys.readouterr().out == f"{tmp_path}: no checkpoints\n"
    assert main(["checkpoint", "show", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path}: there is no checkpoint\n"


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
    assert done.stderr == f"writing {tmp_path}/{ids[0]}.ckpt: File too large; nothing was changed\n"
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
