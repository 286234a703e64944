"""What building would change in a directory, and doing it: all of it or nothing.

Only files that begin with our header are ever replaced or removed. Every new text lies beside its
place, complete, before the first one is put there.
"""

from __future__ import annotations

import ast
import difflib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kasmina_generator.emit.render import (
    SOURCE_MAP,
    SUBPACKAGES,
    Output,
    is_edited,
    is_generated,
)
from kasmina_generator.emit.user import COMMENTS

Kind = Literal["missing", "drift", "edited by hand", "orphan", "not generated"]

_EXPLANATIONS: dict[Kind, str] = {
    "missing": "missing; the build makes it",
    "drift": "differs from what the spec and the templates give now",
    "edited by hand": "was edited by hand; generated files are not kept, edit the spec instead",
    "orphan": "was generated, and the build no longer makes it",
    "not generated": "is in the way: a file by this name exists that Kasmina did not generate",
}


class BuildError(Exception):
    """A directory that cannot be built into; nothing was written."""


@dataclass(frozen=True, slots=True)
class Change:
    """One file that is not as the build makes it; `new` is None for one to remove."""

    path: Path
    kind: Kind
    old: str | None
    new: str | None

    def __str__(self) -> str:
        return f"{self.path}: {_EXPLANATIONS[self.kind]}\n{self.diff()}".rstrip("\n")

    def diff(self) -> str:
        """Return the unified diff from the file as it stands to what the build makes."""
        lines = difflib.unified_diff(
            (self.old or "").splitlines(keepends=True),
            (self.new or "").splitlines(keepends=True),
            f"{self.path} (as it stands)",
            f"{self.path} (as built)",
        )
        return "".join(lines)


def changes(directory: Path, outputs: Iterable[Output]) -> list[Change]:
    """Return what differs between a directory and the files that the build makes there.

    Raises:
        BuildError: `directory` is a file, or something in it cannot be read.
    """
    _refuse_a_file(directory)
    wanted = {directory / output.name: output.text for output in outputs}
    found = (_change(path, text) for path, text in wanted.items())
    return [change for change in found if change] + list(_orphans(directory, set(wanted)))


def _refuse_a_file(directory: Path) -> None:
    """Raise where `directory`, or the nearest folder above it that exists, is no directory."""
    try:
        nearest = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    except OSError as error:
        raise BuildError(f"{directory}: cannot be a directory: {error.strerror}") from error
    if not nearest.is_dir():
        raise BuildError(f"{nearest}: is a file; --out takes a directory, new or built before")


def _change(path: Path, text: str) -> Change | None:
    old = _read(path)
    if old is None:
        return Change(path, "missing", None, text)
    if old == text:
        return None
    if not is_generated(old):
        return Change(path, "not generated", old, text)
    return Change(path, "edited by hand" if is_edited(old) else "drift", old, text)


def _orphans(directory: Path, wanted: set[Path]) -> Iterator[Change]:
    for path in sorted(_candidates(directory) - wanted):
        old = _read(path)
        if old is not None and is_generated(old):
            yield Change(path, "edited by hand" if is_edited(old) else "orphan", old, None)


def _candidates(directory: Path) -> set[Path]:
    """Return the files that a build may have made: by where they lie, and by the last build's list."""
    folders = (directory, *(directory / name for name in SUBPACKAGES))
    found = {path for folder in folders for path in folder.glob("*.*") if path.is_file()}
    listed = listed_files(directory / SOURCE_MAP)
    found |= {directory / name for name in listed if ".." not in Path(name).parts}
    return {path for path in found if path.suffix in COMMENTS}


def listed_files(source_map: Path) -> tuple[str, ...]:
    """Return the names that the source map of a package lists; none where there is no map."""
    try:
        body = ast.parse(_read(source_map) or "").body
    except SyntaxError:
        return ()
    for statement in body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id="FILES"), value=ast.Tuple() as names):
                return tuple(str(ast.literal_eval(name)) for name in names.elts)
    return ()


def _read(path: Path) -> str | None:
    """Return a file's text, None where there is no such file."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BuildError(f"{path}: cannot be read: {error.strerror}") from error


def apply(planned: Iterable[Change]) -> None:
    """Write and remove what was planned.

    Raises:
        BuildError: A file that is not ours is in the way, or a directory cannot be written to;
            nothing has been changed then.
    """
    planned = list(planned)
    _refuse_foreign(planned)
    staged: list[tuple[Path, Path]] = []
    try:
        for change in planned:
            if change.new is not None:
                staged.append((stage(change.path, change.new), change.path))
    except OSError as error:
        _discard(staged)
        raise BuildError(
            f"{error.filename}: cannot be written: {error.strerror}; no file was changed"
        ) from error
    for temporary, path in staged:
        temporary.replace(path)
    for change in planned:
        if change.new is None:
            change.path.unlink()


def _refuse_foreign(planned: list[Change]) -> None:
    foreign = [change for change in planned if change.kind == "not generated"]
    foreign += [c for c in planned if c.kind == "edited by hand" and c.new is None]
    if foreign:
        listed = "".join(f"\n    {c.path}: {_EXPLANATIONS[c.kind]}" for c in foreign)
        raise BuildError(
            f"these files would be lost; move or delete them, or build elsewhere:{listed}"
        )


def stage(path: Path, text: str) -> Path:
    """Write `text` to a temporary file in the directory of `path`, whole and with plain rights.

    Raises:
        OSError: It cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    with os.fdopen(handle, "wb") as stream:
        stream.write(text.encode())
    mask = os.umask(0)
    os.umask(mask)
    temporary = Path(name)
    temporary.chmod(0o666 & ~mask)  # mkstemp gives nobody else a right
    return temporary


def _discard(staged: list[tuple[Path, Path]]) -> None:
    for temporary, _ in staged:
        temporary.unlink(missing_ok=True)
