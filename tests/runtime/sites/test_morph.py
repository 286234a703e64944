"""Finding places for seeds in a model, and refusing where there is none."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from kasmina.blueprints import SiteShape
from kasmina.sites import Garden, Site, SiteError, morph
from tests.runtime.sites.models import HOSTS, Host, Recurrent, Transformer, built, put

every_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)


def mlp() -> nn.Sequential:
    """Three maps in a row."""
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))


class Named(nn.Module):
    """Anything that a test wants to call `forward`."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self._forward = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What was given."""
        return self._forward(self, *args, **kwargs)


def shapes(model: nn.Module) -> dict[str, SiteShape]:
    """The site's tensors by path."""
    return {path: site.shape for path, site in Garden.of(model).sites.items()}


def test_patterns_match_many() -> None:
    """Sites stand in the order of `sites` and of the modules; each owns its rows."""
    model = morph(mlp(), [Site("[24]", seeds=2), Site("0", placement="inline", seeds=3)])
    garden = Garden.of(model)
    assert list(garden.sites) == ["2", "4", "0"]
    assert [(s.first_row, s.n_seeds) for s in garden.sites.values()] == [(0, 2), (2, 2), (4, 3)]
    assert len(garden.state) == 7
    assert garden.site_of(3).path == "4"


@pytest.mark.parametrize("pattern", ["", "."])
def test_the_whole_model(pattern: str) -> None:
    """Its path is a dot."""
    garden = Garden.of(morph(mlp(), [Site(pattern)]))
    assert list(garden.sites) == ["."]
    assert shapes(garden)["."] == SiteShape("parallel", 4, 2)


