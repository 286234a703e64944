"""Sites under torch.compile and in copies."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend
from torch.autograd import backward
from torch.utils.checkpoint import checkpoint

from kasmina.blueprints import Placement
from kasmina.lifecycle import Lifecycle
from kasmina.sites import Garden, Recorder, Site, SiteError, SiteLayer, morph
from kasmina.sites.passage import finished
from tests.runtime.sites.models import HOSTS, Host, built, every_kind, put

every_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)


# Dynamo refuses nn.GRU itself, with or without seeds.
compiling = pytest.mark.parametrize(
    "host", [host for host in HOSTS if host.name != "gru"], ids=lambda host: host.name
)
# Dynamo makes one of every autograd function that it traces, and torch warns of that.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),  # the compiler's own
]


@compiling
def test_a_dormant_host_compiles_whole(host: Host) -> None:
    """One graph, no break, compiled once for many passes, the eager result."""
    torch._dynamo.reset()
    model = built(host).eval()
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.no_grad():
        expected = model(host.batch())
        for _ in range(3):
            assert torch.allclose(compiled(host.batch()), expected, atol=1e-6)
    assert counter.frame_count == 1


STATES = tuple(state.name for state in Lifecycle.default().State)


def outcome(run: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, dL/dalpha and all gradients by name; a missing gradient is 0."""
    model.zero_grad()
    for site in Garden.of(model).sites.values():
        site.alpha.grad = None
    y = run(x)
    backward(y.square().sum())
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }
    return {**found, "output": y.detach(), "alpha": Garden.of(model).alpha_gradient()}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], where: str) -> None:
    """Equal up to the order of sums."""
    for name, expected in theirs.items():
        close = torch.allclose(ours[name], expected, rtol=1e-4, atol=1e-4)
        assert close, f"{where}, {name}: {ours[name]} is not {expected}"


