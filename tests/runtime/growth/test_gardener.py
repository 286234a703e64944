"""A garden lives: whole lives, isolation, withdrawal, rewind."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from kasmina.errors import KasminaError
from kasmina.growth import Command, Gardener, NonFiniteLoss, Proposal, Scripted
from kasmina.lifecycle import ContextTable
from kasmina.observe.log import EventLog, read_log
from kasmina.sites import Site, SiteError, fold
from tests.runtime.growth.gardens import GERMINATE, Bed, assert_same, germinate, host

INLINE = [Site("0", placement="inline", seeds=3, blueprint="affine", mode="replace")]


def test_a_seed_that_helps_is_kept() -> None:
    """From request to fossil, every state on the way, and the network has grown by its cost."""
    bed = Bed(germinate(0))
    before = bed.gardener.parameters()
    seen = []
    for _ in range(60):
        bed.epoch()
        if bed.states[0] not in seen:
            seen.append(bed.states[0])
    assert seen == [
        "GERMINATED",
        "TRAINING",
        "GRAFTING",
        "STABILIZATION",
        "EVALUATING",
        "FINE_TUNING",
        "FOSSILIZED",
    ]
    cost = bed.gardener.garden.site_of(0).pool("mlp").kind.cost().parameters
    assert bed.gardener.parameters() == before + cost
    assert bed.gardener.validation.loss < 0.55


@pytest.mark.parametrize("sites", [None, INLINE], ids=["parallel", "inline replace"])
@pytest.mark.parametrize("clip", [None, 0.1], ids=["free", "clipped"])
def test_until_grafting_a_seed_changes_nothing(
    sites: list[Site] | None, clip: float | None
) -> None:
    """Losses, host parameters, buffers and the random stream equal a run whose seeds sleep."""
    never = {"min_validation_gain": 1.0, "max_reconstruction_loss": 0.0}
    quiet, busy = (
        Bed(controller, sites=sites, clip=clip, limits=never)
        for controller in (None, germinate(0, 1, 2))
    )
    for bed in (quiet, busy):
        torch.manual_seed(3)
        for _ in range(8):
            bed.epoch()
    assert busy.states[:3] == ["TRAINING"] * 3
    assert_same(quiet.host_state(), busy.host_state())


def test_a_nan_in_training_touches_nothing() -> None:
    """A seed that is NaN while it trains aside leaves host and neighbour as they are."""
    never = {"min_validation_gain": 1.0}
    beds = [Bed(germinate(0, 1), limits=never) for _ in range(2)]
    for poisoned, bed in enumerate(beds):
        torch.manual_seed(3)
        for epoch in range(6):
            bed.epoch()
            if poisoned and epoch == 3:
                with torch.no_grad():
                    for parameter in bed.gardener.garden.site_of(0).pool("mlp").stacked().values():
                        parameter[0] = torch.nan
    assert_same(beds[0].host_state(), beds[1].host_state())
    first, second = (bed.gardener.garden.site_of(0).pool("mlp").stacked() for bed in beds)
    for name, parameter in first.items():
        assert torch.equal(parameter[1], second[name][1])
        assert bool(second[name][0].isnan().all())


def test_a_cancelled_graft_is_withdrawn_without_a_jump() -> None:
    """Alpha ramps down, then the row is freed, zeroed and re-armed as a new generation."""
    bed = Bed(germinate(0))
    bed.until("STABILIZATION")
    bed.gardener.request(Command("cancel", 0, "test"))
    bed.epoch()
    assert bed.states[0] == "CANCELLED"
    state = bed.gardener.garden.state
    alphas = [float(state["alpha"][0])]
    while int(state["blueprint_slot"][0]) >= 0:
        bed.batch()
        alphas.append(float(state["alpha"][0]))
    assert alphas[0] == 1.0
    assert alphas[-1] == 0.0
    assert max(before - after for before, after in pairwise(alphas)) < 0.2
    pool = bed.gardener.garden.site_of(0).pool("mlp")
    assert pool.used() == []
    assert not any(parameter.any() for parameter in pool.stacked().values())
    bed.until("DORMANT")
    assert int(state["generation"][0]) == 1


@pytest.mark.parametrize("steps", [0, 3, 21])
def test_a_rewound_run_is_one_that_never_grafted(steps: int) -> None:
    """After an emergency in the graft, host, optimizer and 100 more steps are equal to the bit."""
    grafted, never = Bed(germinate(0, 1), together=6), Bed()
    torch.manual_seed(3)
    grafted.until("GRAFTING")
    kept = grafted.gardener.clock.step
    for _ in range(steps):
        grafted.batch()
    grafted.gardener.request(Command("emergency", 0, "test"))
    grafted.gardener.tick()
    assert grafted.states[:2] == ["ROLLED_BACK", "ROLLED_BACK"]
    assert grafted.gardener.clock.step == kept
    for _ in range(100):
        grafted.batch()
    after = torch.get_rng_state()
    torch.manual_seed(3)
    while never.gardener.clock.step < kept:
        never.epoch()
    for _ in range(100):
        never.batch()
    assert_same(grafted.host_state(), never.host_state())
    assert torch.equal(after, torch.get_rng_state())
    assert grafted.scheduler.state_dict() == never.scheduler.state_dict()


def test_a_nan_in_a_graft_is_taken_back_at_once(tmp_path: Path) -> None:
    """The host never sees it, the cohort is rolled back and the log says who and why."""
    log = EventLog(tmp_path / "events.jsonl", "test")
    bed = Bed(germinate(0, 1), log=log, together=6)
    bed.until("GRAFTING")
    bed.batch()
    with torch.no_grad():
        for parameter in bed.gardener.garden.site_of(0).pool("mlp").stacked().values():
            parameter[0] = torch.inf
    loss = bed.batch()
    assert bool(loss.isfinite())
    assert bed.states[:2] == ["ROLLED_BACK", "ROLLED_BACK"]
    assert all(bool(v.isfinite().all()) for v in bed.host_state().values())
    records = read_log(tmp_path / "events.jsonl")
    (rewind,) = (r for r in records if r.kind == "rewind")
    assert [a["slot"] for a in rewind["addresses"]] == [0, 1]
    command = next(r for r in records if r.kind == "command" and r["source"] == "detector")
    assert command["reason"] == "the blueprint put out a NaN or an infinity"
    assert command.address is not None
    assert command.address.slot == 0


def test_a_nan_loss_takes_the_cohort_back() -> None:
    """The host's own NaN while a cohort is on trial rewinds instead of ending the run."""
    bed = Bed(germinate(0))
    bed.until("GRAFTING")
    bed.batch()
    assert bed.gardener.step(torch.tensor(torch.nan)) is False
    assert bed.states[0] == "ROLLED_BACK"


