"""A garden that is saved and brought back lives on as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kasmina.checkpoint import CheckpointManager, Contents
from kasmina.growth import Command, FlopMeter, saving
from kasmina.growth.found import ResumeRefused, newest
from kasmina.growth.saving import Keeper, Saving, regrow
from kasmina.observe.log import EventLog
from kasmina.sites import Garden, Site
from tests.runtime.growth.gardens import Bed, assert_same, germinate, host


def keeper(bed: Bed, manager: CheckpointManager, seeds: int = 4) -> Keeper:
    """What saves a bed; its log is not kept."""
    return Keeper(Saving(manager, 1), bed.gardener, None, {"seeds": {"all": seeds}}, 4)


def bed() -> Bed:
    """Two sites with dropout beside them, and seeds that graft soon."""
    sites = [
        Site(".", seeds=4, blueprint="mlp", hidden=6),
        Site("0", seeds=2, placement="parallel"),
    ]
    return Bed(germinate(0, 2, 5), sites=sites, ramp_steps=6)


def log_of(path: Path) -> Path:
    """A log without an event."""
    EventLog(path / "events.jsonl", "run").close()
    return path / "events.jsonl"


def live(bed: Bed, steps: int) -> list[Tensor]:
    """Make steps, with a tick after each fourth; returns their losses."""
    losses = []
    for _ in range(steps):
        losses.append(bed.batch())
        if bed.gardener.clock.step % 4 == 0:
            bed.gardener.tick()
    return losses


@pytest.mark.parametrize(
    ("steps", "states"),
    [
        (3, {"DORMANT"}),
        (14, {"DORMANT", "TRAINING"}),
        (23, {"DORMANT", "GRAFTING"}),
        (38, {"DORMANT", "EVALUATING"}),
    ],
)
def test_a_garden_goes_on_to_the_bit(tmp_path: Path, steps: int, states: set[str]) -> None:
    """Idle, training aside, amid a ramp, held by a snapshot; and every stream comes back."""
    one, other = bed(), bed()
    with CheckpointManager(tmp_path) as manager:
        live(one, steps)
        assert set(one.states) == states
        keeper(one, manager).save(blocking=True)
        losses, numbers = live(one, 24), torch.rand(3)
        found = newest(manager, log_of(tmp_path))
        assert found is not None
        torch.manual_seed(99)
        keeper(other, manager).resume(found)
    assert live(other, 24) == losses
    assert torch.equal(torch.rand(3), numbers)
    assert_same(other.model.state_dict(), one.model.state_dict())
    assert other.gardener.clock == one.gardener.clock
    assert other.gardener.meter.state_dict() == one.gardener.meter.state_dict()


def test_a_checkpoint_is_due_by_epochs_by_time_and_at_a_graft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second epoch of four steps here; a graft is of high priority."""
    one = bed()
    with CheckpointManager(tmp_path) as manager:
        kept = Keeper(Saving(manager, 2), one.gardener, None, {}, 4)
        for _ in range(22):
            live(one, 1)
            kept.save_if_due()
        manager.flush()
        found = [entry.manifest for entry in reversed(manager.list())]
        assert [(m.metadata["step"], m.priority) for m in found if m] == [
            (8, "normal"),
            (16, "normal"),
            (20, "high"),
        ]
        monkeypatch.setattr(saving, "MOST_S", -1.0)
        live(one, 1)
        kept.save_if_due()
        manager.flush()
        assert len(manager.list()) == 4


def test_what_a_user_has_asked_for_is_kept(tmp_path: Path) -> None:
    """Commands that wait, limits that were changed, samples of the sites."""
    one, other = bed(), bed()
    for _ in range(3):
        one.batch()
    one.gardener.request(Command("request_germination", 1, "by hand", blueprint="mlp"))
    one.gardener.limits.override("max_cohort", 3)
    with CheckpointManager(tmp_path) as manager:
        keeper(one, manager).save(blocking=True)
        found = newest(manager, log_of(tmp_path))
        assert found is not None
        keeper(other, manager).resume(found)
    assert list(other.gardener.queue) == list(one.gardener.queue)
    assert other.gardener.limits["max_cohort"] == 3
    for path, site in one.gardener.garden.sites.items():
        again = other.gardener.garden.sites[path]
        assert str(again.sampling()) == str(site.sampling())
        assert torch.equal(again.telemetry().total, site.telemetry().total)


