"""What a controller sees and says, and how a decision stands in the log."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kasmina.growth
import kasmina_generated.observation as generated
from kasmina.growth import Command, Controller, Idle, Observation, Proposal, Scripted
from kasmina.observe.log import EventLog, Record, read_log
from tests.runtime.growth.gardens import GERMINATE, Bed


class Watcher:
    """A controller that keeps what it sees and germinates one seed."""

    name = "watcher"

    def __init__(self) -> None:
        self.seen: list[Observation] = []

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """Germinate the first seed at the first epoch's end."""
        self.seen.append(copy.deepcopy(observation))
        assert mask.shape == (len(observation.seeds.state), len(observation.commands))
        command = Command(GERMINATE, 0, "it is time", self.name)
        return Proposal((command,) if observation.epoch == 1 else (), "a plan")

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""


@pytest.fixture
def watched(tmp_path: Path) -> tuple[list[Observation], list[Record]]:
    """What a controller saw in three epochs, and the decisions in the log."""
    watcher = Watcher()
    bed = Bed(watcher, log=EventLog(tmp_path / "events.jsonl", "test"), budget=400)
    for _ in range(3):
        bed.epoch()
    records = read_log(tmp_path / "events.jsonl")
    return watcher.seen, [record for record in records if record.kind == "decision"]


@pytest.mark.parametrize("name", generated.RECORDS)
def test_the_classes_are_those_of_the_spec(name: str) -> None:
    """`kasmina.growth` hands on what `observation.yaml` declares."""
    assert getattr(kasmina.growth, name) is generated.RECORDS[name]


def test_a_decision_holds_what_was_seen(
    watched: tuple[list[Observation], list[Record]],
) -> None:
    """Every field of the model and its sites, exactly; of the seeds how many are in which state."""
    seen, decisions = watched
    assert len(seen) == len(decisions) == 3
    for observation, decision in zip(seen, decisions, strict=True):
        assert decision["schema"] == "observation@2"
        assert decision["observation"] == observation.to_plain(without=("seeds",))
        assert sum(decision["states"].values()) == len(observation.seeds.state) == 4
    assert [decision["states"] for decision in decisions[:2]] == [
        {"DORMANT": 4},
        {"DORMANT": 3, "GERMINATED": 1},
    ]


def test_a_decision_says_what_was_done_and_why(
    watched: tuple[list[Observation], list[Record]],
) -> None:
    """Beside the number of commands that were legal."""
    _, decisions = watched
    address = {"site": ".", "slot": 0, "generation": 0}
    assert decisions[0]["action"] == [{"event": GERMINATE, **address, "blueprint": None}]
    assert [decision["action"] for decision in decisions[1:]] == [[], []]
    assert {(d["controller"], d["reason"]) for d in decisions} == {("watcher", "a plan")}
    assert all(decision["legal"] > 0 for decision in decisions)


def test_a_log_can_be_learned_from(watched: tuple[list[Observation], list[Record]]) -> None:
    """A decision's sites are read back as records; with the seeds it is the whole observation."""
    seen, decisions = watched
    for observation, decision in zip(seen, decisions, strict=True):
        logged = decision["observation"]
        sites = [generated.SiteObservation.from_plain(site) for site in logged["sites"]]
        assert [site.to_plain() for site in sites] == logged["sites"]
        whole = Observation.from_plain({**logged, "seeds": observation.seeds.to_plain()})
        assert whole.to_plain() == observation.to_plain()


@pytest.mark.parametrize("controller", [Idle(), Scripted({})])
def test_controllers_without_a_plan(controller: Controller) -> None:
    """They decide nothing, give a reason, and have nothing to keep."""
    watcher = Watcher()
    Bed(watcher).epoch()
    (seen,) = watcher.seen
    mask = np.ones((4, len(seen.commands)), np.bool_)
    proposal = controller.propose(seen, mask)
    assert proposal.commands == ()
    assert proposal.reason
    assert controller.state_dict() == {}
    controller.load_state_dict({})


def test_a_script_is_indexed_by_the_epoch() -> None:
    """Other epochs' commands stay where they are."""
    watcher = Watcher()
    Bed(watcher).epoch()
    (seen,) = watcher.seen
    command = Command(GERMINATE, 2, "by hand")
    script = Scripted({1: [command], 2: []})
    mask = np.ones((4, len(seen.commands)), np.bool_)
    assert script.propose(seen, mask) == Proposal((command,), "script")