@every_host
def test_modules_tell_their_features(host: Host) -> None:
    """With an example and without, where all modules tell, the same tensors are found."""
    try:
        told = shapes(built(host, example=False))
    except SiteError:
        pytest.fail(f"{host.name} does not tell") if host.name in ("gru", "transformer") else None
        return
    seen = shapes(built(host))
    assert {path: (s.d_in, s.d_out) for path, s in told.items()} == {
        path: (s.d_in, s.d_out) for path, s in seen.items()
    }


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(3, 4), (3, 4, False)),
        (nn.Conv2d(3, 4, 1), (3, 4, True)),
        (nn.ConvTranspose1d(3, 4, 1), (3, 4, True)),
        (nn.BatchNorm1d(3), (3, 3, True)),
        (nn.GroupNorm(2, 4), (4, 4, True)),
        (nn.LayerNorm(5), (5, 5, False)),
        (nn.LSTM(3, 4, bidirectional=True), (3, 8, False)),
        (nn.LSTM(3, 4, proj_size=2), (3, 2, False)),
        (nn.GRUCell(3, 4), (3, 4, False)),
        (nn.MultiheadAttention(6, 2), (6, 6, False)),
        (nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), (6, 6, False)),
        (nn.Sequential(nn.Dropout(), nn.Linear(3, 4), nn.Tanh()), (3, 4, False)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_module_says(module: nn.Module, expected: tuple[int, int, bool]) -> None:
    """Features of input and output, and where they are."""
    shape = shapes(morph(module, [Site("", seeds=1)]))["."]
    assert (shape.d_in, shape.d_out, shape.channels_first) == expected


def test_spans() -> None:
    """`until` names a sibling, or a module from the root; the path says both ends."""
    model = nn.Sequential(mlp(), nn.Sequential(nn.ReLU(), nn.Linear(2, 3)))
    morph(model, [Site("0.0", until="2"), Site("0.4", until="1.1")])
    assert shapes(model) == {
        "0.0..0.2": SiteShape("parallel", 4, 6),
        "0.4..1.1": SiteShape("parallel", 6, 3),
    }


def test_an_example_tells_what_modules_do_not() -> None:
    """Shapes, the axis of the features, a flattened layout, and nothing is left behind."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.norm(self.act(self.conv(x)))
        return self.head(self.flat(y))  # type: ignore[no-any-return]

    parts: dict[str, nn.Module] = {
        "conv": nn.Conv1d(2, 3, 3),
        "act": nn.Tanh(),
        "norm": nn.BatchNorm1d(3),
        "flat": nn.Flatten(),
        "head": nn.Linear(18, 4),
    }
    model = Named(forward, **parts)
    model.train()
    torch.manual_seed(5)
    stream = torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    morph(
        model,
        [
            Site("act", seeds=1),
            Site("flat", until="head", seeds=1),
            Site("conv", seeds=1, blueprint="conv"),
        ],
        example=torch.randn(2, 2, 8, generator=torch.Generator()),
    )
    assert torch.equal(torch.get_rng_state(), stream)
    assert model.training and all(part.training for part in parts.values())
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not model.norm._forward_hooks  # type: ignore[union-attr]
    assert shapes(model) == {
        "act": SiteShape("parallel", 3, 3, (3, 6), True, (3, 6)),
        "flat..head": SiteShape("parallel", 18, 4, (3, 6)),
        "conv": SiteShape("parallel", 2, 3, (2, 8), True, (3, 6)),
    }


def test_three_axes_without_a_word() -> None:
    """Examples, sequence and features, unless the user says otherwise."""
    site = Site("", placement="inline", seeds=1)
    by_default = morph(Named(lambda _, x: x), [site], example=torch.zeros(2, 3, 4))
    assert shapes(by_default)["."] == SiteShape("inline", 4, 4)
    told = Site("", placement="inline", seeds=1, channels_first=True)
    model = morph(Named(lambda _, x: x), [told], example=torch.zeros(2, 3, 4))
    assert shapes(model)["."] == SiteShape("inline", 3, 3, (3, 4), True, (3, 4))


def test_several_inputs() -> None:
    """An example may be a tuple of arguments or a mapping of keywords."""
    add = Named(lambda self, x, y: self.a(x) + y, a=nn.Linear(3, 3))
    morph(add, [Site("", seeds=1)], example=(torch.ones(2, 3), torch.ones(2, 3)))
    keyed = Named(lambda self, *, x: self.a(x), a=nn.Linear(3, 3))
    morph(keyed, [Site("", seeds=1)], example={"x": torch.ones(2, 3)})
    assert shapes(add) == shapes(keyed) == {".": SiteShape("parallel", 3, 3)}


def test_the_declared_layout() -> None:
    """A flattened signal is known by the site alone."""
    model = morph(nn.Linear(40, 6), [Site("", blueprint="conv", layout=(1, 40))])
    assert shapes(model)["."] == SiteShape("parallel", 40, 6, (1, 40))


class Tokens(nn.Module):
    """A map of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[B, T, 4]` to `[B, T, 6]`."""
        found: torch.Tensor = self.map(x)
        return found


@pytest.mark.parametrize("layout", [("sequence", 5, 4), ("sequence", 5)])
@pytest.mark.parametrize("example", [None, torch.zeros(2, 5, 4)])
def test_sequences_are_declared(
    example: torch.Tensor | None, layout: tuple[str | int, ...]
) -> None:
    """Axis 1 is one of tokens where the layout says so; the rows of a site are tokens then.

    Features that are not declared are those of the module.
    """
    model = morph(Tokens(), [Site("map", layout=layout, seeds=1)], example=example)
    shape = Garden.of(model).sites["map"].shape
    assert (shape.layout, shape.sequence, shape.tokens, shape.positions) == ((5, 4), True, 5, 5)
    flat = morph(nn.Linear(20, 6), [Site("", layout=("sequence", 5, 4), seeds=1)])
    shape = Garden.of(flat).sites["."].shape
    assert (shape.d_in, shape.tokens, shape.positions) == (20, 0, 1)


def gap() -> nn.Module:
    """A convolutional host that takes any length."""
    return nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.AdaptiveAvgPool1d(1), nn.Flatten())


STRICT: dict[str, tuple[nn.Module, Site, tuple[int, ...], tuple[int, ...], str]] = {
    "tokens": (
        Tokens(),
        Site("map", layout=("sequence", 5, 4), blueprint="attention", seeds=1),
        (5, 4),
        (3, 4),
        "(5, 4), so [B, 5, 4] alone is legal",
    ),
    "inline tokens": (
        Tokens(),
        Site("map", layout=("sequence", 5, 6), placement="inline", blueprint="attention", seeds=1),
        (5, 4),
        (3, 4),
        "(5, 6), so [B, 5, 6] alone is legal",
    ),
    "span of tokens": (
        nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 4)),
        Site("0", until="2", layout=("sequence", 5, 4), seeds=1),
        (5, 4),
        (6, 4),
        "(5, 4), so [B, 5, 4] alone is legal",
    ),
    "flat sequence": (
        Named(lambda _, x: x.mean(1)),
        Site("", layout=("sequence", 5, 4), features=4, blueprint="attention", seeds=1),
        (5, 4),
        (3, 4),
        "(5, 4), so [B, 5, 4] or [B, 20] alone is legal",
    ),
    "flat signal": (
        gap(),
        Site("", layout=(2, 9), blueprint="conv", seeds=1),
        (2, 9),
        (2, 8),
        "(2, 9), so [B, 2, 9] or [B, 18] alone is legal",
    ),
    "flat picture": (
        nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        Site("", layout=(2, 4, 3), blueprint="conv", seeds=1),
        (2, 4, 3),
        (2, 3, 4),
        "(2, 4, 3), so [B, 2, 4, 3] or [B, 24] alone is legal",
    ),
    "signal": (
        gap(),
        Site("0", layout=(2, 9), seeds=1),
        (2, 9),
        (2, 8),
        "(2, 9), so [B, 2, 9] alone is legal",
    ),
    "inline picture": (
        nn.Conv2d(2, 3, 3),
        Site("", layout=(3, 4, 2), placement="inline", seeds=1),
        (2, 6, 4),
        (2, 6, 6),
        "(3, 4, 2), so [B, 3, 4, 2] alone is legal",
    ),
    "moved positions, not declared": (
        nn.Conv1d(2, 3, 3, stride=2),
        Site("", blueprint="conv", seeds=1),
        (2, 9),
        (2, 7),
        "(2, 9), so [B, 2, 9] alone is legal",
    ),
}


@pytest.mark.parametrize("case", STRICT)
def test_another_layout_than_the_declared_one_is_refused(case: str) -> None:
    """From the start, asleep and awake, by site, shape and what is legal; the right one passes."""
    host, site, right, wrong, legal = STRICT[case]
    model = morph(copy.deepcopy(host), [site], example=torch.zeros(2, *right))
    (layer,) = Garden.of(model).sites.values()
    met, side = (2, *wrong), "input"
    if site.placement == "inline":
        side, met = "output", tuple(host(torch.zeros(met)).shape)
    expected = (
        f"site {layer.path!r}: its {side} has the shape {met}, but its layout is {legal}; pad or cut "
        "the batch, or morph a fresh model with the layout that comes, or without one and without "
        "the kinds that need it"
    )
    for state in ("DORMANT", "STABILIZATION"):
        if state != "DORMANT":
            put(Garden.of(model), 0, state)
        for _ in range(2):
            model(torch.zeros(2, *right))
            with pytest.raises(SiteError) as error:
                model(torch.zeros(2, *wrong))
            assert str(error.value) == expected
    if case != "moved positions, not declared":
        with pytest.raises(
            SiteError, match=f"^site {re.escape(repr(layer.path))}: layout .* is decl"
        ):
            morph(copy.deepcopy(host), [site], example=torch.zeros(2, *wrong))


@pytest.mark.parametrize(
    ("host", "kinds", "lengths"),
    [
        (gap, ("conv", "separable", "mlp", "squeeze_excite", "attention"), [(2, 9), (2, 4)]),
        (lambda: nn.Linear(4, 6), ("mlp", "gated", "low_rank"), [(4,), (5, 4), (2, 3, 4)]),
    ],
)
@pytest.mark.parametrize("placement", ["parallel", "inline"])
def test_lengths_may_vary_where_none_is_declared(
    host: Callable[[], nn.Module], kinds: Any, lengths: Any, placement: Any
) -> None:
    """Each kind that fits any length computes with any, awake as asleep."""
    site = Site("0" if host is gap else "", placement=placement, seeds=1, blueprint=kinds)
    if host is gap and placement == "parallel":
        site = replace(site, blueprint=tuple(k for k in kinds if k != "squeeze_excite"))
    model = morph(host(), [site], example=torch.zeros(2, *lengths[0]))
    plain = [model(torch.ones(2, *length)) for length in lengths]
    for kind in range(len(site.kinds)):
        put(Garden.of(model), 0, "STABILIZATION", kind=kind)
        for length, before in zip(lengths, plain, strict=True):
            after = model(torch.ones(2, *length))
            assert after.shape == before.shape and not torch.equal(after, before)
        put(Garden.of(model), 0, "DORMANT")


def test_a_tensor_with_other_features_is_refused_at_the_first_pass() -> None:
    """Where the host itself would take it: chunks would lie elsewhere."""
    model = morph(nn.Identity(), [Site("", placement="inline", features=8, seeds=2)])
    with pytest.raises(SiteError) as error:
        model(torch.zeros(2, 10))
    assert str(error.value) == (
        "site '.': its output has the shape (2, 10), but it was placed for 8 features on axis -1; "
        "features= or channels_first= of its Site, or example= of morph(), say what comes"
    )


def test_options_reach_their_kind() -> None:
    """`options` are further arguments by kind."""
    site = Site("", blueprint=("mlp", "low_rank"), options={"mlp": {"activation": "gelu"}})
    kind = Garden.of(morph(nn.Linear(3, 4), [site])).sites["."].pool("mlp").kind
    assert getattr(kind, "activation", None) == "gelu"


def test_frozen_hosts_are_welcome() -> None:
    """Seeds may grow beside weights that do not train."""
    model = mlp().requires_grad_(False)
    morph(model, [Site("0")])
    assert not any(p.requires_grad for n, p in model.named_parameters() if "kasmina" not in n)
    assert all(p.requires_grad for p in Garden.of(model).parameters())


def lazy() -> nn.Module:
    """A model whose weights have no shape yet."""
    return nn.Sequential(nn.LazyLinear(4))


def compiled() -> nn.Module:
    """A model that torch.compile has wrapped."""
    return cast(nn.Module, torch.compile(mlp(), backend="eager"))


def shared() -> nn.Module:
    """A model in which one module stands twice."""
    part = nn.Linear(3, 3)
    return nn.Sequential(part, nn.ReLU(), part)


def twice() -> nn.Module:
    """A model that calls its part twice."""
    return Named(lambda self, x: self.a(self.a(x)), a=nn.Linear(3, 3))


def bypassed() -> nn.Module:
    """A model that uses a part's weight and never calls it."""
    return Named(lambda self, x: x @ self.a.weight, a=nn.Linear(3, 3))


X = torch.zeros(2, 3)
REFUSALS: list[tuple[str, Callable[[], nn.Module], list[Site], dict[str, Any], str]] = [
    ("nothing", mlp, [], {}, "sites is empty; name at least one Site"),
    ("slash", mlp, [Site("0")], {"run": "a/b"}, "run='a/b'; legal: a name without a slash"),
    (
        "near",
        lambda: Named(lambda _, x: x, encoder=nn.Linear(1, 1), decoder=nn.Linear(1, 1)),
        [Site("encodr")],
        {},
        "Site('encodr') matches no module; near ones: encoder, decoder",
    ),
    (
        "far",
        mlp,
        [Site("transformer.*")],
        {},
        "Site('transformer.*') matches no module; the model has: 0, 1, 2, 3, 4",
    ),
    (
        "empty",
        nn.Identity,
        [Site("block")],
        {},
        "Site('block') matches no module; the model has no modules inside",
    ),
    (
        "until",
        lambda: Named(lambda _, x: x, first=nn.Linear(1, 1), second=nn.Linear(1, 1)),
        [Site("first", until="secnd")],
        {},
        "until='secnd': no such module beside 'first'; near ones: second",
    ),
    (
        "twins",
        mlp,
        [Site("0"), Site("[0]", placement="inline")],
        {},
        "two sites at '0': ",
    ),
    (
        "shared",
        shared,
        [Site("0", seeds=1)],
        {},
        (
            "site '0': one module stands at 0 and 2, so it runs more than once in a pass and a seed "
            "there would not know which one it serves. Place the site around both, or give each its "
            "own module"
        ),
    ),
    (
        "repeated",
        twice,
        [Site("a", seeds=1)],
        {"example": X},
        (
            "site 'a': module 'a' ran 2 times in one pass of the example; a site needs exactly one. "
            "Place it at a module around the repetition"
        ),
    ),
    (
        "bypassed",
        bypassed,
        [Site("a", seeds=1)],
        {"example": X},
        (
            "site 'a': module 'a' ran 0 times in one pass of the example; a site needs exactly one. "
            "It may be bypassed; place the site at the module that holds it"
        ),
    ),
    (
        "order",
        lambda: Named(lambda s, x: s.a(s.b(x)), a=nn.Linear(3, 3), b=nn.Linear(3, 3)),
        [Site("a", until="b", seeds=1)],
        {"example": X},
        "site 'a..b': 'b' ran before 'a'; name them in order",
    ),
    (
        "no tensor",
        lambda: Named(lambda s, x: {"y": s.a(x)}, a=nn.Linear(3, 3)),
        [Site("", seeds=1)],
        {"example": X},
        (
            "site '.': module '.' returned dict; seeds act on a tensor, or on a tuple that begins "
            "with one. Place the site at a module inside that returns a tensor"
        ),
    ),
    (
        "integers",
        lambda: nn.Sequential(nn.Embedding(5, 3)),
        [Site("0", seeds=1)],
        {"example": torch.zeros(2, 3, dtype=torch.long)},
        (
            "site '0': parallel seeds read the input of '0', which is no tensor of floating-point "
            "numbers; use placement='inline' here"
        ),
    ),
    (
        "sequence",
        lambda: nn.Sequential(nn.Linear(3, 3)),
        [Site("0", layout=("sequence", 7, 3), seeds=1)],
        {"example": torch.zeros(2, 5, 3)},
        (
            "site '0': layout ('sequence', 7, 3) is declared, but one example of what its seeds read "
            "has the shape (5, 3); declare that, or no layout (axis 0 is the batch, axis 1 the tokens)"
        ),
    ),
    (
        "tokens alone",
        lambda: nn.Sequential(nn.Linear(3, 3)),
        [Site("0", layout=("sequence", 7), seeds=1)],
        {"example": torch.zeros(2, 5, 3)},
        (
            "site '0': layout ('sequence', 7) is declared, but one example of what its seeds read "
            "has the shape (5, 3); declare that, or no layout (axis 0 is the batch, axis 1 the tokens)"
        ),
    ),
    (
        "features of tokens",
        lambda: nn.Sequential(nn.Linear(3, 3)),
        [Site("0", layout=("sequence", 7, 4), placement="inline", seeds=1)],
        {},
        "site '0': layout ('sequence', 7, 4) says 7 tokens of 4 features, but it has 3",
    ),
    (
        "silent output",
        lambda: Named(lambda _, x: x),
        [Site("", placement="inline", seeds=1)],
        {},
        (
            "site '.': Named does not tell the features of its output; give morph() one batch as "
            "example=, or the site features="
        ),
    ),
    (
        "silent input",
        lambda: nn.Embedding(5, 3),
        [Site("", seeds=1)],
        {},
        (
            "site '.': Embedding does not tell the features of its input; give morph() one batch as "
            "example="
        ),
    ),
    (
        "crossed",
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Unflatten(1, (3, 1)), nn.Conv1d(3, 2, 1)),
        [Site("0", until="2", seeds=1)],
        {"example": X},
        (
            "site '0..2': its input has features last and its output channels first; no seed maps "
            "between the two. Place the site where both are alike"
        ),
    ),
    (
        "lazy",
        lazy,
        [Site("0")],
        {},
        "0.weight, 0.bias has no shape yet; run one batch through the model, then morph it",
    ),
    (
        "again",
        lambda: morph(mlp(), [Site("0")]),
        [Site("2")],
        {},
        (
            "the model has been morphed already, or has an attribute 'kasmina' of its own; name all "
            "sites in one call of morph(), on a fresh model"
        ),
    ),
    (
        "compiled",
        compiled,
        [Site("0")],
        {},
        "the model is compiled; morph it first, then torch.compile it",
    ),
    (
        "too many",
        mlp,
        [Site("0", placement="inline", seeds=6)],
        {},
        (
            "site '0': 5 features cannot be cut into 6 chunks of at least one feature; ask for 1 to 5 "
            "seeds"
        ),
    ),
    (
        "kind",
        mlp,
        [Site("0", blueprint="conv")],
        {},
        (
            "site '0': blueprint 'conv' needs a layout (channels, length) or (channels, height, "
            "width), but this site's input has None; give Site(..., layout=(1, 40)), or an example= "
            "to morph() for a site of channels"
        ),
    ),
    (
        "layout",
        mlp,
        [Site("0", layout=(1, 5))],
        {},
        (
            "site '0': layout (1, 5) holds 5 values, but the site's input has 4 features; the product "
            "of the layout must be 4"
        ),
    ),
    (
        "layout of a sequence",
        mlp,
        [Site("0", layout=("sequence", 16, 3))],
        {},
        (
            "site '0': layout (16, 3) holds 48 values, but the site's input has 4 features; the "
            "product of the layout must be 4, or its last number 4"
        ),
    ),
    (
        "layout of chunks",
        mlp,
        [Site("0", layout=(1, 5), placement="inline", seeds=1)],
        {},
        (
            "site '0': layout (1, 5) is of a signal or picture, but inline seeds transform chunks of "
            "plain features here, which have no neighbours; drop the layout, or use "
            "placement='parallel'"
        ),
    ),
    (
        "tokens of channels",
        gap,
        [Site("0", layout=("sequence", 9, 2), seeds=1)],
        {},
        (
            "site '0': layout ('sequence', 9, 2) is of tokens with their features last, but the "
            "site's tensors have channels on axis 1; declare (channels, length) or (channels, "
            "height, width), or channels_first=False"
        ),
    ),
    (
        "channels",
        gap,
        [Site("0", layout=(3, 9), seeds=1)],
        {},
        "site '0': layout (3, 9) says 3 channels, but what its seeds read has 2",
    ),
    (
        "memory",
        lambda: nn.Sequential(nn.Linear(1024, 1)),
        [
            Site(
                "0",
                layout=("sequence", 2, 1024),
                blueprint="causal_conv",
                hidden=65536,
                options={"causal_conv": {"kernel": 1023}},
            )
        ],
        {},
        (
            "site '0': no memory for 'conv_weight' of blueprint 'causal_conv', (4, 65536, 1024, 1023) "
            "numbers; use fewer or smaller seeds"
        ),
    ),
    (
        "in place",
        lambda: nn.Sequential(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3))),
        [Site("0", seeds=1)],
        {},
        (
            "site '0': ReLU(inplace=True) overwrites the input that parallel seeds read; use "
            "inplace=False, or begin the site at the next module"
        ),
    ),
]


@pytest.mark.parametrize(
    ("build", "sites", "options", "message"),
    [case[1:] for case in REFUSALS],
    ids=[case[0] for case in REFUSALS],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_refusals(
    build: Callable[[], nn.Module], sites: list[Site], options: dict[str, Any], message: str
) -> None:
    """Each says what stands in the way and what to do; the model is as it was."""
    from kasmina.errors import KasminaError

    model = build()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    keys = list(model._modules)
    with pytest.raises(KasminaError) as error:
        morph(model, sites, **options)
    found = str(error.value)
    assert found.startswith(message) if message.endswith(": ") else found == message
    assert list(model._modules) == keys
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_a_gru_is_grown_at_its_first_output() -> None:
    """The hidden state that it also returns stays."""
    model = morph(Recurrent(), [Site("cell", placement="inline", seeds=2)])
    assert shapes(model)["cell"] == SiteShape("inline", 8, 8)


def test_wildcards_reach_into_layers() -> None:
    """`*` matches dots as well."""
    model = morph(Transformer(), [Site("block.*norm*", placement="inline", seeds=1)])
    assert list(Garden.of(model).sites) == ["block.norm1", "block.norm2"]


MORPH: Any = morph  # called with what a type checker would refuse
SITE: Any = Site


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda m: MORPH(m, ["0"]), r"sites must be a sequence of kasmina\.Site.* got \['0'\]"),
        (lambda m: MORPH(m, Site("0")), r"sites must be a sequence of kasmina\.Site"),
        (lambda m: MORPH(5, [Site("0")]), "model must be an nn.Module .* got int"),
        (lambda m: SITE(3), "the pattern must be a name"),
    ],
)
def test_arguments_of_wrong_types(call: Callable[[Any], object], what: str) -> None:
    """What came and what is legal; no traceback from the depths."""
    with pytest.raises(SiteError, match=what):
        call(nn.Sequential(nn.Linear(2, 2)))
