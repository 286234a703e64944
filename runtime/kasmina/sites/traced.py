"""A site in a compiled graph: one op that is always there, and asks the site what to do.

What is traced must not depend on anything that a step of the lifecycle changes; what the op does
looks at all of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kasmina.kernels.ops import Gradients
from kasmina.kernels.twin import Stacks
from kasmina.sites.diversion import first_tensor, with_first
from kasmina.sites.errors import SiteError
from kasmina.sites.fitting import Fitting
from kasmina.sites.observed import Observed

_is_capturing = torch.cuda.is_current_stream_capturing


class Traced(Observed):
    """The part of a site that the ops of `kernels.ops` know."""

    path: str
    pools: nn.ModuleDict
    alpha: Tensor
    _seat: Tensor
    _input: Fitting
    _output: Fitting
    _fresh: bool  # whether the host's output may be overwritten
    _may_capture: bool  # whether graphs can be captured on the site's device

    def stacks(self) -> Stacks:
        """By kind the parameters of its pool, `[capacity, ...]`."""
        pools = self._modules["pools"]._modules.values()  # type: ignore[union-attr]  # quicker than self.pools
        return [pool.stack() for pool in pools]  # type: ignore[union-attr, operator]

    def _stacked(self, parameters: Sequence[Tensor]) -> Stacks:
        """The parameters of all kinds, one after the other, by kind."""
        rest = iter(parameters)
        return [[next(rest) for _ in pool.parameters()] for pool in self.pools.values()]

    def _traced(self, x: Tensor | None, output: Any) -> Any:
        """`_pass` for a graph that must not depend on anything that a step changes."""
        # Not is_exporting(): the Dynamo of torch 2.11 takes that for true in all that it traces.
        if torch.compiler._is_exporting_flag:
            raise SiteError(
                f"site {self.path!r}: a model with seeds cannot be exported, since what they do changes "
                "from step to step; export kasmina.fold(model)"
            )
        y = first_tensor(output, self)
        parameters = [p for pool in self.pools.values() for p in pool.parameters()]
        grad = torch.is_grad_enabled()
        if self._fresh and not grad and x is None and y.is_contiguous():
            torch.ops.kasmina.grow_(y, self.alpha, parameters, self._seat.shape[1])
            return output
        grown = torch.ops.kasmina.grow(y, x, self.alpha, parameters, self._seat.shape[1], grad)
        return with_first(output, grown)

    def grow(
        self,
        y: Tensor,
        x: Tensor | None,
        alpha: Tensor,
        parameters: Sequence[Tensor],
        out: Tensor,
        grad: bool,
    ) -> None:
        """The body of the op: write the site's output into `out`, contiguous or `y` itself."""
        read = y if x is None else x
        self._input.check(read)
        self._output.check(y)
        again = torch._C._current_graph_task_id() != -1  # a checkpoint runs the pass again
        captured = self._may_capture and _is_capturing()
        due = not again and (self._sampler.due() or (captured and self.sample_every > 0))
        self._write(y, x, alpha, self._stacked(parameters), out, captured, due)
        if again:
            self._seen_again(read.data_ptr())
        elif out is not y:
            self._observe(read, out, grad, read.data_ptr())

    def pull(
        self,
        g: Tensor,
        y: Tensor,
        x: Tensor | None,
        alpha: Tensor,
        parameters: Sequence[Tensor],
    ) -> Gradients:
        """The body of the op's backward pass; arguments as in `grow`, and dL/doutput."""
        self._pulled((y if x is None else x).data_ptr(), g)
        captured = self._may_capture and _is_capturing()
        return self._gradients(g, y, x, alpha, self._stacked(parameters), captured)

    @abstractmethod
    def _write(
        self,
        y: Tensor,
        x: Tensor | None,
        alpha: Tensor,
        stacks: Stacks,
        out: Tensor,
        captured: bool,
        due: bool,
    ) -> None:
        """Write `y` with the active seeds mixed in into `out`; arguments as in `_grown`."""

    @abstractmethod
    def _gradients(
        self,
        g: Tensor,
        y: Tensor,
        x: Tensor | None,
        alpha: Tensor,
        stacks: Stacks,
        captured: bool,
    ) -> Gradients:
        """The gradients of `_write`."""
