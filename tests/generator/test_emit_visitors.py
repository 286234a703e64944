"""One guard in each wording; the visitors share no evaluation code, so each is held by itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kasmina_generator.emit
from kasmina_generator.emit.prose import prose
from kasmina_generator.emit.python import python_return
from kasmina_generator.emit.torch import torch_condition
from kasmina_generator.expression import (
    All,
    Any,
    Arithmetic,
    Comparison,
    Constant,
    Expression,
    Field,
    Flag,
    LimitRef,
    Negative,
    Truth,
)

SCORE = Field("score", "float32")
LEAST = LimitRef("least", "float32")
COUNT = Field("count", "int32")
EPOCHS = Field("epochs", "int32")
READY = Field("ready", "bool")
GOOD = Comparison(">=", SCORE, LEAST)
LATE = Comparison(">=", EPOCHS, Constant(12, "int32"))


def half(value: Field) -> Arithmetic:
    """Half of a float field."""
    return Arithmetic("*", value, Constant(0.5, "float32"), "float32")


WORDINGS: list[tuple[Expression, str, str, str]] = [
    (Truth(True), "True", "True", ""),
    (Truth(False), "False", "False", "never"),
    (
        GOOD,
        "context.score >= limits.least",
        "(seen.score >= limits.least)",
        "`score` is at least `least`",
    ),
    (Flag(READY, False), "context.ready", "seen.ready", "`ready` is true"),
    (Flag(READY, True), "not context.ready", "~seen.ready", "`ready` is false"),
    (
        Flag(LimitRef("open", "bool"), True),
        "not limits.open",
        "~limits.open",
        "`open` is false",
    ),
    (LATE, "epochs >= 12", "(ticks >= 12)", "12 epochs have passed"),
    (
        Comparison("<", EPOCHS, Constant(1, "int32")),
        "epochs < 1",
        "(ticks < 1)",
        "fewer than 1 epoch has passed",
    ),
    (
        Comparison("<", Constant(0, "int32"), COUNT),
        "context.count > 0",
        "(seen.count > 0)",
        "`count` is above 0",
    ),
    (
        Comparison("==", Constant(0, "int32"), COUNT),
        "context.count == 0",
        "(seen.count == 0)",
        "`count` equals 0",
    ),
    (
        Comparison(">", EPOCHS, LimitRef("most", "int32")),
        "epochs > limits.most",
        "(ticks > limits.most)",
        "the number of epochs in the state is above `most`",
    ),
    (
        Comparison("<", half(SCORE), LEAST),
        "_f32(context.score * 0.5) < limits.least",
        "((seen.score * 0.5) < limits.least)",
        "(`score` times 0.5) is below `least`",
    ),
    (
        Comparison("<", Negative(half(SCORE), "float32"), LEAST),
        "-_f32(context.score * 0.5) < limits.least",
        "(-(seen.score * 0.5) < limits.least)",
        "minus (`score` times 0.5) is below `least`",
    ),
    (
        Comparison(
            "<=",
            Arithmetic("-", COUNT, Arithmetic("+", COUNT, EPOCHS, "int32"), "int32"),
            Constant(-2, "int32"),
        ),
        "(context.count - (context.count + epochs)) <= -2",
        "((seen.count - (seen.count + ticks)) <= -2)",
        "(`count` minus (`count` plus the number of epochs in the state)) is at most -2",
    ),
    (
        All((LATE, Any((GOOD, Flag(READY, False))))),
        "epochs >= 12 and (context.score >= limits.least or context.ready)",
        "((ticks >= 12) & ((seen.score >= limits.least) | seen.ready))",
        "12 epochs have passed, and either `score` is at least `least` or `ready` is true",
    ),
    (
        Any((LATE, All((GOOD, Flag(READY, False))), Flag(READY, True))),
        "epochs >= 12 or (context.score >= limits.least and context.ready) or not context.ready",
        "((ticks >= 12) | ((seen.score >= limits.least) & seen.ready) | ~seen.ready)",
        "12 epochs have passed, both `score` is at least `least` and `ready` is true, or"
        + " `ready` is false",
    ),
]


@pytest.mark.parametrize(("guard", "python", "torch", "words"), WORDINGS)
def test_wordings(guard: Expression, python: str, torch: str, words: str) -> None:
    """Python, torch and English."""
    assert python_return(guard, 1) == [f"return {python}"]
    assert torch_condition(guard) == torch
    assert prose(guard) == words


def test_a_literal_is_exact() -> None:
    """The float32 nearest to 0.7 is written in full, so that no backend rounds it again."""
    guard = Comparison(">=", SCORE, Constant(0.699999988079071, "float32"))
    assert python_return(guard) == ["return context.score >= 0.699999988079071"]
    assert torch_condition(guard) == "(seen.score >= 0.699999988079071)"
    assert prose(guard) == "`score` is at least 0.7"


def test_prose_tells_the_longest_wait_only() -> None:
    """`min_epochs` beside a longer wait goes without saying."""
    early = Comparison(">=", EPOCHS, Constant(2, "int32"))
    assert prose(All((early, LATE))) == "12 epochs have passed"
    assert (
        prose(All((early, LATE, GOOD))) == "12 epochs have passed and `score` is at least `least`"
    )
    assert prose(Any((early, LATE))) == "2 epochs have passed or 12 epochs have passed"


def test_long_guards_are_laid_out_as_the_formatter_does() -> None:
    """The last parentheses are split first; otherwise each operand gets a line."""
    long = Comparison(">=", Field("s" * 40, "float32"), LimitRef("l" * 30, "float32"))
    text = f"context.{'s' * 40} >= limits.{'l' * 30}"
    assert python_return(All((LATE, Any((long, GOOD))))) == [
        "return epochs >= 12 and (",
        f"    {text}",
        "    or context.score >= limits.least",
        ")",
    ]
    assert python_return(All((LATE, Any((long, long)), GOOD))) == [
        "return (",
        "    epochs >= 12",
        "    and (",
        f"        {text}",
        f"        or {text}",
        "    )",
        "    and context.score >= limits.least",
        ")",
    ]


def test_visitors_import_no_other_visitor() -> None:
    """A fault in one cannot hide in another; they have the tree and the layout in common."""
    folder = Path(kasmina_generator.emit.__file__).parent
    shared = {"kasmina_generator.expression", "kasmina_generator.emit.layout", "__future__"}
    for name in ("python", "torch", "prose"):
        tree = ast.parse((folder / f"{name}.py").read_text())
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert imported <= shared, name
