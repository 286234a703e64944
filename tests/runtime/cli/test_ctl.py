"""What `kasmina ctl` refuses before it asks anybody: no server is needed for it."""

from __future__ import annotations

import pytest

from kasmina.cli import main

NOBODY = "redis://127.0.0.1:1"  # where asking would fail with another message


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["limit", "min_stability", "nan"], "NaN means nothing here"),
        (["pause", "--reason", "x" * 2000], "1024"),
        (["cancel", f"head[{10**26}]"], "ints"),
        (["cancel", "x" * 600], "512"),
    ],
    ids=["nan", "long reason", "large slot", "long site"],
)
def test_what_no_message_can_hold_is_a_usage_error(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says what is wrong; exit code 2, no traceback."""
    assert main(["ctl", *words, "--bus", NOBODY]) == 2
    told = capsys.readouterr().err
    assert "this command cannot be sent" in told
    assert says in told
    assert "Traceback" not in told