def test_a_command_changes_no_kind() -> None:
    """A seed of a site's second kind is rewound; its row is given back to that kind's pool."""
    sites = [Site(".", seeds=2, blueprint=("mlp", "gated"), hidden=4)]
    bed = Bed(germinate(0, blueprint="gated"), sites=sites)
    bed.until("GRAFTING")
    pool = bed.gardener.garden.site_of(0).pool("gated")
    assert pool.used() == [0]
    bed.gardener.request(Command("emergency", 0, "test"))
    bed.gardener.tick()
    assert bed.states[0] == "ROLLED_BACK"
    assert pool.used() == []
    bed.until("DORMANT")


def test_a_nan_loss_without_a_cohort_is_the_hosts_own() -> None:
    """Then nothing can be taken back and the message says where to look."""
    bed = Bed()
    with pytest.raises(NonFiniteLoss, match=r"the training loss is nan at step 0 \(epoch 0\)"):
        bed.gardener.step(torch.tensor(torch.nan))


def test_a_site_with_too_many_rewinds_is_left_alone() -> None:
    """After `max_rewinds` the mask lets nothing germinate there."""
    bed = Bed(germinate(0), max_rewinds=1)
    bed.until("GRAFTING")
    bed.gardener.request(Command("emergency", 0, "test"))
    bed.gardener.tick()
    bed.until("DORMANT")
    bed.gardener.controller = Scripted(
        {bed.gardener.clock.epoch + 1: [Command(GERMINATE, 0, "again")]}
    )
    with pytest.raises(KasminaError, match=r"proposed 'request_germination' for test/.*forbids"):
        bed.epoch()


