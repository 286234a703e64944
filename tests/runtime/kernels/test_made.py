"""A user's kind with a formula gets its kernel at run time; a formula that lies is told before use."""

from __future__ import annotations

import re
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from torch import Tensor, nn

from kasmina.blueprints import Blueprint, SiteShape, blueprint_kind, known_blueprints
from kasmina.blueprints.dense import _Dense
from kasmina.blueprints.registry import Parameters
from kasmina.kernels import made as room
from kasmina.kernels.backend import fallen_back
from kasmina.kernels.made import FormulaError, made
from kasmina_generated.kernels.catalogue import TEXTS
from kasmina_generator.emit import render
from kasmina_generator.kernels.functions import FUNCTIONS, Function
from kasmina_generator.kernels.kind import kind_of_text
from tests.helpers import ROOT, run_python

PACKAGE = "kasmina_generated"
HERE = SiteShape("inline", 12, 12)


class Squash(_Dense):
    """`out(2 tanh(up(x)))`."""

    name = "squash"
    formula = "{maps: {up: bias}, hidden: 2 * tanh(up)}"
    inner, inner_bias = ("up",), True

    def units(self, *given: Tensor) -> Tensor:
        """See `_Dense.units`."""
        return 2 * torch.tanh(*given)

    def plain(self, params: Parameters) -> nn.Module:
        """Not asked for here."""
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    room._modules.cache_clear()


def kind(formula: str | None = None) -> Blueprint:
    """Return a kind with another formula, and the same forward."""
    own = {} if formula is None else {"formula": formula}
    made_here: type[Squash] = type("Squash", (Squash,), {"formula": Squash.formula, **own})
    return made_here(HERE, 5)


def test_a_kernel_of_a_users_kind_gives_what_its_forward_gives(tmp_path: Path) -> None:
    """Values and gradients; the files lie in the user's cache."""
    squash = kind()
    modules = made(PACKAGE, "squash", squash)
    assert modules is not None
    forward, backward = modules
    assert Path(forward.__file__).parent == tmp_path / "cache" / "kasmina" / "kernels"
    random = torch.Generator().manual_seed(1)
    stacks = [torch.randn(3, *shape, generator=random) for shape in squash.shapes().values()]
    leaves = [stack.clone().requires_grad_() for stack in stacks]
    x = torch.randn(20, 36, generator=random, requires_grad=True)
    g = torch.randn(20, 36, generator=random)
    named = dict(zip(squash.shapes(), leaves, strict=True))
    made_of = squash.forward(named, x.view(20, 3, 12).transpose(0, 1)).transpose(0, 1)
    torch.autograd.backward(x + 0.5 * made_of.reshape(20, 36), g)
    codes, rows = torch.full((3,), 3, dtype=torch.int8), torch.arange(3).int()
    seeds = (codes, torch.zeros(3).int(), rows, torch.full((3,), 0.5), tuple(stacks))
    out, gx, faults = torch.empty(20, 36), torch.empty(20, 36), torch.zeros(3).long()
    order, count = torch.arange(3).int(), torch.tensor([3]).int()
    with torch.no_grad():
        forward.forward(
            x,
            out,
            *seeds,
            0,
            faults,
            None,
            order,
            count,
            replace=False,
            tiles=forward.Tiles(),
            carried=None,
        )
        gradients = tuple(torch.zeros_like(stack) for stack in stacks)
        backward.backward(
            g, x, gx, *seeds, gradients, torch.zeros(3), 0, order, count,
            replace=False, tiles=backward.Tiles(), carried=None,
        )  # fmt: skip
    torch.testing.assert_close(out, x.detach() + 0.5 * made_of.detach().reshape(20, 36))
    assert x.grad is not None
    torch.testing.assert_close(gx, x.grad, rtol=1e-4, atol=1e-5)
    for name, gradient, leaf in zip(squash.shapes(), gradients, leaves, strict=True):
        torch.testing.assert_close(gradient, leaf.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_a_kind_without_a_formula_of_its_own_has_none() -> None:
    """What a subclass inherits need not be what it computes."""
    heir = type("Heir", (Squash,), {})(HERE, 5)
    assert made(PACKAGE, "heir", heir) is None
    assert made(PACKAGE, "mlp", blueprint_kind("mlp")(HERE, 5)) is None


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (
            "{maps: {up: bias}, hidden: 3 * tanh(up)}",
            (r"blueprint 'squash': its formula and its forward\(\) differ, by [0-9.]+ in the output on random numbers; "
            r"mend one of them, or drop the formula, and it runs without a kernel"),
        ),
        (
            "{maps: {up: no bias}, hidden: 2 * tanh(up)}",
            (r"blueprint 'squash': shapes\(\) declares up_weight \[5, 12\], up_bias \[5\], out_weight "
            r"\[12, 5\], out_bias \[12\], and its formula has up_weight \[5, 12\], out_weight \[12, 5\], "
            r"out_bias \[12\]; they must be the same, in this order"),
        ),
        (
            "{maps: {up: bias}, hidden: 2 * tnah(up)}",
            (r"blueprint 'squash': its formula gives no kernel:\n"
            r"squash:1:32: kind 'squash': unknown function 'tnah'; allowed: .*; did you mean 'tanh'\?\n"
            r"    2 \* tnah\(up\)\n"
            r"        \^"),
        ),
    ],
    ids=["other numbers", "other parameters", "no formula"],
)  # fmt: skip
def test_a_formula_that_is_wrong_is_told_before_it_is_used(formula: str, message: str) -> None:
    """With what is wrong in it, and what to do."""
    with pytest.raises(FormulaError) as told:
        made(PACKAGE, "squash", kind(formula))
    assert re.fullmatch(message, str(told.value)), str(told.value)


