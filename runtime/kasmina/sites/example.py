"""One run of an example through the host, to see which tensors pass where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kasmina.sites.errors import SiteError
from kasmina.sites.shapes import Features, reads, writes

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]


@dataclass(slots=True)
class Seen:
    """What one module was seen to do; shapes are those of the first tensors, None for no tensor."""

    calls: int = 0
    order: int = -1  # of its last return among all returns
    x: torch.Size | None = None
    x_floats: bool = False
    y: torch.Size | None = None
    y_floats: bool = False
    returned: str = ""
    told_before: Features | None = None  # by the last module before it that told
    told_after: Features | None = None  # by the last one up to its return

    def reads(self, module: nn.Module) -> Features | None:
        """The features of its input."""
        return _features(self.x, reads(module) or self.told_before)

    def writes(self, module: nn.Module) -> Features | None:
        """The features of its output."""
        return _features(self.y, writes(module) or self.told_after)


def _features(shape: torch.Size | None, told: Features | None) -> Features | None:
    """What was told, if the shape bears it out; else by the number of axes.

    Two axes are examples and features, four and more are examples, channels and positions. Three
    are taken as examples, sequence and features unless a module has told otherwise.
    """
    if shape is None or not shape:
        return None
    if told is not None and len(shape) > 2 and told.number == shape[told.axis]:
        return told
    channels_first = len(shape) > 3
    return Features(shape[1 if channels_first else -1], channels_first)


def run(model: nn.Module, example: Example, watched: Iterable[nn.Module]) -> dict[int, Seen]:
    """Run `example` once in evaluation mode, without gradients and without a trace.

    Training flags, buffers and random streams are as before afterwards.

    Returns:
        What was seen of each of `watched`, by `id`.

    Raises:
        SiteError: the model cannot run it.
    """
    seen = {id(module): Seen() for module in watched}
    watch = _Watch(seen)
    with ExitStack() as stack:
        stack.enter_context(untouched(model))
        for module in model.modules():
            for handle in watch.hooks(module):
                stack.callback(handle.remove)
        try:
            called(model, example)
        except Exception as error:
            raise SiteError(
                f"the model cannot run its example: {type(error).__name__}: {error}. Give one batch "
                "as the model takes it: a tensor, a tuple of arguments or a mapping of keywords"
            ) from error
    return seen


def called(model: nn.Module, example: Example) -> Any:
    """What the model gives for an example."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*(example if isinstance(example, tuple) else (example,)))


class _Watch:
    """The hooks of one run."""

    def __init__(self, seen: dict[int, Seen]) -> None:
        self._seen = seen
        self._told: Features | None = None
        self._returns = 0

    def hooks(self, module: nn.Module) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """Register on `module`."""
        if id(module) in self._seen:
            yield module.register_forward_pre_hook(self._before, with_kwargs=True)
        yield module.register_forward_hook(self._after)

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        seen = self._seen[id(module)]
        first = args[0] if args else next(iter(kwargs.values()), None)
        seen.calls += 1
        if isinstance(first, Tensor):
            seen.x, seen.x_floats = first.shape, first.is_floating_point()
        seen.told_before = self._told

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self._returns += 1
        self._told = writes(module) or self._told
        seen = self._seen.get(id(module))
        if seen is None:
            return
        first = output[0] if isinstance(output, tuple) and output else output
        seen.order, seen.returned = self._returns, type(output).__name__
        seen.told_after = self._told
        if isinstance(first, Tensor):
            seen.y, seen.y_floats = first.shape, first.is_floating_point()


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside; everything as it was after."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = list({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for buffer, value in buffers:
                buffer.copy_(value)
