"""What sites keep of what passed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import backward
from torch.utils.checkpoint import checkpoint

from kasmina.sites import Garden, Passage, Recorder, Site, SiteError, SiteLayer, morph
from kasmina.sites.passage import finished
from tests.runtime.sites.models import HOSTS, Host, built, every_kind, put

every_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)


def site_with_shadow(**options: object) -> tuple[nn.Module, SiteLayer]:
    """A Linear with one seed that trains aside."""
    model = morph(nn.Linear(4, 6), [Site("", seeds=2, **options)])  # type: ignore[arg-type]
    garden = Garden.of(model)
    put(garden, 0, "TRAINING")
    return model, garden.sites["."]


def test_a_training_pass_is_captured() -> None:
    """Input, output and the gradient at the output, once the backward pass has been there."""
    model, site = site_with_shadow()
    x = torch.randn(3, 4)
    y = model(x)
    assert site.captured is None
    assert torch.equal(_not_none(site._capture.input), x)
    weight = torch.randn(3, 6)
    backward((y * weight).sum())
    passage = site.captured
    assert passage is not None
    assert torch.equal(passage.input, x) and torch.equal(passage.output, y)
    assert torch.equal(passage.gradient, weight)
    site._capture.clear()
    assert site.captured is None


def _not_none(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def test_inline_seeds_capture_the_hosts_output() -> None:
    """That is what they read."""
    model, site = site_with_shadow(placement="inline")
    y = model(torch.randn(3, 4))
    assert torch.equal(_not_none(site._capture.input), y)


def test_writing_in_place_afterwards_changes_no_capture() -> None:
    """A host that overwrites its activations does not overwrite what was kept."""
    model, site = site_with_shadow(placement="inline")
    y = model(torch.randn(3, 4))
    kept = y.detach().clone()
    backward(y.relu_().sum())
    passage = site.captured
    assert passage is not None and torch.equal(passage.output, kept)


def test_nothing_is_captured_without_gradients_or_seeds_that_learn() -> None:
    """Nor while a recorder takes what passes: seeds must not learn what they are judged by."""
    model, site = site_with_shadow()
    with torch.no_grad():
        model(torch.randn(3, 4))
    recorder = Recorder(site)
    recorder.start()
    backward(model(torch.randn(3, 4)).sum())
    recorder.stop()
    assert site._capture.input is None
    model(torch.randn(3, 4))
    assert site._capture.input is not None
    put(Garden.of(model), 0, "DORMANT")
    assert site._capture.input is None


def test_a_host_may_be_tuned_in_evaluation_mode() -> None:
    """A pass that goes backwards is one to learn from, whatever the mode."""
    model, site = site_with_shadow()
    model.eval()
    model(torch.randn(3, 4))
    assert site.captured is None
    backward(model(torch.randn(3, 4)).sum())
    assert site.captured is not None


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_pass_is_captured(reentrant: bool) -> None:
    """A reentrant checkpoint has no graph at first, and makes it in the backward pass."""
    model, site = site_with_shadow()
    x = torch.randn(3, 4, requires_grad=True)
    backward(model(x).square().sum())
    expected = site.captured
    for _ in range(2):
        site._capture.clear()
        backward(checkpoint(model, x, use_reentrant=reentrant).square().sum())
        assert site.captured is not None and expected is not None
        for ours, theirs in zip(site.captured, expected, strict=True):
            assert torch.equal(ours, theirs)


def test_an_old_pass_does_not_answer_for_a_new_one() -> None:
    """The gradient of an earlier pass is not taken for the later one's."""
    model, site = site_with_shadow()
    first, _ = model(torch.randn(3, 4)), model(torch.randn(3, 4))
    backward(first.sum())
    assert site.captured is None


@pytest.mark.parametrize("after", [nn.Identity(), nn.ReLU(inplace=True)])
def test_a_frozen_host_tells_its_gradient_too(after: nn.Module) -> None:
    """Where nothing before the site trains, the site itself begins the graph; same bits."""
    model, site = site_with_shadow()
    model.requires_grad_(False)
    x = torch.randn(3, 4)
    output = after(model(x))
    backward(output.square().sum())
    assert site.captured is not None
    put(Garden.of(model), 0, "DORMANT")
    assert torch.equal(output, after(model(x)))
    assert not model(x).requires_grad


@pytest.mark.parametrize("host", [nn.Flatten(), nn.Linear(4, 4).requires_grad_(False)])
def test_a_host_that_trains_nothing_has_a_graph_at_once(host: nn.Module) -> None:
    """Without parameters or with frozen ones, also while all seeds sleep; under no_grad none."""
    morph(host, [Site("", seeds=1, features=4)], example=torch.randn(3, 4))
    x = torch.randn(3, 4)
    output = host(x)
    backward(output.square().sum())
    with torch.no_grad():
        assert not host(x).requires_grad
        assert torch.equal(host(x), output)


