"""`kasmina doctor`: what this machine has, which backend computes seeds on it, and why."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from kasmina.bench._machine import device_name, versions
from kasmina.kernels.backend import VARIABLE, BackendError, choose
from kasmina.kernels.inline import NoKernel, texts
from kasmina.kernels.tiles import TABLE, TableError, table
from kasmina_generator.kernels.making import cache_folder

# What is not required: module, what for, how to get it.
OPTIONAL = (
    ("triton", "the generated kernels on a GPU", "pip install triton"),
    ("sklearn", "the task digits", "pip install 'kasmina[tasks]'"),
    ("mnist1d", "the task mnist1d", "pip install 'kasmina[tasks]'"),
    ("z3", "proofs of guards that compute", "pip install 'kasmina[verify]'"),
)

OWN = (
    "a formula gives an inline kernel when it is first used; in parallel, and without a formula, "
    "the twins in torch compute them"
)


@dataclass(frozen=True)
class Device:
    """A device that torch sees; `backend` is None where the one that is asked for cannot run."""

    name: str
    label: str
    backend: str | None
    why: str
    tiles: str


@dataclass(frozen=True)
class Examination:
    """What was found; `faults` need mending, `missing` may be."""

    machine: str
    versions: dict[str, str]
    asked: str
    devices: list[Device]
    kernels: list[str]
    caches: list[str]
    missing: list[str]
    faults: list[str]


def doctor(*, json: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Say what this machine has, which backend computes seeds on it, and why.

    Args:
        json: print one JSON object instead of tables.

    Returns:
        0, or 1 where something cannot work as it was asked for.
    """
    found = examine()
    if json:
        print(msgspec.json.encode(asdict(found)).decode())  # noqa: T201  one line, not wrapped
    else:
        _show(found, Console())
    return int(bool(found.faults))


def examine() -> Examination:
    """Look at the machine; nothing is compiled."""
    measured, tiles_fault = _tiles()
    devices = [_device(name, measured) for name in _devices()]
    caches = [_triton_cache(), cache_folder()]
    kernels, kernels_fault = _kernels()
    nowhere = all(each.backend is None for each in devices)
    broken = [f"{each.name}: {each.why}" for each in devices if nowhere]
    return Examination(
        machine=device_name(),
        versions={**versions(), **_cuda()},
        asked=os.environ.get(VARIABLE, "auto (not set)"),
        devices=devices,
        kernels=kernels,
        caches=[str(cache) for cache in caches],
        missing=[
            f"{module}, for {purpose}: {remedy}"
            for module, purpose, remedy in OPTIONAL
            if find_spec(module) is None
        ],
        faults=[*broken, *filter(None, (*map(_unwritable, caches), kernels_fault, tiles_fault))],
    )


def _devices() -> list[str]:
    import torch

    return ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]


def _tiles() -> tuple[set[str] | None, str | None]:
    """The devices whose tiles are in the table; None and why where it cannot be read."""
    try:
        return set(table()), None
    except TableError as error:
        return None, f"tiles: {error}"


def _device(name: str, measured: set[str] | None) -> Device:
    import torch

    label = torch.cuda.get_device_name(name) if name != "cpu" else "this processor"
    if measured is None:
        tiles = f"none: {TABLE.name} cannot be read"
    elif label in measured:
        tiles = "measured"
    else:
        tiles = "defaults: nobody has measured this device"
    try:
        choice = choose(name)
    except BackendError as error:
        return Device(name, label, None, str(error), tiles)
    tiles = tiles if choice.backend == "triton" else "none needed"
    return Device(name, label, choice.backend, choice.why, tiles)


def _cuda() -> dict[str, str]:
    import torch

    return {} if torch.version.cuda is None else {"cuda": torch.version.cuda}


def _triton_cache() -> Path:
    """Where Triton keeps what it has compiled."""
    return Path(os.environ.get("TRITON_CACHE_DIR", Path.home() / ".triton" / "cache"))


def _unwritable(cache: Path) -> str | None:
    """Why nothing can be kept there; found out by writing, since permissions do not tell it all."""
    there = next(each for each in (cache, *cache.parents) if each.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there) as file:
            file.write(b"kasmina")
            file.flush()
    except OSError as error:
        return (
            f"kernels cannot be kept in {cache}: {there} cannot be written ({error.strerror}), so "
            "each process makes them again; set TRITON_CACHE_DIR and XDG_CACHE_HOME to directories "
            "of yours"
        )
    return None


def _kernels() -> tuple[list[str], str | None]:
    try:
        return list(texts("kasmina_generated")), None
    except NoKernel as error:
        return [], f"{error}; build the spec: kasmina spec build"


def _show(found: Examination, console: Console) -> None:
    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    console.print(f"[bold]{escape(found.machine)}[/bold]", soft_wrap=True)
    line(", ".join(f"{name} {version}" for name, version in found.versions.items()))
    line(f"{VARIABLE}: {found.asked}")
    for each in found.devices:
        line(f"{each.name}, {each.label}: {each.backend or 'no backend'}")
        line(f"  why: {each.why}")
        line(f"  tiles: {each.tiles}")
    line(f"generated kernels: {', '.join(found.kernels) or 'none'}")
    line(f"kinds of your own: {OWN}")
    line(f"kernels are kept in {' and '.join(found.caches)}")
    for missing in found.missing:
        line(f"not installed: {missing}")
    for fault in found.faults:
        console.print(f"[red]fault[/red]: {escape(fault)}", soft_wrap=True)
    if not found.faults:
        console.print("[green]all is well[/green]")
