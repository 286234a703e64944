"""Signed commands: who knows the key is heard, everything else is refused by its reason."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kasmina.bus.commands import CommandConfig, CommandHandler
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.signing import (
    BadKeyFile,
    SignatureRefused,
    Signer,
    Verifier,
    key_of,
    make_key_file,
    read_keys,
    unsealed,
)
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import (
    Accepted,
    Applied,
    Cancel,
    Envelope,
    Pause,
    Signed,
    Target,
)
from tests.runtime.bus.buses import run

NOW = 1_700_000_000.0
ENTRY = "1700000000000-0"
KEY, OTHER = key_of(b"k" * 32), key_of(b"o" * 40)


def command(**options: Any) -> Envelope:
    """A command of a producer whose clock stands."""
    stamp = Stamp("ctl", clock=lambda: NOW)
    return stamp(Cancel(run="run", target=Target(site="block.0", slot=3)), **options)


def changed(envelope: Envelope, **fields: Any) -> Envelope:
    """A signed message with other values in its carrier."""
    assert isinstance(envelope.body, Signed)
    return msgspec.structs.replace(envelope, body=msgspec.structs.replace(envelope.body, **fields))


def refused(verifier: Verifier, envelope: Envelope, entry: str = ENTRY) -> SignatureRefused:
    """Why the message is refused."""
    with pytest.raises(SignatureRefused) as caught:
        verifier(envelope, entry)
    return caught.value


def test_what_is_signed_arrives_as_it_was() -> None:
    """Over the wire, with its id outside as well."""
    sent = command(trace="00-1-2-3", correlation="before")
    carrier = wire.decode(wire.encode(Signer(KEY)(sent)))
    assert carrier.id == sent.id
    assert Verifier((OTHER, KEY))(carrier, ENTRY) == sent


def test_an_unsigned_command_is_refused() -> None:
    """With what to do."""
    error = refused(Verifier((KEY,)), command(id="c1"))
    assert error.reason == "unsigned"
    assert str(error) == (
        "message 'c1' refused (unsigned): only what is signed counts here; give the sender the "
        "key's file"
    )


def test_a_key_that_is_not_known_is_refused() -> None:
    """By its name, which tells nothing of it."""
    error = refused(Verifier((KEY,)), Signer(OTHER)(command()))
    assert error.reason == "forged"
    assert OTHER.name in error.detail
    assert OTHER.secret.hex() not in repr(OTHER) + str(error)


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_every_byte_of_what_is_signed_counts(bit: int) -> None:
    """One bit anywhere in payload or proof."""
    carrier = Signer(KEY)(command())
    assert isinstance(carrier.body, Signed)
    verifier = Verifier((KEY,))
    for name in ("payload", "mac"):
        value = getattr(carrier.body, name)
        for place in range(len(value)):
            wrong = bytearray(value)
            wrong[place] ^= 1 << bit
            error = refused(verifier, changed(carrier, **{name: bytes(wrong)}))
            assert error.reason == "forged"
    assert verifier(carrier, ENTRY).id == carrier.id


def test_what_stands_around_a_signature_proves_nothing() -> None:
    """A new id, producer and time outside change nothing of what is done."""
    sent = command()
    carrier = msgspec.structs.replace(
        Signer(KEY)(sent), id="new", producer="me", time=NOW + 1e6, sequence=9
    )
    assert Verifier((KEY,))(carrier, ENTRY) == sent


@pytest.mark.parametrize(("late", "passes"), [(0, True), (299, True), (301, False), (-301, False)])
def test_a_command_is_taken_within_its_window_only(late: int, passes: bool) -> None:
    """By the time at which the bus took it, so that a run which slept reads it still."""
    carrier = Signer(KEY)(command())
    entry = f"{int((NOW + late) * 1000)}-0"
    if passes:
        Verifier((KEY,), window_s=300)(carrier, entry)
    else:
        error = refused(Verifier((KEY,), window_s=300), carrier, entry)
        assert error.reason == "expired"
        assert f"{late} s before the bus took it" in error.detail


def test_a_copy_in_another_entry_is_known_and_the_same_entry_read_again_is_not_one() -> None:
    """And what is remembered is bounded."""
    verifier = Verifier((KEY,), remembered=2)
    first, second = command(), command()
    assert not verifier.is_replayed(first, "1-0")
    assert not verifier.is_replayed(first, "1-0")
    assert verifier.is_replayed(first, "1-1")
    assert not verifier.is_replayed(second, "2-0")
    assert not verifier.is_replayed(command(), "3-0")
    assert not verifier.is_replayed(first, "9-0")  # forgotten


def test_signed_bytes_that_are_no_message_are_refused() -> None:
    """By who knows the key, too."""
    garbage = Signed(key=KEY.name, mac=KEY.mac(b"\xc1"), payload=b"\xc1")
    carrier = msgspec.structs.replace(command(), body=garbage)
    with pytest.raises(wire.MessageRefused, match="malformed"):
        Verifier((KEY,))(carrier, ENTRY)


def test_a_key_is_made_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    """And nothing is written over."""
    path = tmp_path / "key"
    made = make_key_file(path)
    assert read_keys(path) == (made,)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(made.secret) == 32
    with pytest.raises(BadKeyFile, match=r"key: cannot be made: File exists"):
        make_key_file(path)
    sent = Stamp("a", clock=lambda: NOW)(Pause(run="r"))
    assert Verifier(read_keys(path))(Signer(made)(sent), ENTRY) == sent


def test_a_file_may_hold_several_keys(tmp_path: Path) -> None:
    """The newest first; the others are still taken for proof."""
    path = tmp_path / "keys"
    path.write_text(f"# since May\n{'ab' * 32}  # new\n\n{'cd' * 48}\n")
    path.chmod(0o600)
    new, old = read_keys(path)
    assert (new.secret, old.secret) == (b"\xab" * 32, b"\xcd" * 48)


@pytest.mark.parametrize(
    ("text", "rights", "says"),
    [
        ("ab" * 32, 0o644, "others may read it, so it is no secret; run: chmod 600"),
        ("ab" * 31, 0o600, ":1: has 31 bytes; a key has 32 or more (64 digits)"),
        ("# a\nxyz", 0o600, ":2: is not hexadecimal"),
        ("# none\n", 0o600, "holds no key; write one a line in hexadecimal"),
        ("ä" * 64, 0o600, "cannot be read: it is not plain text"),
    ],
)
def test_a_file_that_holds_no_key_is_refused(
    tmp_path: Path, text: str, rights: int, says: str
) -> None:
    """With what is wrong and where; the text itself is not told."""
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(rights)
    with pytest.raises(BadKeyFile) as caught:
        read_keys(path)
    assert says in str(caught.value)
    assert "abab" not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """By the system's words."""
    with pytest.raises(BadKeyFile, match=r"none: cannot be read: No such file"):
        read_keys(tmp_path / "none")