def test_a_fresh_host_is_grown_again(tmp_path: Path) -> None:
    """By the checkpoint alone: sites, pools that have doubled, rows amid a ramp, weights."""
    sites = [Site(".", seeds=6, blueprint=("mlp", "gated"), hidden=3,
                  options={"mlp": {"activation": "relu"}}),
             Site("0", seeds=2, placement="inline", blueprint="low_rank")]  # fmt: skip
    one = Bed(germinate(0, 1, 2, 3, 4, 6, blueprint=None), sites=sites, ramp_steps=6)
    one.until("GRAFTING")
    live(one, 2)
    with CheckpointManager(tmp_path) as manager:
        keeper(one, manager).save(blocking=True)
        contents = manager.restore().contents()
        manager.save(Contents(parts={"model": {}}))
        foreign = manager.restore().contents()
    again = regrow(host(5), contents)
    assert_same(again.state_dict(), one.model.state_dict())
    for model in (again, one.model):
        model.eval()
    assert torch.equal(again(one.x), one.model(one.x))
    assert not torch.equal(again(one.x), regrow_off(again, one.x))
    with pytest.raises(ResumeRefused, match=r"^the checkpoint says nothing of sites: no run of"):
        regrow(host(5), foreign)


def regrow_off(model: torch.nn.Module, x: Tensor) -> Tensor:
    """What the host alone computes."""
    garden = Garden.of(model)
    garden.state.update(slice(None), {"alpha": 0.0})
    garden.refresh()
    out: Tensor = model(x)
    return out


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    """Each difference is a line, and nothing is loaded."""
    one, other = bed(), bed()
    one.batch()
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    with CheckpointManager(tmp_path) as manager:
        keeper(one, manager).save(blocking=True)
        found = newest(manager, log_of(tmp_path))
        assert found is not None
        with pytest.raises(ResumeRefused) as caught:
            keeper(other, manager, seeds=5).resume(found)
    assert str(caught.value) == (
        f"checkpoint {found.id} is of another run than this one would be, so nothing was "
        "resumed:\n- seeds.all: 4 was saved, here it is 5"
    )
    assert_same(other.model.state_dict(), before)


def test_somebody_elses_checkpoints_are_none_of_a_run(tmp_path: Path) -> None:
    """They are intact and still cannot be used."""
    from kasmina.checkpoint import Contents

    with CheckpointManager(tmp_path) as manager:
        assert newest(manager, tmp_path / "events.jsonl") is None
        manager.save(Contents(parts={"model": {}}))
        with pytest.raises(ResumeRefused, match="is intact, but no checkpoint of kasmina grow"):
            newest(manager, tmp_path / "events.jsonl")


def test_the_first_save_after_a_resume_names_where_it_goes_on_from(tmp_path: Path) -> None:
    """Not the newest that lies there; the next one names the first."""
    one = bed()
    with CheckpointManager(tmp_path) as manager:
        keeper(one, manager).save(blocking=True)
        found = newest(manager, log_of(tmp_path))
        assert found is not None
        live(one, 1)
        keeper(one, manager).save(blocking=True)  # of the run that was killed
    with CheckpointManager(tmp_path) as manager:
        kept = keeper(bed(), manager)
        kept.resume(found)
        for _ in range(2):
            kept.save(blocking=True)
        fourth, third, second, first = manager.list()
        parents = [entry.manifest.parent for entry in (fourth, third, second) if entry.manifest]
        assert parents == [str(third.id), str(first.id), str(first.id)]


def test_known_costs_come_back_under_equal_keys() -> None:
    """A pass that is counted may take other kernels, so none is counted twice."""
    meter, again = FlopMeter(), FlopMeter()
    x = torch.ones(3, 2)
    with meter.forward(("train", x.shape, (("a", 1),)), FlopMeter.TRAIN):
        x @ x.T
    again.load_state_dict(meter.state_dict())
    with again.forward(("train", x.shape, (("a", 1),)), FlopMeter.TRAIN):
        pass
    assert again.total == 2 * meter.total > 0


def test_buffers_that_a_state_dict_leaves_out_are_kept(tmp_path: Path) -> None:
    """What a site has counted, a host's own, and one that came up during training."""
    one, other = bed(), bed()
    for each in (one, other):
        each.model.register_buffer("seen", torch.zeros(2), persistent=False)
    one.model.get_buffer("seen").fill_(7)
    one.model[2].register_buffer("cache", torch.arange(3), persistent=False)
    site = next(iter(one.gardener.garden.sites.values()))
    site.nonfinite[1] = 5
    with CheckpointManager(tmp_path) as manager:
        keeper(one, manager).save(blocking=True)
        found = newest(manager, log_of(tmp_path))
        assert found is not None
        keeper(other, manager).resume(found)
    assert_same(dict(other.model.named_buffers()), dict(one.model.named_buffers()))
    assert int(other.gardener.garden.nonfinite()[1]) == 5


def test_another_machine_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sums may be rounded otherwise."""
    with CheckpointManager(tmp_path) as manager:
        keeper(bed(), manager).save(blocking=True)
        found = newest(manager, log_of(tmp_path))
    assert found is not None
    assert found.machine() == ""
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert found.machine() == f"torch threads: {threads} was saved, here it is {threads + 1}"
