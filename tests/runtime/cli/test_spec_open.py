"""What `kasmina spec` says of a machine that is not proved through, or not sound."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kasmina.cli.watch import MOST_NAMES, watch
from kasmina_generator.finding import counted
from kasmina_generator.prove import smt
from tests.generator.prove.machines import HEAD
from tests.generator.specs import DOOR, MACHINES, spoil, write
from tests.runtime.cli.conftest import Kasmina

COMPUTING = spoil(HEAD, "guard: x >= edge", "guard: x / y >= edge and x / y < 8.0")
UNSOUND = spoil(DOOR, "guard: timed_out", "guard: wind > gale")


@pytest.fixture
def no_z3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place where z3 is not installed."""
    monkeypatch.setitem(sys.modules, "z3", None)
    smt.solver.cache_clear()
    yield
    smt.solver.cache_clear()


@pytest.mark.usefixtures("no_z3")
def test_what_is_open_is_not_called_sound(kasmina: Kasmina, tmp_path: Path) -> None:
    """The heading counts what is not proved, and each statement follows."""
    code, out, _ = kasmina("spec", "check", write(tmp_path, COMPUTING))
    lines = out.splitlines()
    open_ = [line for line in lines if line.startswith("  not proved: ")]
    assert code == 0
    assert "sound" not in out
    assert lines[0] == (
        f"door.yaml: small version 1 has no fault that was found, but {len(open_)} statements are "
        "not proved: 3 states, 3 events, 5 edges"
    )
    assert len(open_) > 1


@pytest.mark.usefixtures("no_z3")
def test_a_build_says_what_is_open(kasmina: Kasmina, tmp_path: Path) -> None:
    """On standard error; the package is built all the same."""
    code, out, err = kasmina("spec", "build", write(tmp_path, COMPUTING), "--out", tmp_path / "o")
    assert code == 0
    assert "wrote " in out
    assert "small: not proved: state A: guards that compute" in err
    assert (tmp_path / "o" / "guards.py").is_file()


@pytest.mark.usefixtures("no_z3")
@pytest.mark.parametrize("more", [(), ("--check",)])
def test_a_strict_build_writes_nothing_of_it(
    kasmina: Kasmina, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Exit code 1."""
    file = write(tmp_path, COMPUTING)
    code, out, err = kasmina("spec", "build", file, "--out", tmp_path / "o", "--strict", *more)
    assert (code, out) == (1, "")
    assert "small: not proved: limits edge: " in err
    assert err.endswith("statements not proved; nothing is written under --strict\n")
    assert not (tmp_path / "o").exists()


def test_a_strict_build_of_what_is_proved(kasmina: Kasmina, tmp_path: Path) -> None:
    """As any other."""
    file = write(tmp_path, COMPUTING)
    code, _, err = kasmina("spec", "build", file, "--out", tmp_path / "o", "--strict")
    assert (code, err) == (0, "")
    assert kasmina("spec", "check", file)[1].startswith("door.yaml: small version 1 is sound: ")


@pytest.mark.parametrize("form", ["mermaid", "dot", "svg", "scxml", "promela", "json", "table"])
@pytest.mark.parametrize(("strict", "code"), [((), 0), (("--strict",), 1)])
def test_a_machine_with_faults_is_shown(
    kasmina: Kasmina, tmp_path: Path, form: str, strict: tuple[str, ...], code: int
) -> None:
    """That is when a picture helps; its faults go to standard error."""
    file = write(tmp_path, UNSOUND)
    found, out, err = kasmina("spec", "show", file, "--format", form, *strict)
    assert found == code
    assert "LOCKED" in out
    assert "no time-out edge" in err
    assert "witness: SHUT@0 --push" in err


def test_what_is_no_spec_is_not_shown(kasmina: Kasmina, tmp_path: Path) -> None:
    """Exit code 1."""
    file = write(tmp_path, spoil(DOOR, "guard: calm", "guard: clam"))
    code, out, err = kasmina("spec", "show", file)
    assert (code, out) == (1, "")
    assert err.endswith("1 finding\n")


URGENT = "  - {from: non_terminal, on: stop, to: END}\n"


@pytest.mark.parametrize(
    ("line", "note"),
    [
        (URGENT, ""),
        ("  - {from: A, on: stop, to: END}\n", "urgent stop has no edge from B; "),
        (
            "  - {from: [A, B], on: stop, to: END, guard: x >= 1.0}\n",
            "urgent stop may be held back by its guard in A, B; ",
        ),
    ],
)
def test_an_urgent_event_that_may_do_nothing_is_noted(
    kasmina: Kasmina, tmp_path: Path, line: str, note: str
) -> None:
    """It is legal, and may surprise."""
    file = write(tmp_path, spoil(HEAD, URGENT, line))
    code, out, _ = kasmina("spec", "check", file, "--verbose")
    assert code == 0
    notes = [text for text in out.splitlines() if text.startswith("  note: urgent")]
    assert [text.startswith(f"  note: {note}") for text in notes] == [True] * bool(note)
    if note:
        assert notes[0].endswith("declare a property with handles: {event: stop, in: ...}")


def test_spin_without_properties_searches_nothing(kasmina: Kasmina, tmp_path: Path) -> None:
    """And says so, instead of 0 broken."""
    code, out, _ = kasmina("spec", "prove", write(tmp_path, HEAD), "--spin", "--entities", "1")
    assert code == 0
    assert out.endswith(
        "  by SPIN, 1 entity:\n"
        "  SPIN: nothing was searched, for the spec declares no property that SPIN can be asked\n"
    )


def test_numbers_agree_with_their_nouns() -> None:
    """One epoch, two epochs, no entities."""
    assert [counted(n, "entity") for n in (0, 1, 2)] == ["0 entities", "1 entity", "2 entities"]
    assert counted(1234, "state") == "1,234 states"


def test_one_epoch(kasmina: Kasmina) -> None:
    """A bound of one."""
    _, out, _ = kasmina("spec", "check", MACHINES / "orders.yaml")
    assert "within 1 epochs" not in out
    assert " epochs" in out


def test_watching_names_few_files_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of specs is no reason for a page of names after each build."""
    files = [tmp_path / f"{number}.yaml" for number in range(MOST_NAMES + 3)]
    for file in files:
        file.write_text("1")
    steps: Iterator[Callable[[], object]] = iter(
        [lambda: files[0].write_text("12"), lambda: None, lambda: files[1].unlink(), lambda: None]
    )

    def sleep(_: float) -> None:
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr("kasmina.cli.watch.time.sleep", sleep)
    assert watch(lambda: files, lambda: None) == 0
    assert capsys.readouterr().out.splitlines() == [
        "watching 0.yaml, 1.yaml, 2.yaml, 3.yaml, 4.yaml, 5.yaml and 3 more; Ctrl-C ends it",
        "watching; Ctrl-C ends it",
        "watching 0.yaml, 2.yaml, 3.yaml, 4.yaml, 5.yaml, 6.yaml and 2 more; Ctrl-C ends it",
        "stopped",
    ]
