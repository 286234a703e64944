"""Every built-in kind at every place that it fits."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import backward
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kasmina.blueprints import BlueprintError, SiteShape, blueprint_kind
from tests.runtime.blueprints.places import FITTING, KINDS, PLACES, made, stacked, what_it_reads

SEEDS, EXAMPLES = 3, 4
every = pytest.mark.parametrize(("place", "kind"), FITTING)


@every
def test_seeds_do_not_mix(place: str, kind: str) -> None:
    """A product over all seeds gives each what it would give alone."""
    blueprint = made(place, kind)
    params, x = stacked(blueprint, SEEDS), what_it_reads(PLACES[place], SEEDS, EXAMPLES)
    together = blueprint.forward(params, x)
    for seed in range(SEEDS):
        own = {name: value[seed : seed + 1] for name, value in params.items()}
        mine = x[seed : seed + 1] if PLACES[place].placement == "inline" else x
        assert torch.allclose(blueprint.forward(own, mine)[0], together[seed], atol=1e-6)


@every
def test_export_computes_the_same(place: str, kind: str) -> None:
    """The plain module of one seed gives what the seed gives, and can start anew."""
    blueprint = made(place, kind)
    params, x = stacked(blueprint, SEEDS), what_it_reads(PLACES[place], SEEDS, EXAMPLES)
    together = blueprint.forward(params, x)
    before = torch.get_rng_state()
    exported = blueprint.export({name: value[1] for name, value in params.items()})
    assert torch.equal(before, torch.get_rng_state())
    mine = x[1] if PLACES[place].placement == "inline" else x
    assert torch.allclose(exported(mine), together[1], atol=1e-6)
    assert sum(p.numel() for p in exported.parameters()) == blueprint.cost().parameters
    for module in exported.modules():
        if list(module.parameters(recurse=False)):
            module.reset_parameters()  # type: ignore[operator]


@every
def test_scale_output_scales_what_is_computed(place: str, kind: str) -> None:
    """A factor a seed, folded into the last map, multiplies the seed's output."""
    blueprint = made(place, kind)
    params, x = stacked(blueprint, SEEDS), what_it_reads(PLACES[place], SEEDS, EXAMPLES)
    before = blueprint.forward(params, x)
    factor = torch.tensor([0.5, 0.0, -3.0])
    blueprint.scale_output(params, factor)
    expected = factor.view(-1, *[1] * (before.dim() - 1)) * before
    assert torch.allclose(blueprint.forward(params, x), expected, atol=1e-5)


@every
def test_cost_is_what_torch_counts(place: str, kind: str) -> None:
    """Parameters are those of `init`; FLOPs are those of torch's own counter."""
    blueprint = made(place, kind)
    params, x = stacked(blueprint, 1), what_it_reads(PLACES[place], 1, EXAMPLES)
    cost = blueprint.cost()
    assert cost.parameters == sum(value.numel() for value in params.values())
    assert cost.bytes == 4 * cost.parameters
    with FlopCounterMode(display=False) as counter:
        blueprint.forward(params, x)
    if kind != "affine":  # the counter leaves pointwise products out
        assert cost.flops_per_example * EXAMPLES == counter.get_total_flops()


@every
def test_every_parameter_gets_a_gradient(place: str, kind: str) -> None:
    """Nothing is dead from the start."""
    blueprint = made(place, kind)
    params = {name: value.requires_grad_() for name, value in stacked(blueprint, SEEDS).items()}
    x = what_it_reads(PLACES[place], SEEDS, 16)
    backward(blueprint.forward(params, x).square().sum())
    for name, value in params.items():
        assert value.grad is not None and value.grad.abs().sum() > 0, name


