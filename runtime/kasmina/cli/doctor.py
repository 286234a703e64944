"""`kasmina doctor`: what this machine has, which backend computes seeds on it, and why."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from kasmina.bench._machine import device_name, versions
from kasmina.kernels.backend import VARIABLE, BackendError, choose
from kasmina.kernels.inline import NoKernel, texts
from kasmina.kernels.tiles import table
from kasmina_generator.kernels.making import cache_folder

# What is not required: module, what for, how to get it.
OPTIONAL = (
    ("triton", "the generated kernels on a GPU", "pip install triton"),
    ("sklearn", "the task digits", "pip install 'kasmina[tasks]'"),
    ("mnist1d", "the task mnist1d", "pip install 'kasmina[tasks]'"),
    ("z3", "proofs of guards that compute", "pip install 'kasmina[verify]'"),
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
    devices = [_device(name) for name in _devices()]
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
        faults=[*broken, *filter(None, (*map(_unwritable, caches), kernels_fault))],
    )


def _devices() -> list[str]:
    import torch

    return ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]


def _device(name: str) -> Device:
    import torch

    label = torch.cuda.get_device_name(name) if name != "cpu" else "this processor"
    measured = "measured" if label in table() else "defaults: nobody has measured this device"
    try:
        choice = choose(name)
    except BackendError as error:
        return Device(name, label, None, str(error), measured)
    tiles = measured if choice.backend == "triton" else "none needed"
    return Device(name, label, choice.backend, choice.why, tiles)


def _cuda() -> dict[str, str]:
    import torch

    return {} if torch.version.cuda is None else {"cuda": torch.version.cuda}


def _triton_cache() -> Path:
    """Where Triton keeps what it has compiled."""
    return Path(os.environ.get("TRITON_CACHE_DIR", Path.home() / ".triton" / "cache"))


def _unwritable(cache: Path) -> str | None:
    """Why nothing can be kept there."""
    there = next(each for each in (cache, *cache.parents) if each.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return None
    return (
        f"kernels cannot be kept in {cache}: {there} cannot be written, so each process makes them "
        "again; set TRITON_CACHE_DIR and XDG_CACHE_HOME to directories of yours"
    )


def _kernels() -> tuple[list[str], str | None]:
    try:
        return list(texts("kasmina_generated")), None
    except NoKernel as error:
        return [], f"{error}; build the spec: kasmina spec build"


def _show(found: Examination, console: Console) -> None:
    console.print(f"[bold]{found.machine}[/bold]")
    console.print(", ".join(f"{name} {version}" for name, version in found.versions.items()))
    console.print(f"{VARIABLE}: {found.asked}")
    shown = Table("device", "what it is", "backend", "why", "tiles")
    for each in found.devices:
        backend = each.backend or "[red]none[/red]"
        shown.add_row(each.name, each.label, backend, each.why, each.tiles)
    console.print(shown)
    console.print(f"generated kernels: {', '.join(found.kernels) or 'none'}")
    console.print(f"kernels are kept in {' and '.join(found.caches)}", soft_wrap=True)
    for each_missing in found.missing:
        console.print(f"not installed: {each_missing}")
    for fault in found.faults:
        console.print(f"[red]fault[/red]: {fault}", soft_wrap=True)
    if not found.faults:
        console.print("[green]all is well[/green]")