def test_a_gradient_that_is_not_the_formulas_is_told_before_it_is_used() -> None:
    """A forward() that gives the right numbers and holds a gradient back has no such kernel."""

    class Held(Squash):
        formula = Squash.formula

        def units(self, *given: Tensor) -> Tensor:
            return super().units(*given).detach() + 0 * given[0]

    with pytest.raises(FormulaError, match=r"differ, by [0-9.]+ in the gradient of its input on"):
        made(PACKAGE, "squash", Held(HERE, 5))


def test_a_formula_that_is_no_text_is_told() -> None:
    """With what it is and one that is legal."""
    with pytest.raises(
        FormulaError, match=r"^blueprint 'squash': formula is 5, which is no text; "
    ):
        made(PACKAGE, "squash", kind(5))  # type: ignore[arg-type]


def test_what_stands_in_the_place_of_a_cached_file_is_told(tmp_path: Path) -> None:
    """A folder of that name cannot be replaced; nothing is lost, and the message says what to do."""
    modules = made(PACKAGE, "squash", kind())
    assert modules is not None
    path = Path(modules[0].__file__)
    path.unlink()
    path.mkdir()
    room._modules.cache_clear()
    with pytest.raises(
        FormulaError, match=r"its kernel cannot be kept: .*remove that, or set XDG_"
    ):
        made(PACKAGE, "squash", kind())