async def answers_to(bus: InProcessBus, sent: list[Envelope], **options: Any) -> list[Any]:
    """What a handler says to commands, each published in an entry of its own; all are applied."""
    handler = CommandHandler(
        bus,
        "commands",
        "answers",
        Stamp("run"),
        run="run",
        check=lambda command: None,
        config=CommandConfig(wait_s=0.01, window=1),
        **options,
    )
    running = asyncio.create_task(handler.run())
    found: list[Any] = []
    after = "0"
    for envelope in sent:
        await bus.publish("commands", wire.encode(envelope))
        new: list[Any] = []
        while not new or isinstance(new[-1], Accepted):
            for request in handler.take():
                handler.settle(request, Applied(run="run", epoch=0, step=0, seeds=()))
            for each in await bus.read("answers", after=after, wait_s=0.01):
                after = each.id
                new.append(unsealed(wire.decode(each.payload)).body)
        found.append(new[-1])
    handler.stop()
    await running
    return found


def outcomes(answers: list[Any]) -> list[str]:
    """What became of each."""
    return [getattr(each, "reason", "applied") for each in answers]


def test_a_run_that_wants_proof_obeys_who_knows_the_key_and_tells_the_others_why() -> None:
    """Unsigned, forged, old, sent again soon (answered as before) and later (refused)."""
    bus = InProcessBus(clock=lambda: NOW)
    one, two = (Signer(KEY)(command(id=name)) for name in ("one", "two"))
    old = Stamp("ctl", clock=lambda: NOW - 1000)(Pause(run="run"))
    sent = [one, command(), Signer(OTHER)(command()), Signer(KEY)(old), one, two, one]

    answers = run(answers_to(bus, sent, verify=Verifier((KEY,))))
    assert outcomes(answers) == [
        *("applied", "unsigned", "forged", "expired", "applied", "applied", "replayed")
    ]


def test_a_run_that_wants_no_proof_takes_signed_commands_as_well() -> None:
    """So that a key can be brought in without a pause."""
    bus = InProcessBus(clock=lambda: NOW)
    answers = run(answers_to(bus, [Signer(KEY)(command()), command()]))
    assert outcomes(answers) == ["applied", "applied"]
