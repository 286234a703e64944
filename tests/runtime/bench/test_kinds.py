"""The benchmark of the contest: what counts as right."""

from __future__ import annotations

from kasmina.bench import kinds


def test_a_kind_is_right_that_the_best_does_not_surely_beat() -> None:
    """Two standard errors of the paired difference."""
    scores = {
        "low_rank": [50.0, 51.0, 52.0],
        "mlp": [89.0, 91.5, 92.0],
        "gated": [90.0, 91.0, 92.0],
        "conv": [85.0, 86.0, 87.5],
    }
    assert kinds._right(scores) == {"mlp", "gated"}


def test_choices_and_constant_choices_are_counted_alike() -> None:
    """A task where every kind is right tells nothing and is left out."""
    found: dict[kinds.Unit, tuple[float, str | None]] = {}
    for seed in (1, 2):
        for kind in kinds.kinds_of("digits"):
            share = 0.9 if kind == "conv" else 0.5
            found["mnist1d", seed, kind, None] = (share + 0.001 * seed, kind)
            found["digits", seed, kind, None] = (0.9, kind)
        found["mnist1d", seed, None, None] = (0.8, "conv" if seed == 1 else "mlp")
        found["digits", seed, None, None] = (0.9, "mlp")
    rows = {row.name: row for row in kinds._rows(found, ("mnist1d", "digits"), (1, 2))}
    assert rows["mnist1d: a right kind wins (conv)"].value == 50.0
    assert rows["a right kind wins"].value == 50.0
    assert rows["a right kind wins"].baselines["always conv"] == 100.0
    assert rows["the best constant choice"].met is False


def test_a_kind_that_a_task_does_not_offer_is_wrong_for_it() -> None:
    """Else the constant choice of it would look as good as where it can be made."""
    assert "conv" not in kinds.kinds_of("chars")
    found: dict[kinds.Unit, tuple[float, str | None]] = {}
    for task, best in (("digits", "conv"), ("chars", "causal_conv")):
        for seed in (1, 2):
            for kind in kinds.kinds_of(task):
                found[task, seed, kind, None] = (0.9 if kind == best else 0.5, kind)
            found[task, seed, None, None] = (0.9, best)
    rows = {row.name: row for row in kinds._rows(found, ("digits", "chars"), (1, 2))}
    assert rows["a right kind wins"].value == 100.0
    assert rows["a right kind wins"].baselines["always conv"] == 50.0
    assert rows["a right kind wins"].baselines["always causal_conv"] == 50.0
    assert rows["the best constant choice"].met is True


def test_a_free_run_tells_who_won() -> None:
    """A real run of each sort."""
    metric, won = kinds._one(("digits", 1, None, 22))
    assert won in kinds.kinds_of("digits")
    assert 0 < metric <= 1
    assert kinds._one(("digits", 1, "mlp", 4))[1] is None
