"""Hosts, losses, optimizers and data that others choke on: a clear error, or the right thing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from kasmina.errors import KasminaError
from kasmina.growth import Command, Gardener, GardenerConfig, Idle, NonFiniteLoss
from kasmina.observe.log import EventLog, read_log
from kasmina.sites import Site, SiteError, fold, morph
from tests.runtime.growth.gardens import QUICK, Bed, assert_same, data, germinate, host

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def whole(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The loss of a batch in one go."""
    return cross_entropy(model(x), y)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Dropout, and hosts that a test builds itself."""
    torch.manual_seed(3)


class Life:
    """A run over any host, with one seed that is asked for at the first tick."""

    def __init__(
        self,
        model: nn.Module,
        *sites: Site,
        loss: Loss = whole,
        parts: int = 1,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        training: bool = True,
        judge: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        held_out: slice = slice(192, None),
        limits: Mapping[str, float] = QUICK,
        log: EventLog | None = None,
    ) -> None:
        self.x, self.y = data()
        self.model, self.loss, self.parts, self.training = model, loss, parts, training
        if sites:
            morph(model, sites, run="test", example=self.x[:2])
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = optimizer(trained, lr=1e-2)
        self.gardener = Gardener(
            model,
            self.optimizer,
            validate=lambda: judge(model(self.x[held_out]), self.y[held_out]),
            controller=germinate(0),
            config=GardenerConfig(ramp_steps=8),
            limits=limits,
            log=log,
        )
        self.first = self.last = float("nan")

    @property
    def state(self) -> str:
        """Of the seed."""
        return self.gardener.garden.state.state(0).name

    def batch(self) -> None:
        """One step, in one or several parts."""
        at = 48 * (self.gardener.clock.step % 4)
        x, y = self.x[at : at + 48], self.y[at : at + 48]
        self.model.train(self.training)
        self.optimizer.zero_grad()
        losses = []
        for part in range(self.parts):
            own = slice(part * 48 // self.parts, (part + 1) * 48 // self.parts)
            loss = self.loss(self.model, x[own], y[own]) / self.parts
            torch.autograd.backward(loss)
            losses.append(loss.detach())
        self.gardener.step(torch.stack(losses).sum())

    def until(self, *states: str) -> None:
        """Epochs of four steps until the seed is in one of `states`."""
        for _ in range(60):
            if self.state in states:
                return
            for _ in range(4):
                self.batch()
            self.last = self.gardener.tick().loss
            self.first = self.last if self.first != self.first else self.first
        raise AssertionError(f"the seed is in {self.state}, never in {states}")

    def lives(self) -> None:
        """From the first request to a fossil; validation gets better."""
        self.until("FOSSILIZED")
        assert self.last < self.first
        plain = fold(self.model).eval()
        self.model.eval()
        torch.testing.assert_close(plain(self.x), self.model(self.x), rtol=0, atol=1e-5)


AROUND = Site(".", seeds=2, hidden=6)


def test_a_site_on_frozen_parameters() -> None:
    """A frozen host learns nothing, its seeds do; no weight of it moves."""
    model = host().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 0.0  # its statistics are no parameters
    before = {name: p.clone() for name, p in model.named_parameters()}
    Life(model, AROUND).lives()
    assert_same(before, {n: p for n, p in model.named_parameters() if n in before})


@pytest.mark.parametrize("when", ["before the Gardener", "between two epochs"])
def test_a_host_that_is_frozen_after_morph(when: str) -> None:
    """Its seeds go on all the same, whoever begins the graph then."""
    model = host()
    morph(model, [AROUND], run="test")
    frozen = [p for name, p in model.named_parameters() if not name.startswith("kasmina.")]
    life = None
    if when == "between two epochs":
        life = Life(model)
        life.until("TRAINING")
    for parameter in frozen:
        parameter.requires_grad_(False)
    if life is None:
        life = Life(model)
    else:
        life.gardener.tick()
    before = [p.clone() for p in frozen]
    life.until("GRAFTING")
    assert all(map(torch.equal, before, frozen))
    frozen[0].requires_grad_(True)  # the graph begins in the host again
    life.gardener.tick()
    assert not any(site.rootless for site in life.gardener.garden.sites.values())


def test_seeds_that_are_frozen_with_their_host() -> None:
    """Refused with what to do, at the start and at an epoch's end."""
    model = host()
    morph(model, [AROUND], run="test")
    told = (
        "3 parameter(s) of the seeds do not require grad, so these could not grow: "
        "layers.//.pools.mlp.up_weight, .... To freeze a model after morph() freezes its seeds too; "
        "freeze it before, or call model.kasmina.requires_grad_(True)"
    )
    life = Life(model)
    model.requires_grad_(False)
    with pytest.raises(KasminaError) as error:
        life.gardener.tick()
    assert str(error.value) == told
    life.gardener.close()
    with pytest.raises(KasminaError) as error:
        Gardener(model, life.optimizer, validate=lambda: torch.tensor(0.0))
    assert str(error.value) == told


