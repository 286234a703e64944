"""The parts of growth by themselves: evidence, ledger, gates, isolated training, cost, scaling."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kasmina.errors import KasminaError
from kasmina.growth.aside import Moments, part_of
from kasmina.growth.evidence import PathIntegral
from kasmina.growth.flops import FlopMeter
from kasmina.growth.gates import gate, gates_for
from kasmina.growth.ledger import Ledger
from kasmina.growth.row_adam import Progress, RowAdam
from kasmina.growth.scaling import line_search
from kasmina.growth.validation import Validator
from kasmina.sites import Passage, Site, morph
from tests.runtime.growth.gardens import Bed, germinate


def test_path_integrals_of_a_joint_ramp_add_up_to_the_gain() -> None:
    """Along a straight ramp of a quadratic loss the parts sum to what the loss really fell."""
    weights = torch.tensor([0.7, -0.3, 0.2])

    def loss(alpha: Tensor) -> Tensor:
        return (1 - weights @ alpha).square()

    integral, alpha, steps = PathIntegral(3), torch.zeros(3), 2000
    for _ in range(steps):
        at = (alpha + 0.5 / steps).requires_grad_()  # the middle of the step
        (gradient,) = torch.autograd.grad(loss(at), at)
        integral.add(torch.arange(3), gradient, torch.full((3,), 1 / steps))
        alpha = alpha + 1 / steps
    gained = float(loss(torch.zeros(3)) - loss(torch.ones(3)))
    assert float(integral.gain().sum()) == pytest.approx(gained, abs=1e-5)
    assert float(integral.gain()[1]) < 0 < float(integral.gain()[0])


def test_a_judgement_has_the_interval_of_its_terms() -> None:
    """The half width is 1.96 standard errors of the sum; a trend among the terms is no noise."""
    integral = PathIntegral(2)
    terms = [0.1, 0.3, 0.2, 0.0]
    for term in terms:
        integral.add(torch.tensor([1]), torch.tensor([-term]), torch.tensor([1.0]))
    judgement = integral.judgement(1)
    differences = [0.2, -0.1, -0.2]
    deviation = (sum(d * d for d in differences) / (2 * 3)) ** 0.5 * 2  # times sqrt(4)
    assert judgement.terms == 4
    assert judgement.value == pytest.approx(0.6, abs=1e-6)
    assert judgement.high - judgement.value == pytest.approx(1.959964 * deviation, rel=1e-5)


def test_without_terms_nothing_is_judged() -> None:
    """A seed that never ramped has no gain, which fails every limit."""
    judgement = PathIntegral(1).judgement(0)
    assert (judgement.value, judgement.low, judgement.high) == (-math.inf, -math.inf, math.inf)
    assert float(PathIntegral(1).gain()) == -math.inf


def test_the_ledger_comes_back_as_it_was() -> None:
    """After a round trip through its state everything reads the same."""
    ledger = Ledger(2)
    ledger.add_loss(2.0)
    ledger.end_epoch()
    ledger.add_loss(1.5)
    ledger.loss_at_graft[1] = 0.5
    ledger.integral.add(torch.tensor([0]), torch.tensor([-1.0]), torch.tensor([0.5]))
    other = Ledger(2)
    other.load_state_dict(ledger.state_dict())
    assert other.train_loss == 1.5
    assert other.stability() == ledger.stability() == 1.0
    assert other.loss_at_graft.tolist()[1] == 0.5
    assert torch.equal(other.integral.gain(), ledger.integral.gain())


@pytest.mark.parametrize(
    ("before", "now", "stability"),
    [(1.0, 1.0, 1.0), (1.0, 0.1, 1.0), (1.0, 1.25, 0.75), (1.0, 5.0, 0.0), (1.0, math.inf, 0.0)],
)
def test_only_a_rising_loss_is_unrest(before: float, now: float, stability: float) -> None:
    """A fall counts as steady, a rise by its share, what is not finite not at all."""
    ledger = Ledger(1)
    ledger.add_loss(before)
    ledger.end_epoch()
    ledger.add_loss(now)
    assert ledger.stability() == pytest.approx(stability)


def test_before_the_second_epoch_nothing_is_steady() -> None:
    """There is nothing to compare with."""
    assert Ledger(1).stability() == 0.0


def test_a_field_without_a_gate_is_named() -> None:
    """The message lists the gates and how to add one."""
    with pytest.raises(KasminaError) as caught:
        gates_for(["alpha", "saturation"])
    assert "context field(s) saturation have no gate" in str(caught.value)
    assert "@kasmina.growth.gate('saturation')" in str(caught.value)


def test_a_field_has_one_gate_only() -> None:
    """A second registration is refused."""
    with pytest.raises(KasminaError, match="'alpha' already has a gate"):
        gate("alpha")(lambda readings: readings.state["alpha"])


@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
def test_row_adam_is_torchs_adam_row_by_row(many: bool) -> None:
    """Rows that start at different times equal optimizers of their own."""
    bed = Bed(germinate(0, 1))
    bed.until("TRAINING")
    pool = bed.gardener.garden.site_of(0).pool("mlp")
    adam = RowAdam(1e-2)
    alone = [
        {name: nn.Parameter(p.detach()[row].clone()) for name, p in pool.stacked().items()}
        for row in (0, 1)
    ]
    optimizers = [torch.optim.Adam(list(each.values()), lr=1e-2) for each in alone]
    for step in range(30):
        rows = torch.tensor([0] if step < 10 else [0, 1])
        gradients = {n: torch.sin(p.detach()[rows] * 9 + step) for n, p in pool.stacked().items()}
        for place, row in enumerate(rows.tolist()):
            for name, parameter in alone[row].items():
                parameter.grad = gradients[name][place].clone()
            optimizers[row].step()
        if many:
            adam.step_many(rows.tolist(), pool, gradients)
        else:
            adam.step(rows.tolist(), adam.views(pool, rows.tolist()), gradients)
    for row in (0, 1):
        for name, parameter in pool.stacked().items():
            torch.testing.assert_close(parameter[row], alone[row][name], rtol=1e-5, atol=1e-6)


@given(st.floats(0.1, 10), st.floats(-1, 1))
def test_the_gain_is_what_the_best_scale_surely_explains(scale: float, mixed: float) -> None:
    """A lower bound that the scale does not change; pointing apart gains nothing."""
    draw = torch.Generator().manual_seed(1)
    target = torch.randn(1, 640, 2, generator=draw)
    prediction = scale * (mixed * target + 0.5 * torch.randn(1, 640, 2, generator=draw))
    moments = Moments(*torch.zeros(4, 1, dtype=torch.float64))
    moments.add(prediction, target)
    each = (prediction * target).sum(2)
    product = float(each.sum())
    sure = product - 2 * 640**0.5 * float(each.std())
    share = max(sure / float(prediction.norm() * target.norm()), 0) ** 2
    assert float(moments.explainable()) == pytest.approx(share, abs=1e-5)
    best = 1 - float((product / prediction.square().sum() * prediction - target).square().sum()) / (
        float(target.square().sum())
    )
    assert float(moments.explainable()) <= best + 1e-5
    error = float((prediction - target).square().sum() / target.square().sum())
    assert float(moments.unexplained()) == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize(("examples", "features"), [(100, 1), (10_000, 1), (300, 50)])
def test_noise_gains_nothing(examples: int, features: int) -> None:
    """Of 200 predictions that have nothing to do with the target few get past the bound."""
    draw = torch.Generator().manual_seed(2)
    moments = Moments(*torch.zeros(4, 200, dtype=torch.float64))
    noise = torch.randn(200, examples, features, generator=draw)
    moments.add(noise, torch.randn(1, examples, features, generator=draw).expand_as(noise))
    assert int((moments.explainable() > 0).sum()) <= 12  # 2.3% are expected


def test_a_small_share_of_many_features_is_seen() -> None:
    """One hundredth of the target over 50 features of 300 examples is far beyond chance."""
    draw = torch.Generator().manual_seed(3)
    target = torch.randn(1, 300, 50, generator=draw)
    prediction = 0.1 * target + torch.randn(1, 300, 50, generator=draw)
    moments = Moments(*torch.zeros(4, 1, dtype=torch.float64))
    moments.add(prediction, target)
    assert 0.003 < float(moments.explainable()) < 0.01


@pytest.mark.parametrize(("most", "left"), [(512, 8), (20, 2), (1, 1)])
def test_isolated_training_reads_a_part_of_a_large_batch(most: int, left: int) -> None:
    """Whole examples, by their positions; at least one."""
    tokens = Passage(*(torch.zeros(8, 10, 3) for _ in range(3)))
    assert [len(each) for each in part_of(tokens, most, False)] == [left] * 3
    channels = Passage(torch.zeros(8, 5, 20), *(torch.zeros(8, 3, 10) for _ in range(2)))
    assert [len(each) for each in part_of(channels, most, True)] == [left] * 3


def test_a_blueprint_that_says_nothing_gains_nothing() -> None:
    """No division by zero where the prediction is 0."""
    moments = Moments(*torch.zeros(4, 1, dtype=torch.float64))
    moments.add(torch.zeros(1, 4, 1), torch.ones(1, 4, 1))
    assert float(moments.explainable()) == 0.0


def test_progress_counts_epochs_without_a_clear_gain() -> None:
    """Five percent are needed; the first value is always one."""
    progress = Progress()
    assert [progress.watch(v) for v in (0.1, 0.102, 0.104, 0.2, 0.2)] == [0, 1, 2, 0, 1]


def test_progress_works_for_errors_too() -> None:
    """A negative value that comes nearer to 0 is better."""
    progress = Progress()
    assert [progress.watch(v) for v in (-1.0, -0.99, -0.5)] == [0, 1, 0]


def test_a_pass_is_counted_once_and_then_remembered() -> None:
    """2 FLOPs a multiply-add; training counts three forward passes; equal keys cost the same."""
    meter, layer, x = FlopMeter(), nn.Linear(8, 4), torch.randn(16, 8)
    for _ in range(3):
        with meter.forward(x.shape, FlopMeter.TRAIN):
            layer(x)
    assert meter.total == 3 * 3 * 2 * 16 * 8 * 4
    with meter.forward("evaluate", FlopMeter.EVALUATE):
        layer(x)
    assert meter.total == (9 + 1) * 2 * 16 * 8 * 4


@pytest.mark.parametrize("start", ["random", "tiny"])
def test_a_start_is_made_from_the_first_batch(start: str) -> None:
    """With it a seed's first epoch already explains what a drawn one learns in several."""
    options = {"mlp": {"start": start, "activation": "silu"}}
    sites = [Site(".", seeds=2, hidden=2, options=options)]
    bed = Bed(germinate(0, 1), sites=sites, aside_rate=1e-6)
    bed.until("TRAINING")
    pool = bed.gardener.garden.site_of(0).pool("mlp")
    drawn = pool.get_parameter("up_weight").detach().clone()
    bed.batch()
    begun = pool.get_parameter("up_weight").detach().clone()
    assert torch.allclose(begun, drawn, atol=1e-5) == (start == "random")
    for _ in range(4):
        bed.batch()
    assert torch.allclose(pool.get_parameter("up_weight"), begun, atol=1e-4)  # once only