@every
@pytest.mark.parametrize("seeds", [1, SEEDS])
def test_an_empty_batch(place: str, kind: str, seeds: int) -> None:
    """Of no example nothing is made, forwards and backwards, also by the exported module."""
    blueprint, inline = made(place, kind), PLACES[place].placement == "inline"
    params = {name: value.requires_grad_() for name, value in stacked(blueprint, seeds).items()}
    full = blueprint.forward(params, what_it_reads(PLACES[place], seeds, 1))
    x = what_it_reads(PLACES[place], seeds, 0).requires_grad_()
    output = blueprint.forward(params, x)
    assert output.shape == (seeds, 0, *full.shape[2:])
    backward(output.square().sum())
    for name, value in params.items():
        assert value.grad is not None and not value.grad.any(), name
    plain = blueprint.export({name: value[0].detach() for name, value in params.items()})
    alone = plain(x[0] if inline else x)
    assert alone.shape == output.shape[1:]
    backward(alone.sum())


@every
def test_init_depends_on_the_generator_alone(place: str, kind: str) -> None:
    """The same generator gives the same numbers, and the global stream is not touched."""
    blueprint = made(place, kind)
    before = torch.get_rng_state()
    first, second = (blueprint.init(torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for name, shape in blueprint.shapes().items():
        assert torch.equal(first[name], second[name])
        assert tuple(first[name].shape) == shape


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_mlp_is_two_linears(activation: str) -> None:
    """`mlp` is Linear, activation, Linear, with any of its activations."""
    blueprint = blueprint_kind("mlp")(PLACES["inline features"], 6, activation=activation)
    params, x = stacked(blueprint, 1), what_it_reads(PLACES["inline features"], 1, EXAMPLES)
    hidden = F.linear(x[0], params["up_weight"][0], params["up_bias"][0])
    active = getattr(F, activation)(hidden)
    expected = F.linear(active, params["out_weight"][0], params["out_bias"][0])
    assert torch.allclose(blueprint.forward(params, x)[0], expected, atol=1e-6)
    exported = blueprint.export({name: value[0] for name, value in params.items()})
    assert torch.allclose(exported(x[0]), expected, atol=1e-6)


def test_maps_start_as_torch_starts_them() -> None:
    """Weights and biases are uniform within 1/sqrt(fan_in), as nn.Linear's."""
    blueprint = blueprint_kind("mlp")(SiteShape("parallel", 100, 50), 200)
    drawn = blueprint.init(torch.Generator().manual_seed(0))
    ours, theirs = drawn["up_weight"], nn.Linear(100, 200).weight
    assert ours.abs().max() <= 0.1
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.05)


@pytest.mark.parametrize(("pool", "features"), [("mean", 6), ("flatten", 6 * 5)])
def test_conv_may_average_or_flatten(pool: str, features: int) -> None:
    """What is left of the positions, 5 of 40 after three strides of 2, is averaged or kept."""
    shape = PLACES["parallel flat signal"]
    blueprint = blueprint_kind("conv")(shape, 6, pool=pool)
    params, x = stacked(blueprint, 2), what_it_reads(shape, 2, EXAMPLES)
    assert blueprint.shapes()["out_weight"] == (shape.d_out, features)
    exported = blueprint.export({name: value[1] for name, value in params.items()})
    assert torch.allclose(exported(x), blueprint.forward(params, x)[1], atol=1e-6)


@pytest.mark.parametrize(
    ("place", "kind"), [(p, k) for p, k in FITTING if PLACES[p].placement == "inline"]
)
def test_reconstruction_can_be_learned(place: str, kind: str) -> None:
    """An inline seed of every kind learns to give its chunk back, well below the lifecycle's 0.7."""
    blueprint = made(place, kind, hidden=16)
    stream = torch.Generator().manual_seed(0)
    params = {n: v[None].requires_grad_() for n, v in blueprint.init(stream).items()}
    optimizer = torch.optim.Adam(params.values(), lr=2e-2)
    for _ in range(250):
        x = torch.randn(what_it_reads(PLACES[place], 1, 16).shape, generator=stream)
        loss = (blueprint.forward(params, x) - x).square().mean()
        optimizer.zero_grad()
        backward(loss)
        optimizer.step()
    assert loss < 0.35


@every
def test_the_cost_grows_with_the_seed(place: str, kind: str) -> None:
    """More hidden units cost more of everything, unless the kind has none."""
    small, large = (made(place, kind, hidden).cost() for hidden in (2, 5))
    if kind == "affine":
        assert small == large
    else:
        assert small.parameters < large.parameters and small.bytes < large.bytes
        assert small.flops_per_example < large.flops_per_example


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_fits_or_says_why_not(place: str, kind: str) -> None:
    """No kind is made where it cannot be; the reason names the kind."""
    if (place, kind) in FITTING:
        assert made(place, kind).shape is PLACES[place]
    else:
        with pytest.raises(BlueprintError, match=f"^blueprint '{kind}' "):
            made(place, kind)


@pytest.mark.parametrize("place", ["parallel tokens", "inline tokens"])
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("conv", "separable")])
def test_no_token_sees_later_ones(place: str, kind: str) -> None:
    """In a language model a seed that did would read the answer."""
    shape = PLACES[place]
    if (place, kind) not in FITTING:
        return
    blueprint, seeds = made(place, kind), 2
    params, x = stacked(blueprint, seeds), what_it_reads(shape, seeds, 3)
    before = blueprint.forward(params, x)
    changed = torch.unflatten(x, -2, (3, shape.tokens)).clone()
    changed[..., 3:, :] += 1
    after = blueprint.forward(params, changed.flatten(-3, -2))
    ours, theirs = (torch.unflatten(y, 1, (3, shape.tokens)) for y in (before, after))
    assert torch.allclose(ours[:, :, :3], theirs[:, :, :3], atol=1e-6)
    assert not torch.allclose(ours[:, :, 3:], theirs[:, :, 3:], atol=1e-3)