@compiling
def test_every_state_in_one_graph(host: Host) -> None:
    """Every kind of every site through all states and along a ramp: eager's values, no new graph."""
    torch._dynamo.reset()
    model = built(host).eval()
    garden = Garden.of(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ours, theirs = (outcome(run, model, host.batch()) for run in (compiled, model))
    assert_close(ours, theirs, "all asleep")
    with torch._dynamo.config.patch(error_on_recompile=True):
        rows = every_kind(garden, "TRAINING")
        ramp = [(0.6, name) for name in STATES] + [(0.0, "GRAFTING"), (1.0, "GRAFTING")]
        for alpha, state in ramp:
            code = int(garden.state.lifecycle.State[state])
            garden.state.update(rows, {"lifecycle_state": code, "alpha": alpha})
            garden.refresh()
            ours, theirs = (outcome(run, model, host.batch()) for run in (compiled, model))
            assert_close(ours, theirs, f"{state} at {alpha}")
        with garden.trial(torch.tensor(rows)):
            ours, theirs = (outcome(run, model, host.batch()) for run in (compiled, model))
            assert_close(ours, theirs, "on trial")


def test_a_pool_that_doubles_compiles_once() -> None:
    """Its parameters have other shapes then; between two doublings nothing is compiled."""
    torch._dynamo.reset()
    model = morph(nn.Linear(4, 40), [Site("", placement="inline", seeds=20, hidden=2)])
    garden = Garden.of(model)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    x, graphs = torch.randn(3, 4), []
    for row in range(18):
        put(garden, row, "GRAFTING", alpha=0.5)
        ours, theirs = (outcome(run, model, x) for run in (compiled, model))
        assert_close(ours, theirs, f"{row + 1} seeds")
        graphs.append(counter.frame_count)
    assert site_of(model).pool("mlp").capacity == 32
    assert graphs == [1] * 4 + [2] * 4 + [3] * 8 + [4] * 2


@pytest.mark.no_cover
def test_more_doublings_than_torch_likes_to_compile() -> None:
    """Each is expected, and so does not count against the limit of recompilations."""
    torch._dynamo.reset()
    blocks = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
    model = morph(blocks, [Site("*", placement="inline", seeds=5, hidden=2)])
    garden, counter, x = Garden.of(model), CompileCounter(), torch.randn(3, 6)
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch._dynamo.config.patch(recompile_limit=2):
        for site in garden.sites.values():
            for slot in range(5):
                put(garden, site.first_row + slot, "GRAFTING", alpha=0.1)
            assert torch.allclose(compiled(x), model(x), atol=1e-5)
    assert counter.frame_count == len(garden.sites) == 5


def site_of(model: nn.Module) -> SiteLayer:
    """Its one site."""
    (site,) = Garden.of(model).sites.values()
    return site


def test_layers_that_are_compiled_one_by_one_share_a_graph() -> None:
    """A site's number is no constant of the graph."""
    torch._dynamo.reset()
    blocks = [nn.Linear(4, 4) for _ in range(6)]
    model = morph(nn.Sequential(*blocks), [Site("*", placement="inline", seeds=2, hidden=2)])
    every_kind(Garden.of(model), "GRAFTING", alpha=0.5)
    counter, x = CompileCounter(), torch.randn(3, 4)
    for block in blocks:
        compiled = torch.compile(block, fullgraph=True, backend=counter)
        assert torch.allclose(compiled(x), block(x), atol=1e-6)
    assert counter.frame_count <= 2  # the second one teaches torch that the number varies


def test_without_gradients_the_graph_writes_in_place() -> None:
    """A Linear's output is nobody else's; a module that may return what others hold is copied."""
    torch._dynamo.reset()
    for host, op in ((nn.Linear(4, 4), "grow_"), (nn.Identity(), "grow")):
        model = morph(host, [Site("", placement="inline", seeds=2, features=4)])
        put(Garden.of(model), 0, "GRAFTING", alpha=0.5)
        graphs: list[str] = []

        def noting(graph: torch.fx.GraphModule, inputs: object, to: list[str] = graphs) -> object:
            to.append(str(graph.code))
            return graph.forward

        x = torch.randn(3, 4)
        before = x.clone()
        with torch.no_grad():
            found = torch.compile(model, fullgraph=True, backend=noting)(x)
            assert torch.allclose(found, model(x), atol=1e-6)
        assert torch.equal(x, before)
        assert f"kasmina.{op}(" in graphs[0]


@pytest.mark.no_cover
def test_the_default_backend() -> None:
    """Through inductor: values and gradients, with and without gradients."""
    torch._dynamo.reset()
    sites = [Site("0", placement="inline", seeds=3), Site("0", until="2", seeds=2)]
    model = morph(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), sites)
    every_kind(Garden.of(model), "GRAFTING", alpha=0.5)
    compiled, x = torch.compile(model, fullgraph=True), torch.randn(5, 4)
    ours, theirs = (outcome(run, model, x) for run in (compiled, model))
    assert_close(ours, theirs, "inductor")
    with torch.no_grad():
        assert torch.allclose(compiled(x), model(x), atol=1e-6)


def test_autocast_in_a_graph() -> None:
    """Blueprints compute in the dtype of the host's output, as in eager mode."""
    torch._dynamo.reset()
    sites = [Site("0", placement="inline", seeds=3), Site("0", until="2", seeds=2)]
    model = morph(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), sites)
    every_kind(Garden.of(model), "GRAFTING", alpha=0.5)
    compiled, x = torch.compile(model, fullgraph=True, backend="aot_eager"), torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (outcome(lambda x, run=run: run(x), model, x) for run in (compiled, model))  # type: ignore[misc]
    assert ours["output"].dtype == theirs["output"].dtype == torch.bfloat16
    for name, expected in theirs.items():
        scale = float(expected.float().abs().max())
        assert torch.allclose(ours[name].float(), expected.float(), atol=0.03 * scale), name


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_training_aside_sees_a_checkpointed_host(compiled: bool) -> None:
    """The pass that a checkpoint runs again is no new one, and its gradient is told."""
    torch._dynamo.reset()
    model = morph(
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
        [Site("0", placement="inline", seeds=2), Site("2", seeds=2)],
    )
    every_kind(Garden.of(model), "TRAINING")
    x = torch.randn(5, 4)

    def loss(x: Tensor) -> Tensor:
        hidden: Tensor = checkpoint(model, x, use_reentrant=False)
        return hidden.square().sum()

    run = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss
    expected = model(x)
    backward(expected.square().sum())
    passages = [site.captured for site in Garden.of(model).sites.values()]
    for site in Garden.of(model).sites.values():
        site._capture.clear()
    backward(run(x))
    for site, passage in zip(Garden.of(model).sites.values(), passages, strict=True):
        found = site.captured
        assert found is not None and passage is not None, site.path
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, passage, strict=True))


