"""One decision of a Gardener's controller: what it sees, what it may do, what it proposes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kasmina.errors import KasminaError
from kasmina.growth.contest import TOO_LATE
from kasmina.growth.controller import Proposal
from kasmina.growth.observation import action_mask, observe

if TYPE_CHECKING:
    from kasmina.growth.gardener import Gardener


def propose(gardener: Gardener) -> Proposal:
    """Ask the controller at an epoch's end, and log what it saw and decided.

    Raises:
        KasminaError: it proposes what the mask forbids.
    """
    seen = observe(
        gardener.garden,
        gardener.clock,
        gardener.ledger,
        gardener.validation,
        budget=gardener.config.budget,
        epochs=gardener.config.epochs,
        parameters=gardener.parameters(promised=True),
        rewinds=gardener.effects.rewinds,
        embargoed=gardener.embargoed,
    )
    mask = action_mask(gardener.garden, gardener.closed)
    proposal = gardener.controller.propose(seen, mask)
    _refuse_illegal(gardener, proposal, mask)
    gardener.journal.decision(seen, int(mask.sum()), proposal, gardener.controller.name)
    return proposal


def _refuse_illegal(gardener: Gardener, proposal: Proposal, mask: NDArray[np.bool_]) -> None:
    garden = gardener.garden
    for command in proposal.commands:
        if not mask[command.row, garden.state.lifecycle.event(command.event)]:
            why = f": {TOO_LATE}" if gardener.ending.forbids_germination() else ""
            raise KasminaError(
                f"controller '{gardener.controller.name}' proposed '{command.event}' for "
                f"{garden.address(command.row)} in state {garden.state.state(command.row).name}, "
                f"which the action mask forbids{why}"
            )
