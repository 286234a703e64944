"""What is left of a site in a folded model; imports torch only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


def _first(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def _with_first(output: Any, first: Tensor) -> Any:
    if isinstance(output, Tensor):
        return first
    return type(output)(first, *output[1:]) if hasattr(output, "_fields") else (first, *output[1:])


class Chunk(NamedTuple):
    """A slice of the output's features that a branch transforms."""

    start: int
    width: int
    keep: float  # share of the host's value that stays


class _Around(nn.Module):
    """A module in the place of `host`; what it does not have itself it has from there.

    Code that reads `layer.in_features` or `layer.weight` of the module that stood here goes on.
    """

    host: nn.Module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "host":
                raise
            return getattr(self.host, name)


class GrownInline(_Around):
    """The host's module, and branches that each transform a chunk of its output.

    Args:
        host: the module.
        branches: one for each chunk; they read `width` features, the last of them 0 where the
            chunk is narrower.
        chunks: in the order of their starts.
        width: what the branches read.
        axis: of the features in the output.
    """

    def __init__(
        self,
        host: nn.Module,
        branches: Sequence[nn.Module],
        chunks: Sequence[Chunk],
        width: int,
        axis: int,
    ) -> None:
        super().__init__()
        self.host, self.branches = host, nn.ModuleList(branches)
        # Underscored, so that the host's own `features`, `width`, ... are found through it.
        self._chunks, self._width, self._axis = tuple(chunks), width, axis

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the host's."""
        output = self.host(*args, **kwargs)
        y = _first(output)
        pieces, done = [], 0
        for branch, chunk in zip(self.branches, self._chunks, strict=True):
            pieces.append(y.narrow(self._axis, done, chunk.start - done))
            pieces.append(self._transformed(branch, chunk, y))
            done = chunk.start + chunk.width
        pieces.append(y.narrow(self._axis, done, y.shape[self._axis] - done))
        return _with_first(output, torch.cat(pieces, self._axis))

    def _transformed(self, branch: nn.Module, chunk: Chunk, y: Tensor) -> Tensor:
        x = y.narrow(self._axis, chunk.start, chunk.width)
        padded = x
        if chunk.width < self._width:
            padded = torch.cat([x, torch.zeros_like(x.narrow(self._axis, 0, 1))], self._axis)
        made: Tensor = branch(padded).narrow(self._axis, 0, chunk.width)
        return chunk.keep * x + made if chunk.keep else made


class _Beside(_Around):
    """Branches that read an input and add to an output.

    Args:
        branches: what is added.
        features: features of the input, flattened to `[N, features]` for the branches; None
            hands it to them as it is.
    """

    def __init__(self, branches: Sequence[nn.Module], features: int | None) -> None:
        super().__init__()
        self.branches, self._features = nn.ModuleList(branches), features

    def _added(self, x: Tensor, output: Any) -> Any:
        y = _first(output)
        read = x if self._features is None else x.reshape(-1, self._features)
        for branch in self.branches:
            y = y + branch(read).reshape(y.shape)
        return _with_first(output, y)


class GrownParallel(_Beside):
    """The host's module, and branches that read its input and add to its output."""

    def __init__(
        self, host: nn.Module, branches: Sequence[nn.Module], features: int | None
    ) -> None:
        super().__init__(branches, features)
        self.host = host

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the host's."""
        x = args[0] if args else next(iter(kwargs.values()))
        return self._added(x, self.host(*args, **kwargs))


class SpanStart(_Around):
    """The first module of a span that is no module of its own; keeps its input for `SpanEnd`."""

    def __init__(self) -> None:
        super().__init__()
        self.host: nn.Module = nn.Identity()
        self.entered: Tensor | None = None

    def around(self, host: nn.Module) -> SpanStart:
        """Itself, with the module whose input it keeps."""
        self.host = host
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the host's."""
        self.entered = args[0] if args else next(iter(kwargs.values()))
        return self.host(*args, **kwargs)


class SpanEnd(_Beside):
    """The last module of a span, and branches that read what entered the first one."""

    def __init__(
        self,
        host: nn.Module,
        branches: Sequence[nn.Module],
        features: int | None,
        start: SpanStart,
    ) -> None:
        super().__init__(branches, features)
        self.host = host
        self._start = (start,)  # in a tuple, so that it is no submodule of this one

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the host's."""
        output = self.host(*args, **kwargs)
        (start,) = self._start
        x, start.entered = start.entered, None
        assert x is not None
        return self._added(x, output)


PLAIN = (GrownInline, GrownParallel, SpanStart, SpanEnd)
