"""When and where the heuristic controller germinates."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from kasmina.control import TamiyoController
from kasmina.control.tamiyo import TamiyoConfig
from kasmina.errors import KasminaError
from kasmina.growth import KindOffer, Observation, Proposal, SeedTable, SiteObservation

AT_ONCE = TamiyoConfig(first=0)
COMMANDS = ("emergency", "cancel", "request_germination")


def _site(
    path: str, first: int, ratio: float = 1.0, cost: int = 100, **more: Any
) -> SiteObservation:
    return SiteObservation(
        path=path,
        placement="parallel",
        first_row=first,
        seeds=2,
        kinds=(KindOffer("mlp", cost, 2 * cost),),
        rewinds=0,
        embargoed=more.get("embargoed", False),
        gradient_ratio=ratio,
        bottleneck=more.get("bottleneck", ratio),
    )


def _observe(
    epoch: int,
    loss: float = 1.0,
    *,
    parameters: int = 1000,
    budget: int | None = 1400,
    sites: tuple[SiteObservation, ...] | None = None,
    busy: int = 0,
    epochs: int | None = 100,
) -> Observation:
    places = sites or (_site("a", 0), _site("b", 2, ratio=3.0))
    n = 2 * len(places)
    return Observation(
        epoch=epoch,
        epochs=epochs,
        step=10 * epoch,
        train_loss=loss,
        validation_loss=loss,
        validation_metric=0.5,
        parameters=parameters,
        budget=budget,
        sites=places,
        seeds=SeedTable(
            state=np.zeros(n, np.int8),
            epochs=np.zeros(n, np.int16),
            generation=np.zeros(n, np.int32),
            alpha=np.zeros(n, np.float32),
            holds_blueprint=np.zeros(n, np.bool_),
            mean=np.zeros(n, np.float32),
            deviation=np.ones(n, np.float32),
            nonfinite=np.zeros(n, np.int64),
        ),
        commands=COMMANDS,
        busy=busy,
    )


def _mask(seen: Observation) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return np.ones((len(seen.seeds.state), len(COMMANDS)), np.bool_)


def _propose(tamiyo: TamiyoController, seen: Observation) -> Proposal:
    return tamiyo.propose(seen, _mask(seen))


def test_the_first_wave_comes_after_the_warm_up() -> None:
    """The narrowest site comes first, and each has its share of what the wave may spend."""
    tamiyo = TamiyoController(TamiyoConfig(first=0, warm_up=2, wave=0.5))
    assert _propose(tamiyo, _observe(1)).reason == "warming up: epoch 1 of 2"
    proposal = _propose(tamiyo, _observe(2))
    assert [command.row for command in proposal.commands] == [2, 0]
    assert {command.event for command in proposal.commands} == {"request_germination"}
    assert "room to grow at b, bottleneck 3" in proposal.commands[0].reason


def test_a_network_that_gets_better_is_left_alone() -> None:
    """A later wave needs a plateau."""
    tamiyo = TamiyoController(TamiyoConfig(first=0, warm_up=0, patience=2))
    _propose(tamiyo, _observe(0, 1.0))
    for epoch, loss in enumerate((0.9, 0.8, 0.7), start=1):
        proposal = _propose(tamiyo, _observe(epoch, loss))
        assert not proposal.commands
        assert "no better validation for 0 epochs" in proposal.reason


def test_a_plateau_starts_a_wave() -> None:
    """`patience` epochs without a clearly better loss."""
    tamiyo = TamiyoController(TamiyoConfig(first=0, warm_up=0, patience=2))
    _propose(tamiyo, _observe(0, 1.0))
    found = [bool(_propose(tamiyo, _observe(e, 1.0, parameters=1100)).commands) for e in (1, 2, 3)]
    assert found == [False, False, True]


def test_waves_that_add_nothing_make_it_patient() -> None:
    """After a failure the next plateau must last `back_off` times as long."""
    tamiyo = TamiyoController(TamiyoConfig(first=0, warm_up=0, patience=1, back_off=3))
    assert _propose(tamiyo, _observe(0)).commands
    found = [e for e in range(1, 60) if _propose(tamiyo, _observe(e)).commands]
    assert found == [4, 14]
    assert _propose(tamiyo, _observe(43)).reason == (
        "no site is worth its price: 3 waves in a row have added nothing"
    )


def test_nothing_germinates_while_a_wave_is_under_way() -> None:
    """One wave, one cohort."""
    assert _propose(TamiyoController(AT_ONCE), _observe(2, busy=3)).reason == "3 seeds under way"


def test_late_seeds_could_not_be_judged() -> None:
    """After the last share of the run nothing starts."""
    proposal = _propose(TamiyoController(TamiyoConfig(first=0, last=0.6)), _observe(61))
    assert proposal.reason == "too late to judge a new seed: epoch 61 of 100"


def test_the_budget_holds() -> None:
    """A seed that would exceed it is not asked for, and the reason says what is left."""
    proposal = _propose(TamiyoController(AT_ONCE), _observe(2, budget=1099))
    assert proposal.commands == ()
    assert proposal.reason == "budget: 99 parameters left, the cheapest seed costs 100"


@pytest.mark.parametrize("budget", [1100, 1150, 1199])
def test_a_wave_may_spend_the_last_of_the_budget_on_one_seed(budget: int) -> None:
    """The share rounds up to one seed where there is room for one."""
    assert len(_propose(TamiyoController(AT_ONCE), _observe(2, budget=budget)).commands) == 1


def test_without_a_budget_every_free_seed_may_grow() -> None:
    """No bound means no bound."""
    assert len(_propose(TamiyoController(AT_ONCE), _observe(2, budget=None)).commands) == 4


def test_sites_without_permission_are_passed_over() -> None:
    """Embargoed sites and rows that the mask excludes get nothing."""
    seen = _observe(2, budget=None, sites=(_site("a", 0), _site("b", 2, embargoed=True)))
    mask = _mask(seen)
    mask[0] = False
    proposal = TamiyoController(AT_ONCE).propose(seen, mask)
    assert [command.row for command in proposal.commands] == [1]


def test_when_no_seed_is_free_the_reason_says_so() -> None:
    """The mask forbids all."""
    seen = _observe(2)
    proposal = TamiyoController(AT_ONCE).propose(seen, np.zeros_like(_mask(seen)))
    assert (
        proposal.reason == "no seed may germinate: none is free, or too little of the run is left"
    )


def test_its_memory_comes_back() -> None:
    """After a rewind it decides as it did before."""
    first, second = TamiyoController(AT_ONCE), TamiyoController(AT_ONCE)
    for epoch in range(5):
        _propose(first, _observe(epoch))
    second.load_state_dict(first.state_dict())
    assert _propose(first, _observe(6)) == _propose(second, _observe(6))


def test_of_kinds_that_compete_one_candidate_each_germinates() -> None:
    """The dearest is set aside for them; another round needs room for all of them again."""
    kinds = (KindOffer("a", 100, 1), KindOffer("b", 300, 1), KindOffer("c", 2000, 1))
    site = replace(_site(".", 0), seeds=8, kinds=kinds)
    seen = _observe(2, sites=(site,), budget=2400)
    more = {f.name: np.repeat(getattr(seen.seeds, f.name)[:1], 8) for f in fields(SeedTable)}
    seen = replace(seen, seeds=SeedTable(**more))
    tamiyo = TamiyoController(TamiyoConfig(first=0, wave=0.5))
    proposal = tamiyo.propose(seen, np.ones((8, len(COMMANDS)), np.bool_))
    assert [(c.row, c.blueprint) for c in proposal.commands] == [
        (0, "a"),
        (1, "b"),
        (2, "a"),
        (3, "b"),
    ]
    assert proposal.reason.endswith("; 800 of 2400 parameters left")


def test_inline_seeds_of_several_kinds_all_count() -> None:
    """Each has a chunk of its own, so they do not compete and all of them may stay."""
    kinds = (KindOffer("a", 100, 1), KindOffer("b", 300, 1))
    site = replace(_site(".", 0), placement="inline", kinds=kinds)
    proposal = TamiyoController(AT_ONCE).propose(
        _observe(2, sites=(site,), budget=1800), np.ones((2, len(COMMANDS)), np.bool_)
    )
    assert proposal.reason.endswith("; 400 of 1800 parameters left")


def test_sites_are_ranked_as_asked() -> None:
    """By what is measured of each; a site of which nothing is known comes last."""
    wide = _site("a", 0, ratio=3.0, bottleneck=0.1)
    narrow = _site("b", 2, ratio=1.0, bottleneck=0.5)
    unknown = _site("c", 4, ratio=9.0, bottleneck=math.nan)
    seen = _observe(2, sites=(wide, narrow, unknown), budget=1100)
    first = {
        rank: _propose(TamiyoController(TamiyoConfig(first=0, rank=rank)), seen).commands[0].row
        for rank in ("bottleneck", "gradient_ratio")
    }
    assert first == {"bottleneck": 2, "gradient_ratio": 4}
    drawn = {
        _propose(
            TamiyoController(TamiyoConfig(first=0, rank="random", warm_up=e)),
            replace(seen, epoch=e),
        )
        .commands[0]
        .row
        for e in range(20)
    }
    assert drawn == {0, 2, 4}


def test_a_kind_that_is_far_dearer_than_others_is_not_tried() -> None:
    """More than `dearest` times the FLOPs of the cheapest kind of the site."""
    kinds = (KindOffer("a", 100, 10), KindOffer("b", 100, 200), KindOffer("c", 100, 201))
    site = replace(_site(".", 0), seeds=2, kinds=kinds)
    proposal = _propose(
        TamiyoController(TamiyoConfig(first=0, dearest=20)), _observe(2, sites=(site,))
    )
    assert [command.blueprint for command in proposal.commands] == ["a", "b"]


def test_a_share_of_the_run_goes_by_before_the_first_wave() -> None:
    """Of the planned epochs; where none are planned, the warm-up alone."""
    tamiyo = TamiyoController(TamiyoConfig(first=0.3, steps_left=0, warm_up=2))
    assert _propose(tamiyo, _observe(29)).reason == "warming up: epoch 29 of 30"
    assert _propose(tamiyo, _observe(30)).commands
    tamiyo = TamiyoController(TamiyoConfig(first=0.3, warm_up=2))
    assert _propose(tamiyo, _observe(2, epochs=None)).commands


def test_a_short_run_begins_sooner() -> None:
    """So that the steps are left which a seed needs; an epoch has 10 here, and the run 1,000."""
    tamiyo = TamiyoController(TamiyoConfig(first=0.3, steps_left=850, warm_up=2))
    assert _propose(tamiyo, _observe(14)).reason == "warming up: epoch 14 of 15"
    assert _propose(tamiyo, _observe(15)).commands
    again = TamiyoController(TamiyoConfig(first=0.3, steps_left=850, warm_up=2))
    again.load_state_dict(tamiyo.state_dict())
    assert again.wants_scores(15, 100)
    assert not again.wants_scores(14, 100)
    tamiyo = TamiyoController(TamiyoConfig(first=0.3, steps_left=5000, warm_up=2))
    assert _propose(tamiyo, _observe(1)).reason == "warming up: epoch 1 of 2"


def test_cheap_kinds_come_in_crowds() -> None:
    """As many of a kind as its FLOPs allow, one of a dear one; the dearest crowd is set aside."""
    kinds = (KindOffer("thin", 100, 200), KindOffer("dear", 100, 3000))
    site = replace(_site(".", 0), seeds=8, kinds=kinds)
    seen = _observe(2, sites=(site,), budget=1310)
    more = {f.name: np.repeat(getattr(seen.seeds, f.name)[:1], 8) for f in fields(SeedTable)}
    seen = replace(seen, seeds=SeedTable(**more))
    tamiyo = TamiyoController(TamiyoConfig(first=0, breadth=4.0))
    proposal = tamiyo.propose(seen, np.ones((8, len(COMMANDS)), np.bool_))
    assert [c.blueprint for c in proposal.commands] == ["thin", "dear", "thin", "thin"]


def test_scores_are_asked_for_only_where_a_wave_may_begin() -> None:
    """At the first wave, on what may become a plateau, and never too late."""
    tamiyo = TamiyoController(TamiyoConfig(first=0.3, steps_left=0, patience=2, last=0.5))
    for epoch in range(30):
        assert not tamiyo.wants_scores(epoch, 100)
        _propose(tamiyo, _observe(epoch, 1 / (1 + epoch)))
    assert tamiyo.wants_scores(30, 100)
    assert _propose(tamiyo, _observe(30, 0.01)).commands
    for epoch in range(31, 60):
        wanted = tamiyo.wants_scores(epoch, 100)
        proposal = _propose(tamiyo, _observe(epoch, 0.01, parameters=1100, budget=1400))
        assert wanted or not proposal.commands
        assert not wanted or epoch <= 50


def test_a_crowd_is_no_larger_than_it_may_be() -> None:
    """However cheap its seeds are."""
    site = replace(_site(".", 0), seeds=8)
    seen = _observe(2, sites=(site,), budget=None)
    more = {f.name: np.repeat(getattr(seen.seeds, f.name)[:1], 8) for f in fields(SeedTable)}
    seen = replace(seen, seeds=SeedTable(**more))
    tamiyo = TamiyoController(TamiyoConfig(first=0, crowd=3))
    assert len(tamiyo.propose(seen, np.ones((8, len(COMMANDS)), np.bool_)).commands) == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"first": 1.0}, "TamiyoConfig(first=1.0): it must be 0 or more and below 1"),
        ({"last": 0}, "TamiyoConfig(last=0): it must be above 0 and at most 1"),
        (
            {"steps_left": math.nan},
            "TamiyoConfig(steps_left=nan): it must be a finite number, 0 or more",
        ),
        (
            {"first": 0.8},
            "TamiyoConfig(first=0.8, last=0.7): nothing would germinate; first must be below last",
        ),
        ({"crowd": 0}, "TamiyoConfig(crowd=0): it must be a finite number, 1 or more"),
        ({"breadth": True}, "TamiyoConfig(breadth=True): it must be a number above 0"),
        (
            {"rank": "nope"},
            "TamiyoConfig(rank='nope'); legal: bottleneck, gradient_ratio, deviation, random",
        ),
    ],
)
def test_settings_out_of_their_range_are_refused(setting: dict[str, Any], message: str) -> None:
    """Before a run, not in its middle."""
    with pytest.raises(KasminaError) as error:
        TamiyoConfig(**setting)
    assert str(error.value) == message