def test_a_site_behind_frozen_parameters() -> None:
    """The part before the site is frozen, the head trains on."""
    model = host()
    model[0].requires_grad_(False)
    life = Life(model, Site("0", seeds=2, hidden=6))
    life.until("TRAINING")
    pool = life.gardener.garden.site_of(0).pool("mlp")
    before = pool.get_parameter("out_weight").detach().clone()
    life.batch()
    assert not torch.equal(before, pool.get_parameter("out_weight"))
    life.until("FOSSILIZED", "CULLED")


class Tied(nn.Module):
    """A map whose weight is used a second time, transposed, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)
        self.down.weight = self.up.weight
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, 8]` to `[B, 2]`."""
        found: Tensor = self.head(torch.relu(self.down(torch.relu(self.up(x)))))
        return found


def test_sites_on_tied_parameters() -> None:
    """Seeds stand beside the weights, so the tie holds: in the run, when counted, when folded."""
    model = Tied()
    kept = {**QUICK, "min_evaluation_score": -10.0, "min_improvement": -10.0}
    life = Life(model, Site("up", seeds=1, hidden=6), Site("down", seeds=1, hidden=6), limits=kept)
    life.lives()
    assert model.up.weight is model.down.weight
    plain = fold(model)
    assert plain.up.host.weight is plain.down.weight  # type: ignore[union-attr]
    assert sum(p.numel() for p in plain.parameters()) == life.gardener.parameters()


@pytest.mark.parametrize("sites", [1, 2])
def test_a_module_that_runs_twice_in_a_pass(sites: int) -> None:
    """Without an example the first measurement tells; two passes, or parts alone, are no repetition."""

    class Twice(Tied):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(torch.relu(self.up(torch.relu(self.up(x)))))
            return found

    morph(model := Twice(), [Site("up", seeds=2), Site("head", seeds=1)][:sites], run="test")
    life = Life(model)
    life.batch()
    with pytest.raises(SiteError) as error:
        life.gardener.tick()
    assert str(error.value) == (
        "site 'up': module 'up' ran 2 times in one pass of the model; a site needs exactly one. Place "
        "it at a module around the repetition"
    )
    once = morph(Tied(), [Site("up", seeds=2), Site("head", seeds=1)][:sites], run="test")
    life = Life(once, judge=lambda out, y: cross_entropy(out + once.head(once.up(life.x[192:])), y))
    life.batch()
    for _ in range(2):
        assert math.isfinite(life.gardener.tick().loss)


def test_lazy_parameters_are_refused() -> None:
    """They have no shape yet; the message says what to do."""
    with pytest.raises(SiteError) as error:
        morph(nn.Sequential(nn.LazyLinear(4)), [Site("0")])
    assert str(error.value) == (
        "0.weight, 0.bias has no shape yet; run one batch through the model, then morph it"
    )


def test_a_host_in_evaluation_mode() -> None:
    """Some hosts are tuned with frozen statistics: seeds live all the same, and none move."""
    model = host()
    before = {name: value.clone() for name, value in model.named_buffers()}
    Life(model, AROUND, training=False).lives()
    assert_same(before, {n: v for n, v in model.named_buffers() if n in before})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_from_the_start(value: float) -> None:
    """The host's own; nothing has moved, and the message says where to look."""
    bed = Bed(germinate(0))
    before = bed.host_state()
    with pytest.raises(NonFiniteLoss) as error:
        bed.gardener.step(torch.tensor(value))
    assert str(error.value) == (
        f"the training loss is {value} at step 0 (epoch 0) and no seed is on trial, so it is the "
        "host's own: look for NaN in the data, a learning rate that is too high or an unstable loss"
    )
    assert_same(before, bed.host_state())
    assert bed.gardener.clock.step == 0