def test_a_compiled_pass_is_recorded_sampled_and_captured() -> None:
    """Recorders, telemetry and the capture get from a graph what they get from eager passes."""
    torch._dynamo.reset()
    model = morph(nn.Linear(4, 6), [Site("", placement="inline", seeds=3)])
    garden, site, x = Garden.of(model), site_of(model), torch.randn(5, 4)
    put(garden, 0, "TRAINING")
    put(garden, 1, "GRAFTING", alpha=0.5)
    recorder, weight = Recorder(site), torch.randn(5, 6)
    seen = []
    for run in (torch.compile(model, fullgraph=True, backend="aot_eager"), model):
        site.sample_every = 1
        backward((run(x) * weight).sum())
        captured, telemetry = site.captured, garden.telemetry()
        recorder.start()
        ((passage,),) = finished([recorder], (run(x) * weight).sum())
        recorder.stop()
        site._capture.clear()
        assert captured is not None
        seen.append([*captured, *passage, telemetry.total, telemetry.squares, telemetry.maximum])
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("placement", ["inline", "parallel"])
@pytest.mark.parametrize("state", ["DORMANT", "GRAFTING"])
def test_opcheck(placement: Placement, state: str) -> None:
    """Schema, fake tensors, autograd registration and dynamic shapes of every op."""
    model = morph(nn.Linear(4, 4), [Site("", placement=placement, seeds=2, hidden=2)])
    put(Garden.of(model), 0, state, alpha=0.5)
    site = site_of(model)
    x = None if placement == "inline" else torch.randn(3, 4, requires_grad=True)
    y = torch.randn(3, 4, requires_grad=True)
    shared = (site.alpha, list(site.pools.parameters()), site._seat.shape[1])
    torch.library.opcheck(torch.ops.kasmina.grow.default, (y, x, *shared, True))
    detached = (site.alpha.detach(), [p.detach() for p in site.pools.parameters()], shared[2])
    g = torch.randn(3, 4)
    torch.library.opcheck(
        torch.ops.kasmina.grow_backward.default,
        (g, y.detach(), None if x is None else x.detach(), *detached),
    )
    if placement == "inline":
        torch.library.opcheck(torch.ops.kasmina.grow_.default, (y.detach().clone(), *detached))


def test_a_graph_that_outlives_its_model() -> None:
    """The number of a site that is gone names no other one."""
    model = morph(nn.Linear(4, 4), [Site("", placement="inline", seeds=2)])
    site = site_of(model)
    arguments = (site.alpha.detach(), [p.detach() for p in site.pools.parameters()])
    number = site._seat.shape[1]
    del model, site
    gc.collect()
    with pytest.raises(RuntimeError, match=rf"the site with seat {number} is gone: .* compile"):
        torch.ops.kasmina.grow_(torch.zeros(2, 4), *arguments, number)


@every_host
def test_a_copy_is_independent(host: Host) -> None:
    """A deep copy has its own seeds: what happens to one is not felt by the other."""
    model = built(host).eval()
    every_kind(Garden.of(model), "GRAFTING")
    with torch.no_grad():
        before = model(host.batch())
        twin = copy.deepcopy(model)
        assert torch.equal(twin(host.batch()), before)
        garden = Garden.of(twin)
        assert garden is not Garden.of(model) and garden.state is not Garden.of(model).state
        garden.state.update(slice(None), {"alpha": 0.0})
        garden.refresh()
        for parameter in twin.parameters():
            parameter.add_(1)
        assert torch.equal(model(host.batch()), before)
        assert not torch.allclose(twin(host.batch()), before)


