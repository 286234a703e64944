"""Taking Kasmina out of a grown model."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from kasmina.lifecycle import StateTensor
from kasmina.sites import Garden, Site, SiteError, SiteLayer, fold, morph
from tests.runtime.sites.models import HOSTS, Host, Transformer, built, every_kind, put

every_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)


def assert_plain(model: nn.Module) -> None:
    """Nothing of Kasmina but plain modules is left."""
    for name, module in model.named_modules():
        assert not isinstance(module, Garden | SiteLayer), name
        assert not module._forward_hooks and not module._forward_pre_hooks, name
        assert not any(isinstance(value, StateTensor) for value in vars(module).values())
        ours = type(module).__module__
        assert not ours.startswith("kasmina.") or ours.endswith(".plain"), (name, ours)
    assert not [name for name in model.state_dict() if "kasmina" in name]


@every_host
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_a_folded_model_computes_the_same(host: Host, alpha: float) -> None:
    """To 1e-6 of the output's size, with every kind at every site; as many parameters as counted."""
    model = built(host).eval()
    garden = Garden.of(model)
    every_kind(garden, "STABILIZATION", alpha)
    expected = model(host.batch())
    folded = fold(model)
    assert_plain(folded)
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            error = (folded(host.batch()) - expected).abs().max()
        assert error <= 1e-6 * expected.abs().max().clamp_min(1)
    assert sum(p.numel() for p in folded.parameters()) == garden.parameters_kept()
    assert not any(module.training for module in folded.modules())
    assert torch.equal(model(host.batch()), expected)


@every_host
def test_without_live_seeds_a_plain_copy_is_left(host: Host) -> None:
    """Same keys, same bits, and what trains aside or sleeps is gone."""
    model = built(host)
    every_kind(Garden.of(model), "TRAINING")
    folded, plain = fold(model), built(host, seeds=False)
    assert_plain(folded)
    assert list(folded.state_dict()) == list(plain.state_dict())
    folded.eval(), plain.eval()
    with torch.no_grad():
        assert torch.equal(folded(host.batch()), plain(host.batch()))


@every_host
def test_a_folded_model_trains(host: Host) -> None:
    """Every parameter of it gets a gradient."""
    model = built(host)
    every_kind(Garden.of(model), "FOSSILIZED", 1.0)
    folded = fold(model)
    assert all(module.training for module in folded.modules())
    torch.autograd.backward(folded(host.batch()).square().sum())
    assert all(p.grad is not None for p in folded.parameters())


def test_only_grown_sites_change_their_keys() -> None:
    """A wrapped module's keys begin with `host.`; all the others stay."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    morph(model, [Site("0", seeds=1), Site("2", seeds=1)])
    put(Garden.of(model), 0, "FOSSILIZED")
    keys = set(fold(model).state_dict())
    assert {"0.host.weight", "0.host.bias", "2.weight", "2.bias"} <= keys


class Collect(nn.Module):
    """Goes through its layers by itself, and keeps what each puts out."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, 4]` to `[B, 20]`."""
        found = [x]
        for layer in self.body:
            found.append(layer(found[-1]))
        return torch.cat(found, -1)


def test_a_host_may_go_through_its_layers_by_itself() -> None:
    """So a span's modules stay where they are."""
    model, x = Collect().eval(), torch.randn(5, 4)
    morph(model, [Site("body.0", until="body.2", seeds=2)], example=x)
    put(Garden.of(model), 0, "FOSSILIZED")
    torch.testing.assert_close(fold(model)(x), model(x))


class Asks(Collect):
    """Does something after those of its layers that are of a type."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, 4]` to `[B, 4]`."""
        for layer in self.body:
            x = layer(x).cos() if isinstance(layer, nn.Linear) else layer(x)
        return x


def test_a_host_that_asks_for_types_is_told_of_other_outputs(tmp_path: Path) -> None:
    """Where there is an example; nothing is written then."""
    model, x = Asks().eval(), torch.randn(5, 4)
    morph(model, [Site("body.0", seeds=2)], example=x)
    put(Garden.of(model), 0, "FOSSILIZED")
    for more in ({}, {"to": tmp_path / "out"}):
        with pytest.raises(SiteError) as error:
            fold(model, example=x, **more)
        assert re.fullmatch(
            r"fold: on the example the folded model puts out something else than the grown one: Tensor-"
            r"likes are not close! Mismatched .*\. A module around which .* asks for a module's type \(isinstance\) or takes its parts by "
            r"themselves, or place the site at a module that is only called",
            str(error.value),
        )
    assert not (tmp_path / "out").exists()
    fold(morph(Collect(), [Site("body.0", seeds=2)], example=x), example=x)


def test_a_span_of_a_sequential_keeps_its_modules() -> None:
    """Each where it is, so that what follows keeps its keys."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.Linear(5, 2)).eval()
    morph(model, [Site("0", until="2", seeds=1), Site("0", placement="inline", seeds=1)])
    garden = Garden.of(model)
    put(garden, 0, "FOSSILIZED")
    expected = model(torch.ones(2, 3))
    folded = fold(model)
    assert torch.allclose(folded(torch.ones(2, 3)), expected, atol=1e-6)
    assert isinstance(folded, nn.Sequential) and isinstance(folded[1], nn.ReLU)
    assert "3.weight" in folded.state_dict()
    put(garden, 1, "FOSSILIZED")  # the inline seed stands at the first module of the span now
    expected = model(torch.ones(2, 3))
    assert torch.allclose(fold(model)(torch.ones(2, 3)), expected, atol=1e-6)


@pytest.mark.parametrize("inline_first", [False, True])
def test_sites_that_end_at_one_module_keep_their_order(inline_first: bool) -> None:
    """Adding and then transforming is not transforming and then adding."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)).eval()
    sites = [Site("0", until="2", seeds=1), Site("2", placement="inline", seeds=2)]
    morph(model, sites[::-1] if inline_first else sites)
    every_kind(Garden.of(model), "FOSSILIZED")
    x = torch.randn(6, 3)
    assert torch.allclose(fold(model)(x), model(x), atol=1e-5)


