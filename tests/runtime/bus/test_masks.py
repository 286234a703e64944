"""Commands against what is legal now; every refusal in full."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kasmina.bus.masks import ActionMask, SiteRows
from kasmina_generated import tables
from kasmina_generated.lifecycle import Event, State
from kasmina_generated.messages.types import (
    Cancel,
    Command,
    Germinate,
    Pause,
    Query,
    Refused,
    Rollback,
    SetStrategy,
    Target,
)

EVENT_OF = {"Germinate": "request_germination", "Cancel": "cancel", "Rollback": "emergency"}
STATES = (State.DORMANT, State.TRAINING, State.FOSSILIZED, State.DORMANT, State.CULLED)


def mask() -> ActionMask:
    """Two sites of the generated lifecycle: rows 0 to 2 and 3 to 4."""
    return ActionMask(
        run="digits-7",
        sites={"encoder.0": SiteRows(0, 3), "encoder.1.block": SiteRows(3, 2)},
        legal=tables.LEGAL_COMMANDS[np.array(STATES)],
        events=[event.name for event in Event],
        states=[state.name for state in STATES],
        generations=np.array([0, 4, 0, 0, 1]),
        event_of=EVENT_OF,
    )


def germinate(**target: Any) -> Germinate:
    """The command for a target."""
    return Germinate(run="digits-7", target=Target(**target))


@pytest.mark.parametrize(
    "command",
    [
        germinate(site="encoder.0", slot=0),
        germinate(site="encoder.0", slot=0, generation=0),
        germinate(site="encoder.0"),
        germinate(layer="encoder"),
        germinate(layer="encoder.1"),
        germinate(),
        Cancel(run="digits-7", target=Target(site="encoder.0", slot=1, generation=4)),
        Rollback(run="digits-7", target=Target()),
        Pause(run="digits-7"),
        Query(run="digits-7", target=Target(site="encoder.0")),
        SetStrategy(run="digits-7", target=Target(layer="encoder"), strategy="linear"),
    ],
)
def test_what_is_legal_for_one_of_the_seeds_is_accepted(command: Command) -> None:
    """By seed, site, layer and run; what is about no seed's state too."""
    assert mask()(command) is None


NAMES = "there is no site 'encoder.O'; did you mean 'encoder.0'?"


@pytest.mark.parametrize(
    ("command", "reason", "detail"),
    [
        (Pause(run="digits-8"), "unknown_run", "this is run 'digits-7' and not 'digits-8'"),
        (germinate(site="encoder.O"), "unknown_site", NAMES),
        (
            germinate(site="zzz"),
            "unknown_site",
            "there is no site 'zzz'; there are 'encoder.0', 'encoder.1.block'",
        ),
        (
            germinate(layer="encode"),
            "unknown_site",
            "there is no layer 'encode'; did you mean 'encoder'?",
        ),
        (
            germinate(site="encoder.0", slot=3),
            "unknown_seed",
            "site 'encoder.0' has slots 0 to 2, and no slot 3",
        ),
        (
            germinate(site="encoder.0", slot=2**62),
            "unknown_seed",
            f"site 'encoder.0' has slots 0 to 2, and no slot {2**62}",
        ),
        (
            germinate(site="encoder.0", slot=1, generation=3),
            "stale",
            "encoder.0[1] is in life 4, and the command is for life 3: look at it again",
        ),
        (
            germinate(site="encoder.0", layer="encoder"),
            "malformed",
            "the target names a site and a layer: give one",
        ),
        (germinate(slot=1), "malformed", "the target names a slot and no site"),
        (
            SetStrategy(run="digits-7", target=Target(site="x"), strategy="linear"),
            "unknown_site",
            "there is no site 'x'; there are 'encoder.0', 'encoder.1.block'",
        ),
    ],
)
def test_what_does_not_exist_is_named(command: Command, reason: str, detail: str) -> None:
    """With names that are near."""
    refused = mask()(command)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.detail) == (reason, detail)


def test_what_is_illegal_tells_state_and_legal_events() -> None:
    """Of the seed, and where a site is meant of one of its seeds."""
    refused = mask()(germinate(site="encoder.0", slot=1))
    assert refused is not None
    assert (refused.reason, refused.state) == ("illegal", "TRAINING")
    assert "cancel" in refused.legal
    assert "request_germination" not in refused.legal
    takes = ", ".join(refused.legal)
    assert refused.detail == (
        f"request_germination is not legal: the seed is in TRAINING, which takes {takes}"
    )
    kept = mask()(Cancel(run="digits-7", target=Target(site="encoder.0", slot=2)))
    assert kept is not None
    assert kept.detail == "cancel is not legal: the seed is in FOSSILIZED, which takes nothing"
    none = ActionMask(
        "r", {"s": SiteRows(0, 2)}, np.zeros((2, 1), bool), ["cancel"], ["A", "B"],
        np.zeros(2, int), EVENT_OF,
    )(Cancel(run="r", target=Target(site="s")))  # fmt: skip
    assert none is not None
    assert none.detail == (
        "cancel is not legal: none of the 2 seeds allows it; one is in A, which takes nothing"
    )


def test_an_event_that_the_lifecycle_lacks_is_named() -> None:
    """Another spec may have no such command."""
    other = ActionMask(
        "r", {"s": SiteRows(0, 1)}, np.ones((1, 1), bool), ["begin"], ["A"], np.zeros(1, int),
        EVENT_OF,
    )  # fmt: skip
    refused = other(Cancel(run="r", target=Target()))
    assert refused is not None
    assert refused.detail == "there is no event 'cancel'; there are 'begin'"