def test_a_kernel_that_does_not_compile_shows_the_line_of_the_template(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the line of the file that was made from it."""
    monkeypatch.setitem(FUNCTIONS, "exp", Function("tl.nonsense(u)", "g"))
    with pytest.raises(FormulaError) as told:
        made(PACKAGE, "squash", kind("{maps: {up: bias}, hidden: exp(up)}"))
    first, place, source = str(told.value).split("\n")
    assert first == (
        "blueprint 'squash': its kernel cannot be compiled: AttributeError: module "
        "'triton.language' has no attribute 'nonsense'"
    )
    file, line, text = place.strip().split(":")
    assert Path(file).parent == tmp_path / "cache" / "kasmina" / "kernels"
    assert Path(file).read_text().split("\n")[int(line) - 1] == f"    {text.strip()}"
    assert text == " return tl.nonsense(u)"
    assert source == "    which comes from template kernels/_functions.jinja:5"


BROKEN = """
import sys
from kasmina.kernels import made as room
from kasmina_generator.kernels.functions import FUNCTIONS, Function
from tests.generated import compiled_inline

FUNCTIONS["exp"] = Function("tl.nonsense(u)", "g")
asked = room._Asked(
    "squash", "{maps: {up: bias}, hidden: exp(up)}", "inline", (), "kasmina_generated", 0x3F8, 0xC8
)
modules, _ = room._modules(asked)
sys.modules["kasmina_generated.kernels.broken"] = modules[0]
_, name, constants = compiled_inline.KERNELS[0]
try:
    compiled_inline.compiled("broken", name, constants)
except Exception as error:
    print(room._told(asked, error))
"""


def test_a_real_compiler_s_refusal_shows_the_same_lines(tmp_path: Path) -> None:
    """Its errors tell their place in another way than the interpreter's."""
    environment = {"TRITON_INTERPRET": "0", "XDG_CACHE_HOME": str(tmp_path)}
    environment["TRITON_DEFAULT_FP_FUSION"] = "1"  # else a warning of Triton 3.9, which is an error
    done = run_python(BROKEN, cwd=ROOT, environment=environment)
    assert done.returncode == 0, done.stderr
    first, place, source = done.stdout.rstrip("\n").split("\n")
    assert first.endswith("AttributeError: module 'triton.language' has no attribute 'nonsense'")
    assert re.search(
        r"/inline_squash_forward_[0-9a-f]{16}\.py:[0-9]+: return tl\.nonsense\(u\)$", place
    )
    assert source == "    which comes from template kernels/_functions.jinja:5"


def test_a_corrupt_file_in_the_cache_is_healed_before_it_is_imported(tmp_path: Path) -> None:
    """A hand or a disk that changed it changes no number."""
    modules = made(PACKAGE, "squash", kind())
    assert modules is not None
    path = Path(modules[0].__file__)
    right = path.read_text()
    path.write_text(right.replace("2.0 * _tanh", "3.0 * _tanh"))
    assert path.read_text() != right
    room._modules.cache_clear()
    assert made(PACKAGE, "squash", kind()) is not None
    assert path.read_text() == right


@pytest.mark.parametrize("placement", ["inline", "parallel"])
@pytest.mark.parametrize("text", TEXTS)
def test_parameters_of_texts_are_those_of_the_kinds(text: str, placement: str) -> None:
    """What the spec says of a kind and what its class declares are the same, in the same order."""
    shape = SiteShape("inline" if placement == "inline" else "parallel", 6, 6)
    built_in = blueprint_kind(TEXTS[text].kind)(shape, 4, **TEXTS[text].options)
    assert TEXTS[text].parameters[placement] == tuple(built_in.shapes())
    room._check_shapes(text, built_in, TEXTS[text].parameters[placement])


def test_every_kind_that_maps_features_has_its_texts() -> None:
    """And each of them is registered; the convolution has none."""
    kinds = {text.kind for text in TEXTS.values()}
    assert kinds == {"mlp", "low_rank", "gated", "affine"}
    assert kinds <= set(known_blueprints())


def test_the_example_in_the_documentation_is_a_formula() -> None:
    """What the class says of formulas can be read."""
    assert [m.name for m in kind_of_text("a", "{maps: {up: bias}, hidden: tanh(up)}").maps] == [
        "up"
    ]
    assert kind_of_text("a", "{elementwise: x * scale + shift}").maps == ()


AT_A_SITE = """
import sys, torch, kasmina
from torch import nn
from kasmina.blueprints.dense import _Dense
from kasmina.sites.garden import Garden

@kasmina.blueprint("squash")
class Squash(_Dense):
    formula = "{maps: {up: bias}, hidden: tanh(up) * 2}"
    inner, inner_bias = ("up",), True

    def units(self, up):
        return 2 * torch.tanh(up)

    def plain(self, params):
        raise NotImplementedError

torch.manual_seed(0)
host = nn.Linear(8, 36)
site = kasmina.Site("", placement="inline", seeds=3, hidden=5, features=36, blueprint="squash")
kasmina.morph(host, [site])
garden = Garden.of(host)
rows = torch.tensor([0, 1])
for row in rows.tolist():
    garden.allocate(row)
codes, alpha = torch.tensor([3, 3], dtype=torch.int8), torch.tensor([0.5, 1.0])
garden.state.update(rows, {"lifecycle_state": codes, "alpha": alpha})
garden.refresh()
x = torch.randn(10, 8, requires_grad=True)
y = host(x)
torch.autograd.backward(y, torch.ones_like(y))
print(any("kasmina_made" in name for name in sys.modules))
for tensor in (y, x.grad, *(p.grad for p in host.parameters() if p.grad is not None)):
    print(*tensor.flatten()[:40].tolist())
"""


def test_a_site_runs_a_users_kind_by_its_kernel(tmp_path: Path) -> None:
    """And gives what the twin gives, which needs no kernel."""
    told = []
    for backend in ("triton", "torch"):
        environment = {
            "KASMINA_BACKEND": backend,
            "TRITON_INTERPRET": "1",
            "XDG_CACHE_HOME": str(tmp_path),
        }
        done = run_python(AT_A_SITE, environment=environment)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.splitlines())
    assert [lines[0] for lines in told] == ["True", "False"]
    assert len(told[0]) == len(told[1]) == 9  # y, dL/dx, host and pool
    for one, other in zip(told[0][1:], told[1][1:], strict=True):
        kernel, twin = ([float(number) for number in line.split()] for line in (one, other))
        assert kernel == pytest.approx(twin, rel=1e-4, abs=1e-4)