def test_overlapping_spans() -> None:
    """Neither is a block of its own; both still add where they end."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))).eval()
    morph(model, [Site("0", until="2", seeds=1), Site("1", until="3", seeds=1)])
    every_kind(Garden.of(model), "FOSSILIZED")
    x = torch.randn(6, 4)
    assert torch.allclose(fold(model)(x), model(x), atol=1e-5)


def test_the_whole_model_as_a_site() -> None:
    """The root itself is wrapped."""
    model = morph(nn.Sequential(nn.Linear(3, 4)), [Site("", seeds=1)])
    put(Garden.of(model), 0, "FOSSILIZED")
    x = torch.randn(2, 3)
    folded = fold(model)
    assert torch.allclose(folded(x), model(x), atol=1e-6)
    assert "host.0.weight" in folded.state_dict()


def test_replacing_chunks_at_full_alpha() -> None:
    """Nothing of the host's chunk is left where a seed has replaced it."""
    site = Site("", placement="inline", seeds=2, mode="replace")
    model = morph(nn.Linear(3, 5), [site])
    put(Garden.of(model), 0, "FOSSILIZED", alpha=1.0)
    put(Garden.of(model), 1, "GRAFTING", alpha=0.25)
    x = torch.randn(2, 3)
    assert torch.allclose(fold(model)(x), model(x), atol=1e-6)


def test_torchs_fused_encoder_does_not_go_past_what_grew() -> None:
    """In evaluation mode, without gradients, a folded encoder layer still runs its parts."""
    model = morph(
        Transformer(),
        [Site("block.linear1", seeds=1), Site("block.self_attn", placement="inline", seeds=1)],
        example=torch.zeros(1, 4, dtype=torch.long),
    ).eval()
    every_kind(Garden.of(model), "FOSSILIZED")
    batch = torch.ones(2, 4, dtype=torch.long)
    with torch.no_grad():
        assert torch.allclose(fold(model)(batch), model(batch), atol=1e-6)


def test_the_hosts_attributes_stay_readable() -> None:
    """Code that looks at the module that stood there goes on."""
    model = morph(nn.Sequential(nn.Linear(3, 4)), [Site("0", seeds=1)])
    put(Garden.of(model), 0, "FOSSILIZED")
    (wrapped,) = fold(model).children()
    assert wrapped.in_features == 3
    with pytest.raises(AttributeError, match="nonsense"):
        _ = wrapped.nonsense


@pytest.mark.parametrize("placement", ["parallel", "inline"])
def test_what_stands_around_the_host_hides_none_of_its_attributes(
    placement: Literal["parallel", "inline"],
) -> None:
    """Whatever they are called; `features` is what many networks call their body."""
    host = nn.Linear(3, 4)
    for name in ("features", "chunks", "width", "axis"):
        setattr(host, name, f"the host's {name}")
    model = morph(nn.Sequential(host), [Site("0", seeds=1, placement=placement)])
    put(Garden.of(model), 0, "FOSSILIZED")
    (wrapped,) = fold(model).children()
    for name in ("features", "chunks", "width", "axis"):
        assert getattr(wrapped, name) == f"the host's {name}"


def test_the_users_hooks_stay() -> None:
    """Only ours go."""
    seen: list[Tensor] = []
    model = nn.Sequential(nn.Linear(3, 4))
    model[0].register_forward_hook(lambda module, args, output: seen.append(output))
    morph(model, [Site("0", seeds=1)])
    fold(model)(torch.ones(1, 3))
    assert len(seen) == 1


def test_a_plain_model_is_refused() -> None:
    """There is nothing to fold."""
    with pytest.raises(SiteError, match=r"Linear has no seeds; call kasmina.morph\(model"):
        fold(nn.Linear(2, 2))


def nested(draw: random.Random, depth: int) -> nn.Module:
    """Modules in modules, all of 6 features."""
    if depth and draw.random() < 0.3:
        return nn.Sequential(*(nested(draw, depth - 1) for _ in range(draw.randint(1, 3))))
    return draw.choice([nn.Linear(6, 6), nn.Tanh(), nn.LayerNorm(6), nn.Dropout(0.1)])


def anywhere(draw: random.Random, model: nn.Module) -> Site:
    """A site at any module, or from one to any other, the whole model among them."""
    names = [name for name, _ in model.named_modules()]
    if draw.random() < 0.4:
        return Site(draw.choice(names), placement="inline", seeds=draw.randint(1, 3))
    until = draw.choice([*names, None, None, "."])
    return Site(draw.choice(names), until=until, seeds=draw.randint(1, 2), blueprint="gated")


def test_sites_in_sites_and_spans_that_overlap() -> None:
    """Wherever sites are legal, what is folded and what is copied compute what the model does."""
    legal, x = 0, torch.randn(3, 6)
    for seed in range(60):
        draw = random.Random(seed)
        torch.manual_seed(seed)
        model = nn.Sequential(*(nested(draw, 2) for _ in range(draw.randint(2, 5)))).eval()
        sites = [anywhere(draw, model) for _ in range(draw.randint(1, 4))]
        try:
            morph(model, sites, example=x)
        except SiteError:  # two at one place, or from a later module to an earlier one
            continue
        legal += 1
        every_kind(Garden.of(model), "STABILIZATION", 0.6)
        expected = model(x)
        torch.testing.assert_close(fold(model)(x), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(copy.deepcopy(model)(x), expected)
    assert legal > 20