def test_a_pool_that_doubles_keeps_the_run_exact() -> None:
    """Five seeds in a pool of four rows: the optimizer goes on and a rewind across it works."""
    sites = [Site(".", seeds=6, blueprint="mlp", hidden=2)]
    bed = Bed(germinate(0, 1, 2, 3), sites=sites)
    bed.until("GRAFTING")
    bed.gardener.controller = germinate(4, epoch=bed.gardener.clock.epoch + 1)
    bed.until("TRAINING", row=4)
    assert bed.gardener.garden.site_of(0).pool("mlp").capacity == 8
    bed.batch()
    bed.gardener.request(Command("emergency", 0, "test"))
    bed.gardener.tick()
    assert bed.states[0] == "ROLLED_BACK"
    for _ in range(20):
        bed.epoch()


def test_no_memory_refuses_that_germination_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed is cancelled and the reason is in the log; host and other seeds go on."""
    from kasmina.blueprints import BlueprintPool, PoolFull

    def refuse(self: BlueprintPool, capacity: int) -> None:
        raise PoolFull("no memory")

    monkeypatch.setattr(BlueprintPool, "_resize", refuse)
    sites = [Site(".", seeds=6, blueprint="mlp", hidden=2)]
    bed = Bed(germinate(0, 1, 2, 3, 4), sites=sites)
    bed.epoch()
    bed.epoch()
    assert bed.states[:5] == ["TRAINING"] * 4 + ["CANCELLED"]


def test_commands_of_other_threads_wait_for_the_tick() -> None:
    """A request is carried out at the next tick and not before."""
    bed = Bed()
    bed.gardener.request(Command(GERMINATE, 2, "by hand"))
    bed.batch()
    assert bed.states[2] == "DORMANT"
    bed.gardener.tick()
    assert bed.states[2] == "GERMINATED"


def test_an_illegal_command_is_refused_in_the_log(tmp_path: Path) -> None:
    """A user's command that the state does not take changes nothing and says why."""
    bed = Bed(log=EventLog(tmp_path / "events.jsonl", "test"))
    bed.gardener.request(Command(GERMINATE, 0, "first"))
    bed.gardener.tick()
    bed.gardener.request(Command(GERMINATE, 0, "second"))
    bed.gardener.tick()
    (refused,) = (r for r in read_log(tmp_path / "events.jsonl") if r.kind == "refused")
    assert (refused["event"], refused["reason"]) == (GERMINATE, "illegal")


def test_reduce_context_decides_for_all_ranks() -> None:
    """What the hook returns is what the step reads."""
    bed = Bed(germinate(0), limits={"training_patience": 1, "min_validation_gain": 1.0})

    def agree(context: ContextTable) -> ContextTable:
        context.set(slice(None), "validation_gain", 1.0)
        return context

    bed.gardener.measuring.agree = agree
    bed.until("GRAFTING")


def test_two_kinds_grow_at_one_site() -> None:
    """The command names the kind; the row is taken from its pool."""
    sites = [Site(".", seeds=4, blueprint=("mlp", "gated"), hidden=3)]
    bed = Bed(germinate(1, blueprint="gated", strategy="cosine"), sites=sites)
    bed.until("FOSSILIZED", row=1)
    (grown,) = bed.gardener.garden.architecture()
    assert (grown["slot"], grown["blueprint"]) == (1, "gated")


def test_what_has_grown_folds_into_a_plain_model() -> None:
    """Equal outputs, and the parameters that were counted."""
    bed = Bed(germinate(0))
    bed.until("FOSSILIZED")
    bed.model.eval()
    plain = fold(bed.model)
    torch.testing.assert_close(plain(bed.x), bed.model(bed.x), rtol=0, atol=1e-6)
    assert sum(p.numel() for p in plain.parameters()) == bed.gardener.parameters()


def test_a_model_without_seeds_is_refused() -> None:
    """The message says what to call first."""
    model = host()
    with pytest.raises(SiteError, match=r"call kasmina\.morph"):
        Gardener(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            validate=lambda: torch.tensor(0.0),
        )


def test_a_controller_may_also_do_nothing() -> None:
    """An empty proposal is a decision with a reason."""

    class Still(Scripted):
        def propose(self, observation: object, mask: object) -> Proposal:
            return Proposal((), "resting")

    bed = Bed(Still({}))
    bed.epoch()
    assert set(bed.states) == {"DORMANT"}