@every_host
def test_a_state_dict_rebuilds_a_grown_model(host: Host) -> None:
    """Saved by torch.save, loaded into a fresh morphed host: the same outputs, to the bit."""
    model = built(host).eval()
    every_kind(Garden.of(model), "GRAFTING", alpha=0.6)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = built(host).eval()
    result = fresh.load_state_dict(torch.load(file, weights_only=True))
    assert not result.missing_keys and not result.unexpected_keys
    with torch.no_grad():
        assert torch.equal(fresh(host.batch()), model(host.batch()))
    assert Garden.of(fresh).signature() == Garden.of(model).signature()


@every_host
def test_the_hosts_keys_stay(host: Host) -> None:
    """All of ours lies under `kasmina.`, the host's names and objects are as they were."""
    plain, model = built(host, seeds=False), built(host)
    theirs = [name for name in model.state_dict() if not name.startswith("kasmina.")]
    assert theirs == list(plain.state_dict())
    named = [n for n, _ in model.named_parameters() if not n.startswith("kasmina.")]
    assert named == [n for n, _ in plain.named_parameters()]
    assert not any(name.startswith("kasmina.") for name in plain.state_dict())


def test_a_state_dict_that_does_not_fit() -> None:
    """A missing column and an illegal value are reported as torch reports such things."""
    model = built(HOSTS[0])
    saved = model.state_dict()
    del saved["kasmina.state.alpha"]
    with pytest.raises(
        RuntimeError, match=r'Missing key\(s\) in state_dict: "kasmina.state.alpha"'
    ):
        model.load_state_dict(saved)
    saved = model.state_dict()
    saved["kasmina.state.lifecycle_state"] = torch.full_like(
        saved["kasmina.state.lifecycle_state"], 77
    )
    with pytest.raises(RuntimeError, match=r"kasmina.state: column 'lifecycle_state'.*77"):
        model.load_state_dict(saved)
    saved = model.state_dict()
    saved["kasmina.stray"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "kasmina.stray"'):
        model.load_state_dict(saved)


def test_another_dtype() -> None:
    """Blueprints follow the host's dtype; alpha and the state keep theirs."""
    model = built(HOSTS[0]).eval()
    garden = Garden.of(model)
    every_kind(garden, "GRAFTING")
    batch = HOSTS[0].batch()
    with torch.no_grad():
        expected = model(batch)
        found = model.double()(batch.double())
    assert found.dtype == torch.float64
    assert torch.allclose(found.float(), expected, atol=1e-5)
    (site, *_) = garden.sites.values()
    assert site.alpha.dtype == garden.state["alpha"].dtype == torch.float32


def test_a_sequential_still_runs() -> None:
    """The garden stands last in a Sequential and hands on what it is given."""
    model = morph(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), [Site("0", until="2")]
    )
    x = torch.randn(2, 3)
    expected = model[2](model[1](model[0](x)))
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("state", ["DORMANT", "FINE_TUNING"])
def test_another_layout_is_refused_in_a_graph_too(state: str) -> None:
    """The op looks at what it is given in each pass."""
    torch._dynamo.reset()
    host = nn.Sequential(nn.Linear(4, 6))
    model = morph(host, [Site("0", layout=("sequence", 5, 4), blueprint="attention", seeds=1)])
    if state != "DORMANT":
        put(Garden.of(model), 0, state)
    compiled = torch.compile(model, backend="aot_eager")
    assert compiled(torch.zeros(2, 5, 4)).shape == (2, 5, 6)
    with pytest.raises(
        SiteError, match=r"^site '0': its input has the shape \(2, 3, 4\), but its l"
    ):
        compiled(torch.zeros(2, 3, 4))