def test_attention_may_be_told_to_look_ahead() -> None:
    """For sequences that are read as a whole; the last token then matters to the first."""
    blueprint = blueprint_kind("attention")(PLACES["parallel tokens"], 6, causal=False)
    params, x = stacked(blueprint, 1), what_it_reads(PLACES["parallel tokens"], 1, 1)
    before = blueprint.forward(params, x)
    x[-1] += 1
    assert not torch.allclose(blueprint.forward(params, x)[:, 0], before[:, 0], atol=1e-4)


def test_attention_knows_places_of_a_flat_signal() -> None:
    """A signal read backwards gives something else, which a mean without places would not."""
    blueprint = made("parallel flat signal", "attention")
    params, x = stacked(blueprint, 1), what_it_reads(PLACES["parallel flat signal"], 1, EXAMPLES)
    there, back = (blueprint.forward(params, each) for each in (x, x.flip(1)))
    assert not torch.allclose(there, back, atol=1e-3)


def test_a_separable_layer_is_cheaper() -> None:
    """Below half of the parameters and FLOPs of the full convolution at the same place."""
    shape = SiteShape("parallel", 16, 16, (16, 8, 8), True, (16, 8, 8))
    full, split = (blueprint_kind(kind)(shape, 16).cost() for kind in ("conv", "separable"))
    assert 2 * split.parameters < full.parameters
    assert 2 * split.flops_per_example < full.flops_per_example