def test_a_validation_loss_that_is_nan_from_the_start() -> None:
    """Refused at the first measurement, before anything has germinated, and at each further try."""
    life = Life(host(), AROUND, judge=lambda out, y: cross_entropy(out * torch.nan, y))
    life.batch()
    for _ in range(2):
        with pytest.raises(NonFiniteLoss) as error:
            life.gardener.tick()
        assert str(error.value) == (
            "validate() returned a loss of nan at its first measurement, and nothing has germinated "
            "yet: no seed could ever be judged by it. It must be a number, infinity at worst; look "
            "for a mean over no example, NaN in the validation data, or a host that has diverged"
        )
    assert life.state == "DORMANT"


def test_a_validation_loss_that_becomes_nan_grafts_nothing(tmp_path: Path) -> None:
    """Seeds that cannot be judged pass no gate, and end; it is told once each time that it begins."""
    epochs = [1.0, *[math.nan] * 40, 1.0, math.nan]
    log = EventLog(tmp_path / "events.jsonl", "test")
    life = Life(host(), AROUND, judge=lambda o, y: cross_entropy(o * epochs[0], y), log=log)
    seen, told = [], []
    while epochs:
        life.batch()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss = life.gardener.tick().loss
        assert math.isnan(loss) is math.isnan(epochs.pop(0))
        seen.append(life.state)
        told += [str(each.message) for each in caught if each.category is RuntimeWarning]
    assert "TRAINING" in seen and "CULLED" in seen
    assert set(seen) <= {"GERMINATED", "TRAINING", "CULLED", "DORMANT"}
    starts = [
        f"validate() returned a loss of nan at step {step}, where it was " for step in (2, 43)
    ]
    assert [text[: len(start)] for text, start in zip(told, starts, strict=True)] == starts
    assert told[0].endswith(
        "before, and no seed is on trial: it is the host's own. While it is nan no seed can pass its "
        "gate; look for NaN in the validation data, or a host that has diverged"
    )
    logged = [r["reason"] for r in read_log(log.path) if r.kind == "warning"]
    assert logged == told


def test_an_optimizer_with_closures() -> None:
    """LBFGS is refused with the reason."""
    model = morph(host(), [AROUND])
    with pytest.raises(
        KasminaError, match=r"^LBFGS evaluates a closure many times within one step"
    ):
        Gardener(model, torch.optim.LBFGS(model.parameters()), validate=lambda: torch.tensor(0.0))


class Counting(torch.optim.lr_scheduler.LRScheduler):
    """A learning rate by the number of parameters, which it expects to stay what it was."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.counts = [len(group["params"]) for group in optimizer.param_groups]
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Constant as long as the counts are."""
        now = [len(group["params"]) for group in self.optimizer.param_groups]
        if now != self.counts:
            raise RuntimeError(f"{now} parameters in the place of {self.counts}")
        return [base / count**0.5 for base, count in zip(self.base_lrs, now, strict=True)]


def test_a_scheduler_that_counts_parameters() -> None:
    """Growth adds none: they are there from the start, and stay the same objects as pools double."""
    sites = [Site(".", seeds=6, blueprint="mlp", hidden=2)]
    bed = Bed(germinate(0, 1, 2, 3, 4), sites=sites)
    bed.scheduler = Counting(bed.optimizer)  # type: ignore[assignment]
    objects = [id(p) for p in bed.optimizer.param_groups[0]["params"]]
    bed.until("FINE_TUNING")
    assert bed.gardener.garden.site_of(0).pool("mlp").capacity == 8
    assert [id(p) for p in bed.optimizer.param_groups[0]["params"]] == objects