def test_a_copy_forgets() -> None:
    """A copy of the model starts without a capture."""
    model, _ = site_with_shadow()
    backward(model(torch.randn(3, 4)).sum())
    assert Garden.of(copy.deepcopy(model)).sites["."].captured is None


@every_host
def test_recorders_see_every_pass(host: Host) -> None:
    """In evaluation mode, with dormant seeds, several passes to one loss; parameters untouched."""
    model = built(host).eval()
    garden = Garden.of(model)
    recorders = [Recorder(site) for site in garden.sites.values()]
    for recorder in recorders:
        recorder.start()
    outputs = [model(host.batch()) for _ in range(2)]
    loss = torch.stack(outputs).square().sum()
    for site, recorder in zip(garden.sites.values(), recorders, strict=True):
        passages = recorder.finish(loss)
        assert len(passages) == 2, site.path
        for passage in passages:
            assert passage.gradient.shape == passage.output.shape
            assert passage.gradient.any() and not passage.output.requires_grad
        recorder.stop()
    assert all(parameter.grad is None for parameter in model.parameters())
    model(host.batch())
    assert recorders[0].finish(loss) == []


def test_a_pass_that_the_loss_does_not_come_from() -> None:
    """It has gradient 0; one without a graph is left out."""
    model = morph(nn.Linear(4, 6), [Site("", seeds=1)])
    recorder = Recorder(Garden.of(model).sites["."])
    recorder.start()
    used, _ = model(torch.randn(3, 4)), model(torch.randn(3, 4))
    with torch.no_grad():
        model(torch.randn(3, 4))
    first, second = recorder.finish(used.sum())
    assert first.gradient.all() and not second.gradient.any()
    assert isinstance(first, Passage)


@pytest.mark.parametrize("state", ["DORMANT", "GRAFTING"])
def test_a_reentrant_checkpoint_is_told_as_what_it_is(state: str) -> None:
    """It has no graph inside, where gradients could be read; without reentrance all is seen."""
    model = morph(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), [Site("[01]", seeds=1)])
    garden = Garden.of(model)
    if state != "DORMANT":
        put(garden, 0, state)
    recorders = [Recorder(site) for site in garden.sites.values()]
    x = torch.randn(3, 4, requires_grad=True)
    for recorder in recorders:
        recorder.start()
    loss = model[1](checkpoint(model[0], x, use_reentrant=True)).sum()
    with pytest.raises(SiteError) as error:
        finished(recorders, loss)
    assert str(error.value) == (
        "sites 0: what passed them has no graph, though the loss has one: the model runs them inside "
        "of torch.utils.checkpoint(use_reentrant=True), which tells no gradient of what is inside. "
        "Pass use_reentrant=False, or checkpoint where self.training only: validation then needs no "
        "second pass"
    )
    for recorder in recorders:
        recorder.start()
    loss = model[1](checkpoint(model[0], x, use_reentrant=False)).sum()
    assert [len(passages) for passages in finished(recorders, loss)] == [1, 1]


def test_passes_without_a_graph_are_told() -> None:
    """Where no site has seen one with it, though the loss has one."""
    model = morph(nn.Linear(4, 6), [Site("", seeds=1)])
    recorder = Recorder(Garden.of(model).sites["."])
    recorder.start()
    with torch.no_grad():
        y = model(torch.randn(3, 4))
    with pytest.raises(SiteError, match=r"^sites \.: .* they ran under torch\.no_grad\(\) or on"):
        recorder.finish((y * torch.ones(6, requires_grad=True)).sum())


@every_host
def test_a_kind_reads_what_the_site_gives(host: Host) -> None:
    """What a site prepares of a passage fits every kind of it, for training aside."""
    model = built(host)
    garden = Garden.of(model)
    rows = torch.tensor(every_kind(garden, "TRAINING"))
    backward(model(host.batch()).square().sum())
    for site in garden.sites.values():
        passage = site.captured
        assert passage is not None, site.path
        own = rows[(rows >= site.first_row) & (rows < site.first_row + site.n_seeds)]
        for number, kind in enumerate(site.kinds):
            seeds = own[garden.state["blueprint_id"][own] == number] - site.first_row
            if len(seeds):
                index = garden.state["blueprint_slot"][seeds + site.first_row].long()
                x = site.blueprint_input(passage.input, seeds)
                made = site.pool(kind).kind.forward(site.pool(number).rows(index), x)
                target = site.blueprint_output(passage.gradient, seeds)
                assert made.shape == target.shape or made.shape[1:] == target.shape
