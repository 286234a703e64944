"""Properties as linear temporal logic: what is said, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from kasmina_generator.emit.linear import Claim, Claims, claims
from tests.generator.specs import DOOR, read, spoil

OLD = "  - {name: can be locked, handles: {event: lock, in: usable}}\n"


def said(folder: Path, *properties: str) -> Claims:
    """Return the claims of a door with these properties."""
    lines = "".join(f"  - {{name: n{i}, {text}}}\n" for i, text in enumerate(properties))
    return claims(read(folder, spoil(DOOR, OLD, lines)))


def formula(folder: Path, text: str) -> Claim:
    """Return the one claim that a CTL formula becomes."""
    (claim,) = said(folder, f'ctl: "{text}"').claims
    return claim


def test_must_pass_watches_where_the_entity_was(tmp_path: Path) -> None:
    """One bit remembers, and a new life of the slot forgets."""
    found = said(tmp_path, "must_pass: {to: LOCKED, through: OPEN}")
    (watch,), (claim,) = found.watches, found.claims
    assert (watch.name, watch.through, watch.initially, watch.forgets) == (
        "passed_p0",
        ("OPEN",),
        False,
        True,
    )
    assert claim.formula == "[] ((state[observed] == S_LOCKED) -> passed_p0)"
    assert claim.safety


def test_handles_asks_for_a_guard_that_holds(tmp_path: Path) -> None:
    """Guards count where values have been measured."""
    (claim,) = said(tmp_path, "handles: {event: lock, in: usable}").claims
    assert claim.formula == (
        "[] ((region != UNKNOWN && IN_usable(state[observed])) -> "
        "((state[observed] == S_SHUT && GUARD_0(observed, region)) || "
        "(state[observed] == S_OPEN && GUARD_2(observed, region))))"
    )


def test_absorbing_never_forgets(tmp_path: Path) -> None:
    """A new life counts as leaving."""
    found = said(tmp_path, "absorbing: LOCKED")
    assert found.claims[0].formula == "[] (passed_p0 -> (state[observed] == S_LOCKED))"
    assert not found.watches[0].forgets


def test_a_reachable_state_is_a_run_to_be_found(tmp_path: Path) -> None:
    """The formula says that it is never reached."""
    (claim,) = said(tmp_path, "reachable: OPEN").claims
    assert (claim.formula, claim.sought) == ("[] (!((state[observed] == S_OPEN)))", True)


def test_reachable_of_a_group_needs_several_runs(tmp_path: Path) -> None:
    """One formula cannot ask for that."""
    found = said(tmp_path, "reachable: usable")
    assert not found.claims
    assert [why for _, why in found.unsaid] == ["each state of the group needs a run of its own"]


def test_bounded_is_an_end_some_time(tmp_path: Path) -> None:
    """This takes an infinite run to break."""
    (claim,) = said(tmp_path, "bounded: {from: OPEN}").claims
    ended = "IN_terminal(state[observed])"
    assert claim.formula == f"[] ((state[observed] == S_OPEN) -> <> {ended})"
    assert not claim.safety


@pytest.mark.parametrize(
    ("text", "expected", "safety"),
    [
        ("AG !LOCKED", "[] (!((state[observed] == S_LOCKED)))", True),
        ("!EF LOCKED", "[] (!((state[observed] == S_LOCKED)))", True),
        (
            "AG(OPEN -> AF SHUT)",
            "[] ((state[observed] == S_OPEN) -> <> (state[observed] == S_SHUT))",
            False,
        ),
        (
            "A[SHUT U OPEN]",
            "((state[observed] == S_SHUT) U (state[observed] == S_OPEN))",
            False,
        ),
        (
            "!E[!OPEN U LOCKED]",
            "!(!((state[observed] == S_OPEN)) U (state[observed] == S_LOCKED))",
            False,
        ),
        (
            "AG(epochs <= 9) & AG(timed_out -> OPEN)",
            (
                "([] (epochs[observed] <= 9) && [] (!("
                "((state[observed] == S_OPEN && epochs[observed] >= 9))"
                ") || (state[observed] == S_OPEN)))"
            ),
            False,
        ),
    ],
)
def test_formulas(tmp_path: Path, text: str, expected: str, safety: bool) -> None:
    """What means the same without its quantifiers is said without them."""
    claim = formula(tmp_path, text)
    assert claim.formula == expected
    assert claim.safety is safety


def test_guards_count_only_where_they_were_measured(tmp_path: Path) -> None:
    """Between a tick and the next measurement no guard is known to hold."""
    enabled = "((state[observed] == S_SHUT && GUARD_1(observed, region)))"
    found = formula(tmp_path, "AG(enabled(push) -> SHUT)")
    assert enabled in found.formula
    assert found.formula.startswith("[] ((region != UNKNOWN -> ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("AG(OPEN -> EF SHUT)", "it asks for some run in between"),
        ("AG(OPEN -> AX SHUT)", "it counts single steps"),
        ("EG SHUT", "it asks for some run in between"),
        ("AF AG LOCKED", "it asks for some run in between"),
        ("EX SHUT", "it counts single steps"),
        ("!EX SHUT", "it counts single steps"),
    ],
)
def test_what_cannot_be_said_is_told(tmp_path: Path, text: str, why: str) -> None:
    """Nothing is approximated in silence."""
    found = said(tmp_path, f'ctl: "{text}"')
    assert not found.claims
    assert found.unsaid[0][1].startswith(why)
