"""All seeds of a model: the module that stands in it under the reserved name `kasmina`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from kasmina.lifecycle import (
    CommandQueue,
    InvalidUpdate,
    LogicalSeed,
    StateTensor,
    generator,
)
from kasmina.sites.census import Census
from kasmina.sites.errors import SiteError
from kasmina.sites.layer import SiteLayer, detours
from kasmina.sites.plan import Reading
from kasmina.sites.site import Site
from kasmina.sites.telemetry import Telemetry

RESERVED = "kasmina"


class Garden(Census):
    """The sites of one model and the state of all their seeds.

    Only the sites and pools are submodules; the host is not. In a state dict everything is under
    `kasmina.`: the pools' parameters, and one entry a column under `kasmina.state.`.

    A model that is an nn.Sequential calls all its submodules in turn, the garden as the last one;
    so calling a garden gives back what it was given.

    Attributes:
        state: every seed, one row each; a site owns `[first_row, first_row + n_seeds)`.
        run: the name of the run, for addresses.
        seed: of the run, for initial values.
        declared: the sites as they were asked for; with them a fresh host is morphed alike.
    """

    def __init__(
        self,
        layers: Sequence[SiteLayer],
        state: StateTensor,
        *,
        run: str,
        seed: int,
        host_parameters: int,
        declared: Sequence[Site] = (),
    ) -> None:
        super().__init__()
        self.state, self.run, self.seed = state, run, seed
        self.declared = tuple(declared)
        self._host_parameters = host_parameters
        self.layers = nn.ModuleDict({key_of(layer.path): layer for layer in layers})
        self.sites = {layer.path: layer for layer in layers}
        self._planned: list[tuple[Tensor, int]] = []  # columns and their versions, when planned
        self._sound: list[tuple[Tensor, int]] = []  # alpha, when it was looked at
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]
        self.refresh()

    @classmethod
    def of(cls, model: nn.Module) -> Garden:
        """The garden of a morphed model, or of a module that holds one.

        Raises:
            SiteError: there is none, or a module of a site was replaced or renamed after `morph`.
        """
        found = next((m for m in model.modules() if isinstance(m, Garden)), None)
        if found is None:
            raise SiteError(
                f"{type(model).__name__} has no seeds; call kasmina.morph(model, sites=[...]) first"
            )
        if found is not model:
            found._refuse_replaced(model)
        return found

    def host(self, model: nn.Module) -> nn.Module:
        """The module that was morphed, `model` or one inside; names of sites begin there.

        Raises:
            SiteError: modules were removed or renamed after `morph`.
        """
        for module in model.modules():
            if module._modules.get(RESERVED) is self:
                return module
        raise SiteError(
            f"the seeds no longer stand under {RESERVED!r}: modules of the model were removed or "
            "renamed after morph(). Change the model first, then morph it"
        )

    def _refuse_replaced(self, model: nn.Module) -> None:
        parts = dict(self.host(model).named_modules())
        passed = Counter(id(site) for module in parts.values() for site in detours(module))
        for path, site in self.sites.items():
            ends = set(site.span)
            here = [parts[name] for name in ends & parts.keys()]
            # A forward that somebody put over ours may well call it.
            wrapped = any("forward" in vars(m) and not any(detours(m)) for m in here)
            if passed[id(site)] < len(ends) and not wrapped:
                raise SiteError(
                    f"site {path!r}: module {' or '.join(map(repr, sorted(ends)))} was replaced or "
                    "removed after morph(), so its seeds act nowhere. Change the model first, then "
                    "morph it"
                )

    def __call__(self, x: Any) -> Any:
        """`x` itself; without the detour by `forward` and hooks, which costs 1 us in each pass."""
        return x

    def train(self, mode: bool = True) -> Self:
        """Change the mode of the garden alone: sites and pools do the same in both."""
        self.training = mode
        return self

    def seeds(self, queue: CommandQueue) -> list[LogicalSeed]:
        """A view on every seed; what they are asked for goes into `queue`."""
        return [
            LogicalSeed(self.state, site.first_row + slot, self.run, site.path, slot, queue)
            for site in self.sites.values()
            for slot in range(site.n_seeds)
        ]

    # What the lifecycle's step changes.

    def refresh(self) -> bool:
        """Take over what a step, an effect or a ramp has written; forgets dL/dalpha.

        Call it after every change of the state tensor that the next pass shall see. An alpha that is
        no number acts as 0, and one outside of [0, 1] as the nearer end.

        Returns:
            Whether there may be another plan now, since not alpha alone was written.
        """
        columns = [
            self.state.codes,
            *(self.state[name] for name in ("blueprint_id", "blueprint_slot")),
        ]
        planned = [(column, column._version) for column in columns]
        written = not _same(planned, self._planned)
        if written:
            self._replan(Reading.of(self.state))
            self._planned = planned
        alpha = self._alpha()  # identity where it is NaN, which `nonfinite` tells
        for site in self.sites.values():
            site.reload_alpha(alpha)
        return written

    def _alpha(self) -> Tensor:
        return self.state["alpha"].nan_to_num(nan=0.0).clamp(0, 1)

    def _replan(self, reading: Reading) -> None:
        """Let all sites act by a reading, or none of them."""
        checked = [(site, site.check(reading)) for site in self.sites.values()]
        with torch.inference_mode(False):  # whose tensors could not be used in training later
            for site, own in checked:
                site.replan(own)

    @contextmanager
    def trial(self, rows: Tensor) -> Iterator[None]:
        """Inside, the seeds `rows`, which hold blueprints, are mixed in at alpha 1.

        The state tensor is not written, and what they put out is not held against them.
        """
        nonfinite = [site.nonfinite.clone() for site in self.sites.values()]
        self._planned = []
        self._replan(Reading.of(self.state).showing(rows.cpu().numpy()))
        alpha = self._alpha()
        alpha[rows] = 1
        for site in self.sites.values():
            site.reload_alpha(alpha)
        try:
            yield
        finally:
            for site, before in zip(self.sites.values(), nonfinite, strict=True):
                site.nonfinite.copy_(before)
            self.refresh()

    def allocate(self, row: int) -> int:
        """Give a seed a fresh row of its blueprint's pool; returns the row.

        Its kind is in the column `blueprint_id`, the first one where that is -1.

        Raises:
            PoolFull: there is no memory; nothing was changed.
        """
        site = self.site_of(row)
        kind = max(int(self.state["blueprint_id"][row]), 0)
        address = self.address(row)
        fresh = generator(self.seed, site.path, address.slot, address.generation, "initialise")
        taken = site.pool(kind).allocate(fresh)
        site.nonfinite[address.slot] = 0
        self.state.update([row], {"blueprint_id": kind, "blueprint_slot": taken, "alpha": 0.0})
        return taken

    def release(self, row: int) -> None:
        """Take a seed's pool row back, if it holds one, and zero it."""
        held, site = int(self.state["blueprint_slot"][row]), self.site_of(row)
        if held < 0:
            return
        site.pool(int(self.state["blueprint_id"][row])).free(held)
        site.nonfinite[row - site.first_row] = 0
        self.state.update([row], {"blueprint_id": -1, "blueprint_slot": -1, "alpha": 0.0})

    # What growth reads; tensors are [N], in the order of the state tensor.

    def alpha_gradient(self) -> Tensor:
        """dL/dalpha of every seed since `refresh`; 0 for seeds that are not mixed in."""
        return torch.cat([site.alpha_gradient() for site in self.sites.values()])

    def nonfinite(self) -> Tensor:
        """Elements that each seed's blueprint put out and that were not finite, int64.

        An alpha that is NaN, which acts like 0, counts as one more.
        """
        return (
            torch.cat([site.nonfinite for site in self.sites.values()])
            + self.state["alpha"].isnan()
        )

    def any_nonfinite(self) -> bool:
        """Whether a seed that is mixed in may have put out what is not finite; cheap to ask."""
        active = [site for site in self.sites.values() if site.plan.active]
        return any(bool(site.nonfinite.any()) for site in active) or (
            bool(active) and self._alpha_is_lost()
        )

    def _alpha_is_lost(self) -> bool:
        """Whether an alpha is NaN; looked at again once it was written."""
        alpha = self.state["alpha"]
        if not _same([(alpha, alpha._version)], self._sound):
            if bool(alpha.isnan().any()):
                return True
            self._sound = [(alpha, alpha._version)]
        return False

    def telemetry(self) -> Telemetry:
        """The last sample of every seed."""
        samples = [site.telemetry() for site in self.sites.values()]
        return Telemetry(
            *(
                torch.cat([getattr(sample, name) for sample in samples])
                for name in Telemetry.__dataclass_fields__
            )
        )

    def pool_parameters(self) -> dict[str, nn.Parameter]:
        """Every pool's stacked parameters by their name in this module."""
        return dict(self.named_parameters())

    def signature(self) -> tuple[tuple[str, str, int], ...]:
        """How many seeds of which kind are mixed in where; equal ones cost a pass the same."""
        return tuple(
            (site.path, part.kind, len(part.slots))
            for site in self.sites.values()
            for part in site.plan.active
        )

    # Torch's own ways to move, save and load a module.

    def _replicate_for_data_parallel(self) -> Garden:
        raise SiteError(
            "nn.DataParallel makes copies of a model for one pass, whose seeds would be lost; use one "
            "device, or torch.nn.parallel.DistributedDataParallel"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Garden:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = next(iter(self.sites.values())).nonfinite.device
        if self.state.device != device:
            self.state.to(device)
            self.refresh()
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, column in self.state.snapshot().columns.items():
            destination[f"{prefix}state.{name}"] = column

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        keys = {f"{prefix}state.{name}": name for name in self.state.columns}
        unexpected_keys[:] = [key for key in unexpected_keys if key not in keys]
        missing = [key for key in keys if key not in state_dict]
        missing_keys += missing
        if missing:
            return
        try:
            self.state.update(slice(None), {name: state_dict[key] for key, name in keys.items()})
        except InvalidUpdate as error:
            error_msgs.append(f"{prefix}state: {error}")


def _same(one: list[tuple[Tensor, int]], other: list[tuple[Tensor, int]]) -> bool:
    """Whether both are the same tensors, not written since; costs 1 us and no look at values."""
    return len(one) == len(other) and all(
        a is b and version == seen for (a, version), (b, seen) in zip(one, other, strict=True)
    )


def key_of(path: str) -> str:
    """A site's path as the name of a submodule, in which torch allows no dots."""
    return "/" + path.replace(".", "/")


def _after_loading(garden: Garden, _: Any) -> None:
    garden.refresh()
