"""Every message that the spec declares: it arrives as it was sent, and no bytes break its readers."""

from __future__ import annotations

import math
import random
import struct
from typing import Any

import msgspec
import pytest

from kasmina_generated.messages import types, wire
from kasmina_generated.messages.types import FIELDS, ITEM_BYTES, MESSAGES, Envelope, Field

CASES = 25  # of each kind
MUTANTS = 4000


def value(field: Field, rng: random.Random, entries: int) -> Any:
    """Any legal value of a field; often one at an end of what is legal."""
    if field.none is not None and rng.random() < 0.3:
        return None
    match field.type:
        case "int":
            low, high = field.range or (-(1 << 63), (1 << 63) - 1)
            return rng.choice((int(low), int(high), rng.randint(int(low), int(high))))
        case "float":
            return number(field, rng)
        case "bool":
            return rng.random() < 0.5
        case "str":
            return "".join(rng.choices("aZ_ü\U0001f331\x00'", k=length(field, rng)))
        case "bytes":
            return rng.randbytes(length(field, rng))
        case "choice":
            return rng.choice(field.values or ())
        case "record":
            return record(getattr(types, field.of or ""), rng)
        case "tuple" if field.of == "str":
            return tuple("x" * rng.randrange(9) for _ in range(length(field, rng)))
        case "tuple":
            held = getattr(types, field.of or "")
            return tuple(record(held, rng) for _ in range(length(field, rng)))
        case "column":
            return rng.randbytes(entries * ITEM_BYTES[field.of or ""])
    raise AssertionError(f"a type that this test does not know: {field.type}")


def number(field: Field, rng: random.Random) -> float:
    """NaN where it means something, ends, and what lies between."""
    low, high = field.range or (-math.inf, math.inf)
    inside = [end for end in (low, high) if math.isfinite(end)] or [0.0]
    inside += [min(max(rng.gauss(0, 1e6), low), high)]
    return rng.choice([*inside, math.nan] if field.nan is not None else inside)


def length(field: Field, rng: random.Random) -> int:
    """A length that is legal and not long."""
    least, most = field.length or (0, 0)
    return rng.choice((least, min(most, least + rng.randrange(6))))


def record(kind: type[msgspec.Struct], rng: random.Random) -> Any:
    """Any legal record; some of what has a default is not given."""
    entries = rng.randrange(4)
    given = {field.name: value(field, rng, entries) for field in FIELDS[kind.__name__]}
    optional = {field.name for field in msgspec.structs.fields(kind) if not field.required}
    return kind(**{n: v for n, v in given.items() if n not in optional or rng.random() < 0.7})


def envelope(kind: str, rng: random.Random) -> Envelope:
    """Any legal message of a kind."""
    fields = {field.name: value(field, rng, 0) for field in FIELDS["Envelope"]}
    return Envelope(version=types.VERSION, body=record(MESSAGES[kind], rng), **fields)  # type: ignore[arg-type]


def plain(message: Any) -> str:
    """What two messages are compared by; NaN equals itself."""
    return repr(message)


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_message_arrives_as_it_was_sent(kind: str) -> None:
    """Whatever legal values it has; alone, and many in a payload."""
    rng = random.Random(kind)
    sent = [envelope(kind, rng) for _ in range(CASES)]
    for each in sent:
        assert plain(wire.decode(wire.encode(each))) == plain(each)
    assert plain(wire.decode_each(wire.encode_many(sent))) == plain(sent)


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_message_refuses_what_it_does_not_know(kind: str) -> None:
    """A field more anywhere; each field that must be there left out."""
    rng = random.Random(kind)
    full = msgspec.to_builtins(envelope(kind, rng), builtin_types=(bytes,))
    required = {f.name for f in msgspec.structs.fields(MESSAGES[kind]) if f.required}
    for wrong in (
        full | {"surprise": 1},
        full | {"body": full["body"] | {"surprise": 1}},
        *(
            full | {"body": {n: v for n, v in full["body"].items() if n != name}}
            for name in required
        ),
    ):
        with pytest.raises(wire.MessageRefused) as caught:
            wire.decode(msgspec.msgpack.encode(wrong))
        assert caught.value.reason == "illegal"


def spoiled(payload: bytes, rng: random.Random) -> bytes:
    """A payload with bytes turned, cut, doubled, or a length that nothing has put in."""
    data = bytearray(payload)
    at = rng.randrange(len(data))
    match rng.randrange(5):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            del data[at:]
        case 2:
            data[at:at] = data[: rng.randrange(len(data))]
        case 3:
            data[at : at + 5] = rng.choice(b"\xdb\xc6\xdd\xdf").to_bytes() + b"\xff\xff\xff\xff"
        case 4:
            data[at : at + 9] = b"\xcb" + struct.pack(">d", rng.choice((math.nan, math.inf, -1.0)))
    return bytes(data)


def test_no_bytes_do_anything_but_be_read_or_be_refused() -> None:
    """Of thousands of spoiled messages; what is still read is legal and can be written again."""
    rng = random.Random(7)
    kinds = list(MESSAGES)
    refused = 0
    for number_ in range(MUTANTS):
        payload = spoiled(wire.encode(envelope(kinds[number_ % len(kinds)], rng)), rng)
        for each in wire.decode_each(payload):
            if isinstance(each, Envelope):
                wire.encode(each)
            else:
                refused += 1
                assert len(str(each)) < 4000
    assert refused > MUTANTS // 2