def test_a_host_without_parameters() -> None:
    """It grows from nothing: at first only its seeds have weights."""
    model = nn.Sequential(nn.Flatten(), nn.Tanh())
    site = Site(".", seeds=2, hidden=6)
    life = Life(model, site)
    assert life.gardener.parameters() == 0
    life.lives()
    cost = life.gardener.garden.site_of(0).pool("mlp").kind.cost().parameters
    assert life.gardener.parameters() == cost


def test_gradient_accumulation() -> None:
    """A batch in four parts moves alpha, evidence and weights as the whole batch does."""
    lives = []
    for parts in (1, 4):
        model = host()
        del model[1]  # BatchNorm's statistics depend on the parts
        del model[2]  # and dropout draws by the part
        life = Life(model, AROUND, parts=parts, optimizer=torch.optim.SGD)
        life.until("GRAFTING")
        lives.append(life)
    one, four = lives
    four.model.load_state_dict(one.model.state_dict())
    four.gardener.ledger.load_state_dict(one.gardener.ledger.state_dict())
    for _ in range(8):
        for life in lives:
            life.batch()
    state = [life.gardener.garden.state for life in lives]
    assert float(state[0]["alpha"][0]) == float(state[1]["alpha"][0]) == 1.0
    gains = [life.gardener.ledger.integral.judgement(0) for life in lives]
    assert gains[0].terms == gains[1].terms == 8
    assert gains[0].value == pytest.approx(gains[1].value, rel=1e-4, abs=1e-6)
    for (name, ours), theirs in zip(
        one.model.named_parameters(), four.model.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool) -> None:
    """A host that is run again in the backward pass: the same life as without."""

    def checkpointed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        given = x.clone().requires_grad_()  # a reentrant checkpoint wants it
        output: Tensor = checkpoint(model, given, use_reentrant=reentrant)
        return cross_entropy(output, y)

    ends = []
    for loss in (whole, checkpointed):
        model = host()
        del model[1]  # run twice, its statistics move twice, with seeds or without
        torch.manual_seed(3)
        life = Life(model, AROUND, loss=loss)
        life.lives()
        ends.append({name: p.detach().clone() for name, p in model.named_parameters()})
    assert_same(*ends)


@pytest.mark.parametrize("how", ["eager", "never called", "compiled"])
def test_an_empty_validation_set(how: str) -> None:
    """Found at the first measurement, whatever the loss says; the message names the sites."""
    life = Life(host(), AROUND)
    life.gardener.controller = Idle()
    run = torch.compile(life.model, backend="eager") if how == "compiled" else life.model
    empty, parameter = life.x[:0], life.model.get_parameter("0.weight")

    def validate() -> Tensor:
        return parameter.sum() * 0 if how == "never called" else run(empty).sum()

    life.gardener.measuring.validator._validate = validate
    life.batch()
    with pytest.raises(KasminaError) as error:
        life.gardener.tick()
    assert str(error.value) == (
        "validate() ran no example through a site, so nothing can be judged on held-out data: the "
        "validation set is empty, or validate() does not call the model that has grown. Sites: ."
    )


@pytest.mark.parametrize("path", [".", "0"])
def test_a_compiled_model_passes_the_first_measurement(path: str) -> None:
    """Also where somebody has run it before, and under no_grad."""
    life = Life(host(), Site(path, seeds=2, hidden=6))
    run = torch.compile(life.model, backend="eager", fullgraph=True)

    @torch.no_grad()
    def validate() -> Tensor:
        return cross_entropy(run(life.x[192:]), life.y[192:])

    life.model.eval()
    before = validate()
    life.gardener.measuring.validator._validate = validate
    assert life.gardener.tick().loss == float(before)


NO_NUMBER = (
    "; it must be the batch's loss as a tensor of one real number: the one whose backward pass was "
    "made, with neither .item() nor reduction='none'"
)


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (0.5, "0.5 of type float"),
        (None, "None of type NoneType"),
        (torch.ones(3), "(3,) of torch.float32 on cpu"),
        (torch.ones(0), "(0,) of torch.float32 on cpu"),
        (torch.ones((), dtype=torch.complex64), "() of torch.complex64 on cpu"),
        (torch.ones((), dtype=torch.int64), "() of torch.int64 on cpu"),
        (torch.ones((), device="meta"), "() of torch.float32 on meta"),
    ],
)
def test_a_loss_that_is_no_number(loss: Tensor, found: str) -> None:
    """Refused before anything has moved."""
    bed = Bed()
    bed.batch()
    before = bed.host_state()
    with pytest.raises(KasminaError) as error:
        bed.gardener.step(loss)
    assert str(error.value) == f"step(loss): the loss is {found}{NO_NUMBER}"
    assert_same(before, bed.host_state())
    assert bed.gardener.clock.step == 1