def test_the_line_search_takes_the_best_factor_and_leaves_alpha_alone() -> None:
    """Losses by factor come back, and the chosen scale is in the pool's last map."""
    bed = Bed(germinate(0))
    bed.until("TRAINING")
    for _ in range(12):
        bed.batch()
    pool = bed.gardener.garden.site_of(0).pool("mlp")
    before = {name: p.detach()[0].clone() for name, p in pool.stacked().items()}
    losses = line_search(
        bed.gardener.garden, torch.tensor([0]), lambda: bed.gardener.measure().loss
    )
    best = min(losses, key=losses.__getitem__)
    output = set(pool.kind.output())
    for name, parameter in pool.stacked().items():
        factor = best if name in output else 1.0
        torch.testing.assert_close(parameter[0], before[name] * factor)
    assert float(bed.gardener.garden.state["alpha"][0]) == 0.0
    assert bed.states[0] == "TRAINING"


@pytest.mark.parametrize(
    ("result", "what"),
    [
        (1.0, r"got float"),
        (torch.ones(2, 3), r"got Tensor\(2, 3\)"),
        ("high", "got str"),
        ((torch.ones(()), 0.5, [1.0]), r"always of the same parts; got list$"),
        ((torch.ones(()), 0.5, torch.ones(())), r"always of the same parts; got Tensor\(\)$"),
    ],
)
def test_what_validate_must_return(result: object, what: str) -> None:
    """Anything but a 0-d loss, or (loss, metric), is refused with what came."""
    model = morph(nn.Linear(1, 1), [Site("")])
    validator = Validator(model, lambda: result)  # type: ignore[arg-type,return-value]
    with pytest.raises(KasminaError, match=what):
        validator.measure()


def test_a_loss_without_a_graph_is_told_apart() -> None:
    """Where gradients are wanted, `validate` must not cut them off."""
    validator = Validator(morph(nn.Linear(1, 1), [Site("")]), lambda: torch.tensor(1.0))
    with pytest.raises(KasminaError, match=r"drop torch\.no_grad\(\) and \.item\(\)"):
        validator.record({})


def test_validation_leaves_the_modes_as_they_were() -> None:
    """A BatchNorm that the user has frozen stays frozen."""
    bed = Bed()
    bed.model.train()
    bed.model[1].eval()
    bed.gardener.measure()
    assert [bed.model[place].training for place in range(3)] == [True, False, True]
