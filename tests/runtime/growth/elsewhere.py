"""A second device on machines that have none: tensors that say they are elsewhere, and are not.

Inside of `simulated()` the device `ELSEWHERE` exists. Its tensors lie on the CPU and are computed
there; but an operation that mixes them with the CPU's own is refused where a GPU would refuse it, and
so is whatever reads their memory from outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("lazy", 0)  # a type that torch runs backwards on the CPU's own thread
MOVES = ("aten.copy_.default", "aten._to_copy.default")
INDEXES = ("aten.index.Tensor", "aten.index_put_.default", "aten._index_put_impl_.default")


class MixedDevices(RuntimeError):
    """What torch raises where tensors of two devices meet."""


class Far(Tensor):
    """A tensor of the simulated device; `near` holds its values."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Self:
        """Wrap a tensor of the CPU."""
        made: Self = Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), dtype=near.dtype, device=ELSEWHERE
        )
        made.near = near
        return made

    def tolist(self) -> Any:
        """Copied from there, as a GPU's."""
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused: numpy knows no other device."""
        raise MixedDevices("numpy reads the CPU's memory")

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Compute."""
        return _computed(func, args, kwargs or {})


class _Simulated(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    name, (flat, _) = str(func), tree_flatten((args, kwargs))
    far = [each for each in flat if isinstance(each, Far)]
    near = [e for e in flat if isinstance(e, Tensor) and not isinstance(e, Far) and e.dim()]
    indexed = name in INDEXES and isinstance(args[0], Far)  # by the CPU's numbers: torch allows it
    if far and near and name not in MOVES and not indexed:
        raise MixedDevices(f"{name}: {[(list(each.shape), each.device) for each in far + near]}")
    goes_far, device = bool(far), kwargs.get("device")
    if device is not None:
        goes_far = torch.device(device).type == ELSEWHERE.type
        kwargs = {**kwargs, "device": "cpu"}
    if name == "aten.copy_.default":
        goes_far = isinstance(args[0], Far)
    taken, options = tree_map(lambda e: e.near if isinstance(e, Far) else e, (tuple(args), kwargs))
    known = {id(each.near): each for each in far}  # what is written in place stays what it is

    def wrapped(each: Any) -> Any:
        made = isinstance(each, Tensor) and goes_far and id(each) not in known
        return Far(each) if made else known.get(id(each), each)

    return tree_map(wrapped, func(*taken, **options))


@contextmanager
def simulated() -> Iterator[torch.device]:
    """Let the second device exist."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KASMINA_BACKEND", "torch")
        patch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # it knows real types only
        lifts = torch._C._only_lift_cpu_tensors()
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) passes the mode
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with _Simulated():  # type: ignore[no-untyped-call]
                yield ELSEWHERE
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts)
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