def test_a_file_that_is_no_python_shows_the_line_of_the_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not imported at all."""
    monkeypatch.setitem(FUNCTIONS, "exp", Function("tl.exp(u", "g"))
    with pytest.raises(FormulaError) as told:
        made(PACKAGE, "squash", kind("{maps: {up: bias}, hidden: exp(up)}"))
    assert re.fullmatch(
        r"blueprint 'squash': its kernel cannot be compiled: SyntaxError: '\(' was never closed .*\n"
        r"    .*/inline_squash_forward_\w+\.py:\d+: return tl\.exp\(u\n"
        r"    which comes from template kernels/_functions\.jinja:5",
        str(told.value),
    ), told.value


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (
            "{{ nonsense.here }}",
            r"UndefinedError: 'nonsense' is undefined \(.*_forward\.py\.jinja:1\)",
        ),
        ("{% for %}", r"TemplateSyntaxError: .* \(.*_forward\.py\.jinja:1\)"),
    ],
    ids=["undefined", "no template"],
)
def test_a_template_that_cannot_be_filled_in_is_told_with_its_line(
    spoiled: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written of it."""
    real = jinja2.PackageLoader.get_source

    def get_source(self: Any, environment: Any, template: str) -> Any:
        source, *rest = real(self, environment, template)
        return (f"{spoiled}\n{source}" if "inline_forward" in template else source, *rest)

    monkeypatch.setattr(jinja2.PackageLoader, "get_source", get_source)
    monkeypatch.setattr(render, "_ENVIRONMENT", render._environment())
    with pytest.raises(
        FormulaError, match=f"^blueprint 'squash': its kernel cannot be made: {message}$"
    ):
        made(PACKAGE, "squash", kind())


def test_what_fails_later_shows_the_line_too() -> None:
    """A site compiles more than the first trial: other dtypes, telemetry, several blocks."""
    modules = made(PACKAGE, "squash", kind())
    assert modules is not None
    with pytest.raises(AttributeError) as raised:
        modules[0].forward(*[None] * 12, replace=True, tiles=None, carried=None)
    why = fallen_back(torch.device("cpu"), raised.value).why
    assert re.search(
        r"\n    .*/inline_squash_forward_\w+\.py:\d+: .*\n"
        r"    which comes from template kernels/inline_forward\.py\.jinja:\d+$",
        why,
    ), why


def test_spoiled_bytecode_is_not_read(tmp_path: Path) -> None:
    """Only the text has a checksum."""
    asked = room._Asked("squash", kind().formula, "inline", (), PACKAGE, 0x3F8, 0xC8)
    (forward, _), _ = room._modules(asked)
    path = Path(forward.__file__)
    spoiled = Path(cache_from_source(str(path)))
    spoiled.parent.mkdir(exist_ok=True)
    spoiled.write_bytes(b"no bytecode")
    again = room._load(path)
    assert again is not forward
    assert callable(again.forward)
    assert spoiled.read_bytes() == b"no bytecode"


def test_a_steep_formula_is_believed() -> None:
    """Float32 is left by numbers that float64 still holds, and not by right kernels alone."""
    steep = kind("{maps: {up: bias}, hidden: exp(exp(up))}")
    steep.units = lambda up: up.exp().exp()  # type: ignore[attr-defined]
    assert made(PACKAGE, "squash", steep) is not None
