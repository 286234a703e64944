"""Addresses."""

from __future__ import annotations

import pytest

from kasmina.lifecycle.address import Address, InvalidAddress


@pytest.mark.parametrize(
    "address",
    [
        Address("digits-7", "block.0", 3, 0),
        Address("", "", 0, 12),
        Address("r", "a/b[2]#1.c", 0, 1),
    ],
)
def test_text_and_address_are_the_same_thing(address: Address) -> None:
    """What `str` writes is read back, whatever the path of the site holds."""
    assert Address.parse(str(address)) == address


def test_text_of_an_address() -> None:
    """The form that logs and messages show."""
    assert str(Address("digits-7", "block.0", 3, 1)) == "digits-7/block.0[3]#1"


@pytest.mark.parametrize("text", ["", "run/site", "run/site[x]#0", "run/site[-1]#0", "run/site[1]"])
def test_anything_else_is_refused(text: str) -> None:
    """The message shows the text and the legal form."""
    with pytest.raises(InvalidAddress) as caught:
        Address.parse(text)
    assert str(caught.value) == (
        f"{text!r} is no address of a seed; write run/site[slot]#generation, "
        "e.g. 'digits-7/block.0[3]#0'"
    )
