"""What `kasmina ctl` refuses before it asks anybody: no server is needed for it."""

from __future__ import annotations

import pytest

from kasmina.cli import main

NOBODY = "redis://127.0.0.1:1"  # where asking would fail with another message


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["limit", "min_stability", "nan"],
            "value: NaN means nothing here; give a number",
        ),
        (["pause", "--reason", "x" * 2000], "reason has 2,000 characters; it takes 0 to 1,024"),
        (["pause", "--reason", "\udcff"], "reason holds bytes that are no text in UTF-8"),
        (["cancel", f"head[{10**26}]"], f"slot is {10**26}; it takes 0 to {2**63 - 1:,}"),
        (["cancel", f"head[1]#{10**40}"], f"generation is 1{'0' * 31}...; it takes 0 to"),
        (["cancel", "x" * 600], "site has 600 characters; it takes 1 to 512"),
        (["germinate", "a", "--blueprint", ""], "blueprint has 0 characters; it takes 1 to 256"),
        (["pause", "--id", "x" * 129], "id has 129 characters; it takes 1 to 128"),
        (["pause", "--id", "\udcff"], "id holds bytes that are no text in UTF-8"),
        (["pause", "--run", "x" * 257], "run has 257 characters; it takes 1 to 256"),
    ],
    ids=[
        "nan",
        "long reason",
        "no text",
        "large slot",
        "larger life",
        "long site",
        "no blueprint",
        "long id",
        "id of no text",
        "long run",
    ],
)
def test_what_no_message_can_hold_is_a_usage_error(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says what is wrong; exit code 2, no traceback."""
    assert main(["ctl", *words, "--bus", NOBODY]) == 2
    told = capsys.readouterr().err
    assert f"this command cannot be sent: {says}" in told
    assert "Traceback" not in told


def test_a_number_that_nobody_can_read_is_no_target(capsys: pytest.CaptureFixture[str]) -> None:
    """Python reads no whole number of so many digits; the message shows their beginning."""
    assert main(["ctl", "cancel", f"head[{'1' * 5000}]", "--bus", NOBODY]) == 2
    told = capsys.readouterr().err
    assert f"'head[{'1' * 55}'..., of 5,006 characters, is no target; write SITE[SLOT]" in told
    assert "Traceback" not in told
