"""Formulas: their gradients, and the Triton text that they become."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kasmina_generator.document import Scalar
from kasmina_generator.finding import Log
from kasmina_generator.kernels.formula import (
    Arithmetic,
    Call,
    Formula,
    Incoming,
    Negative,
    Number,
    Pulled,
    Variable,
    chosen,
    gradients,
    variables,
)
from kasmina_generator.kernels.functions import FUNCTIONS, definitions
from kasmina_generator.kernels.reading import MOST_DEPTH, read_formula
from kasmina_generator.kernels.triton_text import triton_text
from kasmina_generator.model import Place

FORMULAS = [
    "a",
    "a + b",
    "a - b",
    "a * b",
    "-a * b",
    "a - (b - a)",
    "2 * a - 0.5 * b * b",
    "silu(a) * b",
    "relu(a) - gelu(b) * tanh(a * b)",
    "exp(sigmoid(a) * -b) + a * a * a",
    "-(a + b) * -(a - b)",
    "a * b + 1 - a",
]
OF_TORCH = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "sigmoid": torch.sigmoid,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "exp": torch.exp,
}


def parsed(text: str) -> Formula:
    """Read a formula over any names."""
    log = Log()
    scalar = Scalar(text, True, Place("here", 1, 1), text, 0)
    found = read_formula(scalar, "formula", None, FUNCTIONS, log)
    log.raise_if_any()
    assert found is not None
    return found


def value(node: Formula, given: dict[str, Tensor], g: Tensor) -> Tensor:
    """Compute a tree with torch; a pulled gradient by torch's own derivative."""
    match node:
        case Variable(name=name):
            return given[name]
        case Number(value=number):
            return torch.tensor(number, dtype=torch.float64)
        case Incoming():
            return g
        case Negative(operand=operand):
            return -value(operand, given, g)
        case Arithmetic(operator=operator, left=left, right=right):
            a, b = value(left, given, g), value(right, given, g)
            return a + b if operator == "+" else a - b if operator == "-" else a * b
        case Call(function=function, operand=operand):
            return OF_TORCH[function](value(operand, given, g))
        case Pulled(function=function, operand=operand, gradient=gradient):
            u = value(operand, given, g).detach().requires_grad_()
            (slope,) = torch.autograd.grad(OF_TORCH[function](u).sum(), u)
            return value(gradient, given, g) * slope


@pytest.mark.parametrize("text", FORMULAS)
def test_a_gradient_is_what_autograd_gives(text: str) -> None:
    """By each variable, wherever it stands and however often."""
    random = torch.Generator().manual_seed(0)
    formula = parsed(text)
    given = {
        n: torch.randn(50, generator=random).double().requires_grad_() for n in variables(formula)
    }
    g = torch.randn(50, generator=random).double()
    torch.autograd.backward(value(formula, given, g), g)
    found = gradients(formula)
    assert set(found) == set(given)
    for name, tree in found.items():
        want = given[name].grad
        assert want is not None
        torch.testing.assert_close(value(tree, given, g).detach(), want)


@pytest.mark.parametrize("text", FORMULAS)
def test_the_text_means_the_tree(text: str) -> None:
    """Read back it is the same formula, without a parenthesis too many."""
    formula = parsed(text)
    written = triton_text(formula, str)
    plain = written
    for name in FUNCTIONS:
        plain = plain.replace(f"_{name}(", f"{name}(")
    assert parsed(plain) == formula
    assert plain.count("(") <= text.count("(")


def test_what_a_gradient_looks_like() -> None:
    """Relu selects; a product with its derivative would make 0 * inf."""
    found = gradients(parsed("relu(a) * b - a"))
    texts = {name: triton_text(tree, "v_{}".format, "g") for name, tree in found.items()}
    assert texts == {"a": "_relu_gradient(v_a, g * v_b) + -g", "b": "g * _relu(v_a)"}
    assert "where(u <= 0.0, 0.0, g)" in FUNCTIONS["relu"].gradient


def test_an_option_becomes_its_choice() -> None:
    """Wherever it is called."""
    formula = Call("f", Arithmetic("*", Call("f", Variable("a")), Call("exp", Variable("b"))))
    assert triton_text(chosen(formula, {"f": "tanh"}), str) == "_tanh(_tanh(a) * _exp(b))"


def test_functions_come_after_those_that_they_call() -> None:
    """Only those that are needed."""
    assert [d.name for d in definitions({"silu"}, set())] == ["_sigmoid", "_silu"]
    assert [d.name for d in definitions(set(), {"tanh", "relu"})] == [
        "_sigmoid", "_tanh", "_relu_gradient", "_tanh_gradient",
    ]  # fmt: skip
    assert definitions(set(), set()) == []


def test_a_formula_that_is_too_deep_is_refused() -> None:
    """Before any recursion is."""
    log = Log()
    text = "exp(" * (MOST_DEPTH + 1) + "a" + ")" * (MOST_DEPTH + 1)
    scalar = Scalar(text, True, Place("here", 3, 7), text, 0)
    assert read_formula(scalar, "kind 'a'", None, FUNCTIONS, log) is None
    with pytest.raises(Exception, match=r"^here:3:7: kind 'a': has more than 100 parts or 30 levels; a kind is one small module; cut the formula$"):  # fmt: skip
        log.raise_if_any()


def test_numbers_are_those_of_float32() -> None:
    """A tenth is rounded before anybody computes with it."""
    formula = parsed("0.1 * a")
    assert isinstance(formula, Arithmetic)
    assert formula.left == Number(0.10000000149011612)
    assert not math.isclose(0.10000000149011612, 0.1, rel_tol=1e-9)