def test_a_step_without_a_backward_pass() -> None:
    """Refused: nothing would be learned. With one, a loss of shape [1] and without graph will do."""
    bed = Bed()
    loss = cross_entropy(bed.model(bed.x), bed.y)
    with pytest.raises(KasminaError) as error:
        bed.gardener.step(loss)
    assert str(error.value) == (
        "step(loss): no parameter that the optimizer holds has a gradient, so nothing would be "
        "learned; call torch.autograd.backward(loss) before it, after optimizer.zero_grad()"
    )
    assert bed.gardener.clock.step == 0
    torch.autograd.backward(loss)
    assert bed.gardener.step(loss.detach().reshape(1))


def test_another_default_device() -> None:
    """Tensors that nobody has given a device belong on the CPU; both doors say so."""
    bed = Bed()
    bed.gardener.close()
    doors = (
        lambda: morph(nn.Linear(2, 2, device="cpu"), [Site("")]),
        lambda: Gardener(bed.model, bed.optimizer, validate=lambda: torch.tensor(0.0)),
    )
    for door in doors:
        with torch.device("meta"), pytest.raises(SiteError) as error:
            door()
        assert str(error.value) == (
            "torch's default device is meta, where what is remembered of seeds must not lie; call "
            "torch.set_default_device('cpu') and move model and data there by .to(device)"
        )


def test_two_gardeners_of_one_model() -> None:
    """The second is refused while the first one works, and takes over once it was closed."""
    bed = Bed()
    garden = bed.gardener.garden

    def another() -> Gardener:
        return Gardener(bed.model, bed.optimizer, validate=lambda: torch.tensor(0.0))

    def hooks() -> tuple[int, int]:
        pools = [pool for site in garden.sites.values() for pool in map(site.pool, site.kinds)]
        return len(bed.optimizer._optimizer_step_post_hooks), sum(len(p.grown) for p in pools)

    garden.state.update([0], {"lifecycle_state": 2})
    bed.gardener.obey([])  # a row is held, so the optimizer has hooks
    before = hooks()
    with pytest.raises(KasminaError) as error:
        another()
    assert str(error.value) == (
        "the seeds of run 'test' have a Gardener already, and two would undo each other's work; go on "
        "with that one, or close() it before you make another"
    )
    assert hooks() == before == (1, 1)
    bed.gardener.close()
    bed.gardener.close()
    assert hooks() == (0, 0)
    second = another()
    assert hooks() == before and second.garden is garden
    for use in (bed.batch, bed.gardener.tick):
        with pytest.raises(KasminaError, match=r"^this Gardener was closed; go on with the one "):
            use()
    del second  # nobody can reach it any more
    third = another()
    assert hooks() == before
    third.close()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            Command("request_germination", 99, "test"),
            "command 'request_germination' of seed 99: the seeds are 0 to 0",
        ),
        (
            Command("request_germination", -1, "test"),
            "command 'request_germination' of seed -1: the seeds are 0 to 0",
        ),
        (
            Command("request_germination", 0, "test", blueprint="conv"),
            "command 'request_germination' of seed 0: its site grows mlp, not 'conv'",
        ),
        (
            Command("request_germination", 0, "test", strategy="zz"),
            "unknown grafting strategy 'zz'",
        ),
        (Command("grow", 0, "test"), "grow"),
    ],
)
def test_a_command_that_names_nothing_is_refused(command: Command, message: str) -> None:
    """At once, and nothing is queued."""
    bed = Bed(sites=[Site(".", seeds=1, blueprint="mlp", hidden=2)])
    with pytest.raises(KasminaError) as error:
        bed.gardener.request(command)
    assert message in str(error.value)
    assert not bed.gardener.queue
