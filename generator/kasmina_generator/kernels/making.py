"""Kernels of a kind that a user has written, from the templates of the built-in ones, kept on disk.

A file is found again by the digest of all that its text depends on: the kind, the states that mix,
and the sources of the generator. A file whose own checksum is wrong is written anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import kasmina_generator
import kasmina_spec
from kasmina_generator.emit.files import stage
from kasmina_generator.emit.render import (
    HEADER_LINES,
    Output,
    is_edited,
    is_generated,
    lines_of_template,
    render_kernels,
)
from kasmina_generator.finding import alternatives
from kasmina_generator.kernels.emission import KernelText, texts_of
from kasmina_generator.kernels.kind import kind_of_text
from kasmina_generator.kernels.model import KernelSet, Variant
from kasmina_generator.kernels.specialisation import KernelSpec, of_variant
from kasmina_generator.reader import read_spec

COMMAND = "it is made when its kind is used"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        name: The kind's name.
        formula: What would stand under it in a kernels file, e.g. `{maps: {up: bias}, hidden:
            tanh(up)}`.
        placement: inline or parallel.
        choices: What the kind says to each of its options, by name; more names do no harm.
        package: The generated package whose shared modules the kernels import.
        mixing: The states that mix, as bits over their codes.
        joint: The states in which what is mixed in gets gradients.
    """

    name: str
    formula: str
    placement: str
    choices: Mapping[str, str]
    package: str
    mixing: int
    joint: int


@dataclass(frozen=True, slots=True)
class Made:
    """Files of a text by module name (`inline_<text>_forward`), and its parameters in order."""

    files: Mapping[str, Path]
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    digest: str
    version: int = 1
    file: str = "a user's own kind"


def make(request: Request, folder: Path | None = None) -> Made:
    """Return the files of a kind, which lie there already or are written now.

    Args:
        request: What is asked for.
        folder: Where; by default `kasmina/kernels` in the user's cache directory, or a temporary
            folder, with one warning, where that cannot be written.

    Raises:
        SpecErrors: The formula is wrong; each fault says `<name>:line:column`.
        ValueError: An option has no such choice.
    """
    variant = _variant(request)
    digest = _digest(request, variant)
    found = _kernels(request, variant)
    names = {kernel.module: f"{kernel.module}_{digest[:16]}.py" for kernel in found}
    where = usable(folder or cache_folder())
    files = {module: where / name for module, name in names.items()}
    if not all(_is_whole(file, digest) for file in files.values()):
        _write(_rendered(request, found, digest), files)
    return Made(files, variant.parameters(found[0].placement.out))


def _variant(request: Request) -> Variant:
    """Return the kind with its options chosen."""
    kind = kind_of_text(request.name, request.formula)
    for variant in kind.variants():
        if all(request.choices.get(name) == choice for name, choice in variant.options):
            return variant
    told = []
    for option in kind.options:
        given = request.choices.get(option.name)
        if given not in option.choices:
            told.append(f"option {option.name!r} is {given!r}{alternatives(option.choices, given)}")
    raise ValueError(f"kind {request.name!r}: {'; '.join(told)}")


def _kernels(request: Request, variant: Variant) -> list[KernelSpec]:
    kernels = _shipped()
    placement = next(p for p in kernels.placements if p.name == request.placement)
    masks = (request.mixing, request.joint)
    return list(of_variant(kernels.dtypes, placement, variant, masks))


@functools.cache
def _shipped() -> KernelSet:
    """Return the kernels that Kasmina ships: their placements and dtypes."""
    kernels = read_spec(kasmina_spec.LIFECYCLE).kernels
    assert kernels is not None
    return kernels


def _digest(request: Request, variant: Variant) -> str:
    """Return the digest of all that the text depends on."""
    parts = [getattr(request, name) for name in Request.__slots__ if name != "choices"]
    text = json.dumps([*parts, variant.options, _sources()])
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _sources() -> str:
    """Return the digest of the generator's own files and of the shipped kernels file."""
    root = Path(kasmina_generator.__file__).parent
    folders = (root / "kernels", root / "emit", root / "templates" / "kernels")
    files = sorted(file for folder in folders for file in folder.glob("*.[pj]*") if file.is_file())
    whole = hashlib.sha256()
    for file in (*files, kasmina_spec.KERNELS):
        whole.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return whole.hexdigest()


def _rendered(request: Request, found: list[KernelSpec], digest: str) -> list[Output]:
    return render_kernels(_texts(request, found), _Source(request.name, digest), COMMAND)


def _texts(request: Request, found: list[KernelSpec]) -> list[KernelText]:
    return list(texts_of(found, f"{request.package}.kernels."))


def origin(request: Request, module: str, line: int) -> str:
    """Say where a line of a made file comes from: the formula, or a line of a template.

    Args:
        request: What the file was made for.
        module: The module's name.
        line: Counted from 1.
    """
    found = [k for k in _kernels(request, _variant(request)) if k.module == module]
    (output,) = _rendered(request, found, "")
    place = next((s.place for s in output.spans if s.first <= line <= s.last), None)
    if place is not None:
        return f"the formula of {request.name!r}"
    (text,) = _texts(request, found)
    lines = lines_of_template(text.template, text.variables)
    at = min(max(line - HEADER_LINES - 2, 0), len(lines) - 1)
    return f"template {lines[at]}"


def _write(outputs: list[Output], files: Mapping[str, Path]) -> None:
    for output in outputs:
        path = files[Path(output.name).stem]
        stage(path, output.text).replace(path)


def _is_whole(path: Path, digest: str) -> bool:
    """Say whether a file is there, as it was written, and from the same sources."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    fresh = f"# digest: {digest}" in text.split("\n", 4)[:4]
    return fresh and is_generated(text) and not is_edited(text)


def cache_folder() -> Path:
    """Return `kasmina/kernels` in the user's cache directory (XDG Base Directory, 0.8)."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = given if given.is_absolute() else Path.home() / ".cache"
    return base / "kasmina" / "kernels"


def usable(folder: Path) -> Path:
    """Return the folder, made; or a temporary one where it is not ours to write in."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
        found = folder.stat()
    except OSError as error:
        return _instead(folder, f"cannot be written: {error.strerror}")
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        return _instead(folder, "belongs to somebody else, whose code would be run")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return _instead(folder, "can be written by others, whose code would be run (chmod 700)")
    return folder


@functools.cache
def _instead(folder: Path, why: str) -> Path:
    """Return a temporary folder, the same one for the whole process, with one warning."""
    made = Path(tempfile.mkdtemp(prefix="kasmina-kernels-"))
    what = f"the kernel cache {folder} {why}; kernels are kept in {made} until this process ends"
    warnings.warn(what, RuntimeWarning, stacklevel=4)
    return made
