"""The run directory: what may be written where, and what is never taken away."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kasmina.observe.folder import FILES, MARKER, FolderError, Marker, RunFolder, write_atomically


def told(path: Path, *, replace: bool = False) -> str:
    """What the user reads, without the path."""
    with pytest.raises(FolderError) as caught:
        RunFolder.create(path, "digits", 0, replace=replace)
    return str(caught.value).removeprefix(f"{path}: ")


def run_at(path: Path) -> RunFolder:
    """A directory with all files of a run."""
    folder = RunFolder.create(path, "digits", 3)
    for name in FILES:
        if name != MARKER:
            (path / name).write_text("x")
    return folder


def test_a_new_directory_is_marked(tmp_path: Path) -> None:
    """Folders above it are made too."""
    folder = RunFolder.create(tmp_path / "a" / "b", "digits", 3)
    assert folder.marker() == Marker(format=1, task="digits", seed=3)
    names = {path.name for path in (folder.log, folder.result, folder.report, folder.model)}
    assert names | {MARKER} == set(FILES)


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    """It need not be new."""
    assert RunFolder.create(tmp_path, "digits", 3).marker() is not None


def test_a_file_is_refused(tmp_path: Path) -> None:
    """A run needs a directory."""
    (tmp_path / "out").write_text("mine")
    assert told(tmp_path / "out") == "this is a file; a run needs a directory"


@pytest.mark.parametrize("replace", [False, True])
def test_a_directory_that_is_no_run_is_refused(tmp_path: Path, replace: bool) -> None:
    """Even with `replace`, and nothing in it is touched."""
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / MARKER).write_text("not a marker")
    assert told(tmp_path, replace=replace) == (
        "this directory exists and is not a run; choose a new or an empty one with --out"
    )
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    """The message says what is there and what to do."""
    run_at(tmp_path)
    assert told(tmp_path) == (
        "this directory holds a run of task 'digits' with seed 3; choose another one with --out, "
        "or replace the run with --force"
    )


def test_a_run_is_replaced_on_demand(tmp_path: Path) -> None:
    """Only the files of a run go."""
    run_at(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder.create(tmp_path, "chars", 4, replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, "notes.txt"]


def test_what_cannot_be_made_is_told(tmp_path: Path) -> None:
    """In the system's own words."""
    (tmp_path / "file").write_text("")
    assert told(tmp_path / "file" / "run") == (
        "this directory cannot be made: Not a directory; choose another one with --out"
    )


def test_the_next_free_name_is_taken(tmp_path: Path) -> None:
    """`runs/digits-0`, then `runs/digits-0-2`; a colon does not go into a file name."""
    names = [RunFolder.create_next(tmp_path, "digits", 0).path.name for _ in range(3)]
    assert names == ["digits-0", "digits-0-2", "digits-0-3"]
    assert RunFolder.create_next(tmp_path, "a.b:c", 7).path.name == "a.b-c-7"
    assert RunFolder.create_next(tmp_path, "digits", 0, replace=True).path.name == "digits-0"


def test_a_run_that_is_taken_away_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    """An empty directory goes, one with other files stays."""
    run_at(tmp_path / "a").discard()
    assert not (tmp_path / "a").exists()
    folder = run_at(tmp_path / "b")
    (tmp_path / "b" / "mine").write_text("")
    folder.discard()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["mine"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    """And leaves no part of the new one."""
    path = tmp_path / "report.html"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FolderError) as caught:
        write_atomically(tmp_path / "no" / "file", b"")
    assert str(caught.value) == (
        f"{tmp_path}/no/file: this file cannot be written: No such file or directory"
    )


def test_checkpoints_go_with_their_run(tmp_path: Path) -> None:
    """What is none of them stays, and so does its directory."""
    folder = RunFolder.create(tmp_path / "r", "t", 0, options={"task": "t"})
    assert folder.marker() == Marker(1, "t", 0, {"task": "t"})
    folder.checkpoints.mkdir()
    for name in ("000000000001-00000000.ckpt", ".000000000001-00000000.0a.tmp", "notes"):
        (folder.checkpoints / name).touch()
    RunFolder.create(tmp_path / "r", "t", 1, replace=True)
    assert [file.name for file in folder.checkpoints.iterdir()] == ["notes"]


def test_a_run_is_held_by_one(tmp_path: Path) -> None:
    """And free again once it was let go."""
    folder = RunFolder.create(tmp_path / "r", "t", 0)
    with folder.held(), pytest.raises(FolderError) as caught:
        RunFolder.create(tmp_path / "r", "t", 0, replace=True)
    assert str(caught.value) == (
        f"{tmp_path}/r: another process is at work on this run; wait for it, or end it"
    )
    RunFolder.create(tmp_path / "r", "t", 0, replace=True)


def test_a_disk_that_takes_nothing_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not even the temporary file can be taken away again, the first fault is told."""
    fired: list[str] = []

    def refuse(path: Path, *_: object, **__: object) -> None:
        fired.append(path.name)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("open", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(FolderError) as caught:
        write_atomically(tmp_path / "r.html", b"x")
    assert str(caught.value) == (
        f"{tmp_path}/r.html: this file cannot be written: Read-only file system"
    )
    assert len(fired) == 2