@pytest.mark.parametrize("kind", ["affine", "squeeze_excite"])
def test_starts_as_zero(kind: str) -> None:
    """Both the kind and its plain module, when it starts anew, are the zero function."""
    blueprint = made("inline features", kind)
    drawn = blueprint.init(torch.Generator())
    x = what_it_reads(PLACES["inline features"], 1, EXAMPLES)
    assert not blueprint.forward({n: v[None] for n, v in drawn.items()}, x).any()
    plain = blueprint.export({n: v + 1 for n, v in drawn.items()})
    assert plain(x[0]).any()
    plain.reset_parameters()  # type: ignore[operator]
    assert not plain(x[0]).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: blueprint_kind("mlp")(SiteShape("inline", 4, 4), 0),
            (
                "blueprint 'mlp': hidden=0; legal: a whole number from 1 to 65536. Say it with "
                "Site(..., options={'mlp': {'hidden': ...}})"
            ),
        ),
        (
            lambda: blueprint_kind("mlp")(SiteShape("inline", 4, 4), 8, activation="tanh"),
            (
                "blueprint 'mlp': activation='tanh'; legal: relu, gelu, silu. Say it with "
                "Site(..., options={'mlp': {'activation': ...}})"
            ),
        ),
        (
            lambda: blueprint_kind("affine")(SiteShape("parallel", 4, 5), 8),
            (
                "blueprint 'affine' maps features one by one, but this site reads 4 and writes 5; use "
                "'mlp' or 'low_rank' here"
            ),
        ),
        (
            lambda: blueprint_kind("conv")(SiteShape("parallel", 4, 5), 8),
            (
                "blueprint 'conv' needs a layout (channels, length) or (channels, height, width), but "
                "this site's input has None; give Site(..., layout=(1, 40)), or an example= to morph() "
                "for a site of channels"
            ),
        ),
        (
            lambda: blueprint_kind("conv")(SiteShape("inline", 4, 4, (1, 4)), 8),
            (
                "blueprint 'conv' cannot transform a chunk of plain features, which have no "
                "neighbours; use placement='parallel', or a site of channels"
            ),
        ),
        (
            lambda: blueprint_kind("conv")(PLACES["inline signal"], 8, layers=1),
            (
                "blueprint 'conv': layers=1; legal: 2 or more where the site has channels, whose last "
                "layer has no SiLU"
            ),
        ),
        (
            lambda: made("parallel tokens", "conv"),
            (
                "blueprint 'conv' would let a token see those after it; use 'causal_conv' or "
                "'attention', or a site of channels"
            ),
        ),
        (
            lambda: made("parallel flat signal", "causal_conv"),
            (
                "blueprint 'causal_conv' needs the order of tokens, and the rows of this site are "
                "none (layout (1, 40)); give Site(..., layout=('sequence', tokens, features)) where "
                "each token is a row, or use 'conv' for signals and pictures"
            ),
        ),
        (
            lambda: made("parallel features", "attention"),
            (
                "blueprint 'attention' needs tokens, and this site's features have no layout; give "
                "Site(..., layout=(1, 40)) or layout=('sequence', tokens, features), or an example= "
                "to morph()"
            ),
        ),
        (
            lambda: blueprint_kind("attention")(SiteShape("inline", 4, 4, (1, 4)), 8),
            (
                "blueprint 'attention' cannot transform a chunk of plain features, which have no "
                "positions; use placement='parallel', or a site of channels or sequences"
            ),
        ),
        (
            lambda: made("parallel smaller picture", "attention"),
            (
                "blueprint 'attention' writes at the positions that it reads, but the site changes "
                "them from (3, 8, 8) to (5, 4, 4); use blueprint='conv', or placement='inline'"
            ),
        ),
        (
            lambda: blueprint_kind("attention")(PLACES["parallel signal"], 8, causal=True),
            (
                "blueprint 'attention': causal=True is for sites of sequences, [B, tokens, "
                "features]; here one output is made of all positions"
            ),
        ),
        (
            lambda: made("parallel flat signal", "squeeze_excite"),
            (
                "blueprint 'squeeze_excite' scales what it reads, but this site reads (1, 40) and "
                "writes 6; use 'conv' or 'mlp' here, or placement='inline'"
            ),
        ),
        (
            lambda: SiteShape("parallel", 9, 5, (3, 4), sequence=True),
            (
                "layout (3, 4) holds 12 values, but the site's input has 9 features; the product of "
                "the layout must be 9, or its last number 9"
            ),
        ),
        (
            lambda: SiteShape("inline", 4, 5),
            "an inline seed maps its chunk onto itself, so d_in=4 and d_out=5 must be equal",
        ),
        (lambda: SiteShape("parallel", 0, 5), "a seed needs features; got d_in=0, d_out=5"),
        (
            lambda: SiteShape("parallel", 40, 5, (1, 8, 8)),
            (
                "layout (1, 8, 8) holds 64 values, but the site's input has 40 features; the product "
                "of the layout must be 40"
            ),
        ),
    ],
)
def test_refusals(make: object, message: str) -> None:
    """What does not fit says why, and what would."""
    with pytest.raises(BlueprintError) as error:
        make()  # type: ignore[operator]
    assert str(error.value) == message
