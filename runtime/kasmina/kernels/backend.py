"""Which backend computes the seeds of a device: generated Triton kernels, or their twins in torch.

`KASMINA_BACKEND` is read here and nowhere else: `auto` (the default) takes the kernels where they
can run, `triton` demands them, `torch` takes the twins.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.kernels.made import place_of

P = ParamSpec("P")
R = TypeVar("R")
Backend = Literal["triton", "torch"]
VARIABLE = "KASMINA_BACKEND"
CHOICES = ("auto", "triton", "torch")
OLDEST = (8, 0)  # compute capability; below it Triton lacks bfloat16


class BackendError(KasminaError, RuntimeError):
    """A backend that does not exist, or that was demanded and cannot run here."""


class Choice(NamedTuple):
    """The backend of a device, and why it is this one."""

    backend: Backend
    why: str


def asked() -> str:
    """What the environment asks for; raises `BackendError` for what is no backend."""
    value = os.environ.get(VARIABLE) or "auto"  # `KASMINA_BACKEND= command` means not set
    if value not in CHOICES:
        raise BackendError(f"{VARIABLE}={value!r} is no backend; legal: {', '.join(CHOICES)}")
    return value


def choose(device: torch.device | str) -> Choice:
    """The backend for tensors on `device`.

    Raises:
        BackendError: the environment asks for what does not exist, or for kernels that cannot run.
    """
    device, wanted = torch.device(device), asked()
    if wanted == "torch":
        return Choice("torch", f"{VARIABLE}=torch asks for the twins")
    lack = missing(device, forced=wanted == "triton")
    if lack is None:
        return Choice("triton", _granted(device, wanted))
    if wanted == "triton":
        raise BackendError(
            f"{VARIABLE}=triton, but no kernel can run on {device}: {lack}. Mend that, or set "
            f"{VARIABLE}=auto, which takes the twins in torch there"
        )
    return Choice("torch", f"the twins: {lack}")


def fallen_back(device: torch.device, error: Exception) -> Choice:
    """The backend where a kernel has failed, or gave other numbers than its twin, before it was needed.

    Raises:
        BackendError: the environment demands kernels.
    """
    what = f"a kernel cannot be used ({type(error).__name__}: {error}){place_of(error)}"
    if asked() == "triton":
        raise BackendError(f"{VARIABLE}=triton, but on {device} {what}") from error
    return Choice("torch", f"the twins: {what}")


def missing(device: torch.device, *, forced: bool = False) -> str | None:
    """What keeps kernels from running on `device`; None where nothing does.

    Args:
        device: where the tensors are.
        forced: whether Triton's interpreter counts, which is far slower than the twins.
    """
    if find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    if device.type == "cuda":
        return _unfit(device)
    if device.type != "cpu" or not forced:
        return f"kernels run on a CUDA GPU and this is {device.type!r}"
    if not interpreted():
        return "on a CPU kernels run in Triton's interpreter only; set TRITON_INTERPRET=1"
    return None


def interpreted() -> bool:
    """Whether Triton interprets its kernels; it decided so when it was first imported."""
    return bool(_launching().INTERPRETED)


def _granted(device: torch.device, wanted: str) -> str:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}"
    return f"{VARIABLE}={wanted} and TRITON_INTERPRET=1: the interpreter, to test kernels"


def _unfit(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        return "the kernels were never run on an AMD GPU"
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        has, needs = (".".join(map(str, each)) for each in (capability, OLDEST))
        return f"compute capability {has} of {torch.cuda.get_device_name(device)} is below {needs}"
    if interpreted():
        return "TRITON_INTERPRET=1 is set, which is for machines without a GPU"
    return None


@cache
def _launching() -> Any:
    from kasmina_generated.kernels import launch

    return launch


@cache
def _several_devices() -> bool:
    return torch.cuda.device_count() > 1


def on_its_device(function: Callable[P, R]) -> Callable[P, R]:
    """Launch what a function launches on the device of its first tensor, whichever is current."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _several_devices():  # to enter and leave one costs a small pass a tenth of its time
            return function(*args, **kwargs)
        first = next(each for each in args if isinstance(each, Tensor))
        with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
            return function(*args, **kwargs)

    return guarded
