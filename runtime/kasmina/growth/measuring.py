"""What a Gardener measures: the validation of an epoch, and the context that guards read."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from kasmina.growth.flops import FlopMeter
from kasmina.growth.gates import Readings, gates_for
from kasmina.growth.observation import busy
from kasmina.growth.validation import Validate, Validation, Validator, refuse_nan
from kasmina.lifecycle import ContextTable
from kasmina.sites import Recorder

if TYPE_CHECKING:
    from kasmina.growth.gardener import Gardener


class Measuring:
    """Measures for one Gardener.

    Args:
        gardener: which.
        validate: as the Gardener was given it.
        agree: called on every tick's context; None takes it as it is.

    Attributes:
        begun: whether an epoch was measured, so that validation is known to tell something.

    Raises:
        KasminaError: the spec has a context field that no gate fills.
    """

    def __init__(
        self,
        gardener: Gardener,
        validate: Validate,
        agree: Callable[[ContextTable], ContextTable] | None,
    ) -> None:
        self._gardener, self.agree = gardener, agree
        self.validator = Validator(gardener.model, validate)
        self.begun = self._one_number = self._lost = False
        self._gates = gates_for(gardener.garden.state.lifecycle.context_fields)
        self._recorders = {path: Recorder(site) for path, site in gardener.garden.sites.items()}

    @property
    def by_parts(self) -> bool:
        """Whether a seed is on trial, or may be soon: then parts of the validation loss count."""
        gardener = self._gardener
        return not self._one_number and ("shadow" in gardener.planes or gardener.trial.is_on)

    @contextmanager
    def one_number(self) -> Iterator[None]:
        """Inside, what is measured is asked for the mean of the validation loss alone."""
        self._one_number = True
        try:
            yield
        finally:
            self._one_number = False

    def measure(self, *, first: bool = False, counted: bool = True) -> Validation:
        """One validation pass of the model as it stands.

        Args:
            first: make sure that an example passes the sites.
            counted: whether its FLOPs are a cost of growing.
        """
        gardener = self._gardener
        key = ("validate", gardener.garden.signature())
        counter = gardener.meter.forward(key, FlopMeter.EVALUATE) if counted else nullcontext()
        with counter:
            return self.validator.first() if first else self.validator.measure()

    def epoch(self) -> Validation:
        """The same at an epoch's end, with what passes the sites where someone will read it.

        While no seed is under way it is what every training run does at an epoch's end, and no part
        of what growing costs.

        Warns (`RuntimeWarning`, and the log) where the loss becomes NaN and no seed is on trial.

        Raises:
            KasminaError: the first one tells nothing: no example passes a site, or the loss is NaN.
        """
        gardener, first = self._gardener, not self.begun
        if "shadow" not in gardener.planes and not self._compares_sites():
            found = self.measure(first=first, counted=busy(gardener.garden) > 0)
        else:
            key = ("record", gardener.garden.signature())
            with gardener.meter.forward(key, FlopMeter.EVALUATE):  # the backward pass is in it
                found = self.validator.record(self._recorders)
        if first:
            refuse_nan(found)
            self.begun = True
        self._tell_of_nan(found.loss)
        return found

    def _tell_of_nan(self, loss: float) -> None:
        """Warn where validation can judge nothing any more and no cohort will be taken back for it."""
        lost, gardener = math.isnan(loss), self._gardener
        if lost and not self._lost and not gardener.trial.is_on:
            reason = (
                f"validate() returned a loss of nan at step {gardener.clock.step}, where it was "
                f"{gardener.validation.loss:.4g} before, and no seed is on trial: it is the host's own. "
                "While it is nan no seed can pass its gate; look for NaN in the validation data, or a "
                "host that has diverged"
            )
            gardener.journal.write("warning", reason=reason)
            warnings.warn(reason, RuntimeWarning, stacklevel=3)
        self._lost = lost

    def context(self) -> ContextTable:
        """What the guards of a tick read."""
        gardener = self._gardener
        state, contest = gardener.garden.state, gardener.contest
        learned = gardener.aside.judge(gardener.validation)
        on_trial, last = len(gardener.trial.rows()), gardener.ending.is_last_call()
        late = gardener.ending.forbids_grafts()
        standing = contest.standing(learned, on_trial, late=late, last=last)
        readings = Readings(
            state=state,
            validation_loss=gardener.validation.loss,
            stability=gardener.ledger.stability(),
            learned=contest.in_step(learned, standing, last=last),
            score=gardener.judge.score(),
            improvement=gardener.judge.improvement(),
            standing=standing,
        )
        context = ContextTable(len(state), lifecycle=state.lifecycle)
        for name, gate in self._gates.items():
            context.set(slice(None), name, gate(readings))
        return context if self.agree is None else self.agree(context)

    def _compares_sites(self) -> bool:
        """Whether the controller may ask at this epoch's end which site is the narrowest."""
        gardener = self._gardener
        wants = getattr(gardener.controller, "wants_scores", lambda epoch, epochs: True)
        if len(gardener.garden.sites) == 1 or busy(gardener.garden):
            return False
        return bool(wants(gardener.clock.epoch + 1, gardener.config.epochs))
