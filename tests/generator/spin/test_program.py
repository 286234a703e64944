"""SPIN as a program: what is missing, what does not fit, and how deep is deep enough."""

from __future__ import annotations

from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator import read_spec
from kasmina_generator.emit.promela import stretches
from kasmina_generator.emit.render import promela
from kasmina_generator.spin.program import SpinError, Verifier, compiled


@pytest.fixture(scope="module")
def model() -> str:
    """The model of the earlier lifecycle."""
    spec = read_spec(kasmina_spec.LIFECYCLE_V1)
    return promela(spec, stretches(spec))


@pytest.fixture(scope="module")
def verifier(model: str, tmp_path_factory: pytest.TempPathFactory) -> Verifier:
    """Its verifier."""
    return compiled(model, tmp_path_factory.mktemp("pan"), entities=2, memory_mb=512)


def test_a_search_that_is_too_shallow_is_deepened(verifier: Verifier) -> None:
    """Zero errors at a depth that cuts runs off are no proof; the depths are told."""
    search = verifier.search("p0", safety=True, first_depth=100)
    assert search.errors == 0
    assert search.depths == (100, 1_000, 10_000)
    assert search.depth < 10_000
    deep = verifier.search("p0", safety=True)
    assert (deep.depths, deep.states) == ((100_000,), search.states)


def test_a_search_that_runs_out_of_memory_proves_nothing(model: str, tmp_path: Path) -> None:
    """SPIN prints `errors: 0` all the same; the message says what to do."""
    small = compiled(model, tmp_path, entities=2, memory_mb=9)
    with pytest.raises(SpinError) as raised:
        small.search("p0", safety=True)
    assert str(raised.value).startswith(
        "SPIN ran out of memory at 9 MB, search depth 100000, after "
    )
    assert str(raised.value).endswith(
        "of claim p0 without an answer; that proves nothing. "
        "Give it more memory (--memory MB), or ask for fewer entities or shorter bounds"
    )


@pytest.mark.parametrize("missing", ["spin", "gcc"])
def test_a_missing_program_is_told(
    missing: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which one, and how to get it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in {"spin", "gcc"} - {missing}:
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(SpinError) as raised:
        compiled(model, tmp_path, entities=2, memory_mb=512)
    assert str(raised.value) == (
        f"'{missing}' is not installed, and --spin needs it; on Debian or Ubuntu: "
        "apt install spin gcc libc6-dev; elsewhere: https://spinroot.com"
    )


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [("byte state[", "byte state state["), ("[] (", "[] !!(")],
)
def test_a_model_that_spin_refuses_is_told(
    spoilt: str, told: str, model: str, tmp_path: Path
) -> None:
    """With SPIN's own words; it leaves out formulas that it cannot read, and ends with 0."""
    with pytest.raises(SpinError, match=r"'spin' did not take the model: .*[Ee]rror"):
        compiled(model.replace(spoilt, told, 1), tmp_path, entities=2, memory_mb=512)


def test_an_unknown_claim_is_no_proof(verifier: Verifier) -> None:
    """A search that did not begin has no errors either."""
    with pytest.raises(SpinError, match=r"stopped: .*cannot find claim 'p99'"):
        verifier.search("p99", safety=True)


def test_an_error_of_the_model_itself_is_no_counter_example(model: str, tmp_path: Path) -> None:
    """An index out of bounds stops the search; it does not break the property."""
    spoilt = model.replace("best = NONE", "best = 7").replace(
        "wanted[e] = NONE;", "wanted[ENTITIES] = NONE;", 1
    )
    wrong = compiled(spoilt, tmp_path, entities=2, memory_mb=512)
    with pytest.raises(SpinError, match=r"stopped: .*invalid array index"):
        wrong.search("p0", safety=True)
