"""The lifecycle's benchmark, on few seeds: that it checks, and that every target has its row."""

from __future__ import annotations

import pytest

from kasmina.bench import IncorrectResult
from kasmina.bench import lifecycle as bench
from kasmina.bench._lifecycle_rivals import DictTable

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.*"  # the compiler's own modules use what torch deprecates
)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed here is not reported."""
    for name, count in {"SEEDS": 4000, "SAMPLE": 400, "INSTANCES": 20}.items():
        monkeypatch.setattr(bench, name, count)


def test_every_target_has_a_row() -> None:
    """With its unit, and beside the rivals."""
    rows = {(row.name, row.unit): row for row in bench.run()}
    assert {key: row.target for key, row in rows.items()} == {
        ("vector step, 1M seeds, eager", "ns/seed"): 40,
        ("vector step, 1M seeds, compiled", "ns/seed"): 12,
        ("vector step, compiled, beside transitions", "times"): 300,
        ("whole step, 1M seeds, 10% move", "ns/seed"): None,
        ("LifecycleManager", "us/transition"): 10,
        ("LifecycleManager", "bytes/instance"): 5000,
        ("state", "bytes/seed"): 150,
        ("spec check + build", "s"): 2,
    }
    ratio = rows["vector step, compiled, beside transitions", "times"]
    compiled = rows["vector step, 1M seeds, compiled", "ns/seed"]
    assert ratio.op == ">="
    assert ratio.value == compiled.baselines["transitions"] / compiled.value
    assert set(rows["LifecycleManager", "us/transition"].baselines) == {"transitions", "dict table"}
    assert all(row.value > 0 for row in rows.values())


def test_nothing_is_timed_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rival that answers otherwise stops the benchmark."""
    monkeypatch.setattr(DictTable, "tick", lambda self, rows: [])
    with pytest.raises(IncorrectResult, match="dict table and the vector step agree on 400 seeds"):
        bench.run()
