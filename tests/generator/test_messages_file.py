"""Messages files: what is read, what is refused, and what the modules that they give do."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from kasmina_generator.build import build, user_target
from kasmina_generator.messages.messages_file import tag
from kasmina_generator.messages.model import MessageSchema
from tests.generator.specs import DOOR, changes, faults, read, spoil

BELL = """\
schema: kasmina/messages@1
name: bell
version: 4
meaning: What the door and its keeper say to each other.
axes:
  hours: One entry an hour.
records:
  Visitor:
    meaning: Somebody.
    fields:
      name: {type: str, length: [1, 20], meaning: How they are called.}
      age: {type: int, unit: years, range: [0, .inf], none: Nobody asked., meaning: Since birth.}
envelope:
  meaning: Around every message.
  fields:
    id: {type: str, length: [1, 64], meaning: Its name.}
    sent: {type: float, unit: s, range: [0, .inf], meaning: When.}
groups:
  order:
    meaning: What is asked.
    fields:
      door: {type: str, length: [1, 20], meaning: Which one.}
  report: {meaning: What was seen.}
messages:
  Open:
    group: order
    meaning: Let somebody in.
    fields:
      whom: {type: record, of: Visitor, meaning: Who it is.}
      how: {type: choice, values: [wide, narrow], default: wide, meaning: How far.}
      wait: {type: float, unit: s, range: [0, 60], default: 1.5, meaning: For how long.}
      loud: {type: bool, default: false, meaning: With the bell.}
  LockUp: {group: order, meaning: Nobody passes.}
  Day:
    group: report
    meaning: What a day brought.
    fields:
      visitors: {type: tuple, of: Visitor, length: [0, 3], meaning: As they came.}
      remarks: {type: tuple, of: str, length: [1, 2], meaning: Of the doorman.}
      people: {type: column, dtype: int16, axis: hours, unit: "1", meaning: Them.}
      rain: {type: column, dtype: bool, axis: hours, meaning: It rained.}
      wind: {type: float, unit: m/s, range: [0, 50], nan: Still., none: Not asked., meaning: Draught.}
      mood: {type: float, unit: "1", meaning: Of the doorman.}
      photo: {type: bytes, length: [0, 16], none: None was taken., meaning: From above.}
upgrades:
  - from: 2
    meaning: Guests became visitors.
    envelope: {rename: {when: sent}, drop: colour}
    messages:
      Admit: {rename: {guest: whom}, drop: [shoes, hat]}
    ended: {Sing: The door listens to nobody.}
  - from: 3
    meaning: The door is named.
    messages:
      Open: {was: Admit, add: {door: front, how: narrow}}
      LockUp: {add: {door: front}}
      Day: {add: {wind: null}}
"""
WITH_MESSAGES = f"{DOOR}messages: bell.yaml\n"


def said(folder: Path, text: str, spec: str = WITH_MESSAGES) -> list[str]:
    """What is said of the door with this messages file."""
    (folder / "bell.yaml").write_text(text)
    return faults(folder, spec)


def schema(folder: Path, text: str = BELL) -> MessageSchema:
    """What is read of a messages file that is right."""
    assert said(folder, text) == []
    found = read(folder, WITH_MESSAGES).message_file
    assert found is not None
    return found


@pytest.mark.parametrize(("old", "new", "messages"), list(changes("bad_messages.txt")))
def test_each_fault_is_told_exactly(
    tmp_path: Path, old: str, new: str, messages: list[str]
) -> None:
    """Where it is, what is legal, what was meant."""
    assert said(tmp_path, spoil(BELL, old, new)) == messages


def test_what_is_read_is_what_stands_there(tmp_path: Path) -> None:
    """Fields of a group come before a message's own; upgrades are in order."""
    found = schema(tmp_path)
    assert (found.name, found.version, found.oldest) == ("bell", 4, 2)
    opening, lock, day = found.messages
    assert [field.name for field in found.fields_of(opening)] == [
        *("door", "whom", "how", "wait", "loud")
    ]
    assert [field.name for field in found.fields_of(lock)] == ["door"]
    wind = next(field for field in day.fields if field.name == "wind")
    assert (wind.low, wind.high, wind.nan, wind.none) == (0.0, 50.0, True, True)
    assert [upgrade.start for upgrade in found.upgrades] == [2, 3]
    (change, lock_change, _) = found.upgrades[1].changes
    assert (change.name, change.was, change.added[1].value) == ("Open", "Admit", "narrow")
    assert lock_change.added[0].value == "front"


def test_the_digest_covers_all_but_the_prose(tmp_path: Path) -> None:
    """And the machine's own digest covers none of it."""
    before = schema(tmp_path).digest
    assert read(tmp_path, WITH_MESSAGES).digest == read(tmp_path, DOOR).digest
    for old, new in [("Somebody.", "Anybody."), ("The door is named.", "It has a name.")]:
        assert schema(tmp_path, spoil(BELL, old, new)).digest == before
    for old, new in [
        ("length: [1, 20], meaning: How", "length: [1, 21], meaning: How"),
        ("values: [wide, narrow]", "values: [wide, narrow, ajar]"),
        ("default: 1.5", "default: 2.5"),
        ("nan: Still., ", ""),
        ("how: narrow}}", "how: wide}}"),
    ]:
        assert schema(tmp_path, spoil(BELL, old, new)).digest != before, new


@pytest.mark.parametrize(
    ("name", "written"), [("SetLimit", "set_limit"), ("Go", "go"), ("HTTPCall2", "http_call2")]
)
def test_a_message_is_called_in_lower_case_on_the_wire(name: str, written: str) -> None:
    """With a line between words."""
    assert tag(name) == written


# ---------------------------------------------------------------------- what the modules do


class Modules:
    """The package of the door, imported."""

    def __init__(self, types: ModuleType, wire: ModuleType) -> None:
        self.types, self.wire = types, wire

    def envelope(self, body: Any, /, **fields: Any) -> Any:
        """A message in its envelope."""
        return self.types.Envelope(**{"version": 4, "id": "m", "sent": 1.0, "body": body} | fields)

    def plain(self, body: Any, /, **fields: Any) -> dict[str, Any]:
        """A message as a dictionary, as another program may send it."""
        found: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(self.envelope(body)))
        return found | fields

    def refused(self, payload: object) -> Any:
        """Why a payload is refused."""
        data = payload if isinstance(payload, bytes) else msgspec.msgpack.encode(payload)
        with pytest.raises(self.wire.MessageRefused) as caught:
            self.wire.decode(data)
        return caught.value


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modules]:
    """The door's messages, built and imported from a folder of their own."""
    folder = tmp_path_factory.mktemp("bell")
    (folder / "bell.yaml").write_text(BELL)
    (folder / "door.yaml").write_text(WITH_MESSAGES)
    build([user_target(folder / "door.yaml", folder / "ringing")])
    sys.path.insert(0, str(folder))
    try:
        names = ("ringing.messages.types", "ringing.messages.wire")
        yield Modules(*map(importlib.import_module, names))
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "ringing"]:
            del sys.modules[name]


def day(door: Modules, **fields: Any) -> Any:
    """A day with everything."""
    types = door.types
    given: dict[str, Any] = {
        "visitors": (types.Visitor(name="Ada", age=36), types.Visitor(name="Bob")),
        "remarks": ("wet",),
        "people": bytes(range(6)),
        "rain": b"\x01\x00\x01",
        "wind": math.inf - math.inf,
        "mood": -2.5,
        "photo": b"\xff\x00",
    }
    return types.Day(**given | fields)


def test_messages_arrive_as_they_were_sent(door: Modules) -> None:
    """One, and many in a payload; what is not given has its default."""
    types, wire = door.types, door.wire
    opening = types.Open(door="front", whom=types.Visitor(name="Ada", age=None))
    assert (opening.how, opening.wait, opening.loud) == ("wide", 1.5, False)
    for body in (opening, types.LockUp(door="x" * 20)):
        sent = door.envelope(body)
        assert wire.decode(wire.encode(sent)) == sent
    found = wire.decode(wire.encode(door.envelope(day(door)))).body
    assert math.isnan(found.wind)
    assert (found.people, found.rain, found.photo) == (
        bytes(range(6)),
        b"\x01\x00\x01",
        b"\xff\x00",
    )
    assert day(door, visitors=()).visitors == ()
    many = [door.envelope(opening, id=f"m{number}") for number in range(5)]
    assert wire.decode_many(wire.encode_many(many)) == many
    assert wire.decode_many(wire.encode(many[0])) == many[:1]


def test_messages_are_told_apart_by_groups_and_names(door: Modules) -> None:
    """As types, and as tables."""
    types = door.types
    assert {"order": (types.Open, types.LockUp), "report": (types.Day,)} == types.GROUPS
    assert list(types.MESSAGES) == ["open", "lock_up", "day"]
    assert isinstance(types.LockUp(door="a"), types.Order)
    assert not isinstance(day(door), types.Order)
    fields = {field.name: field for field in types.FIELDS["Open"]}
    assert (fields["how"].values, fields["wait"].range) == (("wide", "narrow"), (0.0, 60.0))
    assert (types.VERSION, types.OLDEST) == (4, 2)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"remarks": ()}, "Expected `array` of length >= 1 - at `$.body.remarks`"),
        ({"remarks": ("a", "b", "c")}, "Expected `array` of length <= 2 - at `$.body.remarks`"),
        ({"photo": bytes(17)}, "Expected `bytes` of length <= 16 - at `$.body.photo`"),
    ],
)
def test_what_is_not_legal_is_not_written(door: Modules, fields: Any, says: str) -> None:
    """The writer is told, unless it asks for no check."""
    sent = door.envelope(day(door, **fields))
    with pytest.raises(door.wire.MessageRefused) as caught:
        door.wire.encode(sent)
    error = caught.value
    assert (error.reason, error.detail, error.message_id, error.kind) == (
        "illegal",
        says,
        "m",
        "day",
    )
    with pytest.raises(door.wire.MessageRefused):
        door.wire.encode_many([door.envelope(day(door)), sent])
    assert door.refused(door.wire.encode(sent, check=False)).detail == says


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"wind": 51.0}, "wind: 51.0 is out of range; give 0.0 to 50.0"),
        ({"mood": math.nan}, "mood: NaN means nothing here; give a number"),
        ({"people": bytes(5)}, "people: 5 bytes are not whole items of 2 bytes"),
        ({"rain": b"\x01"}, "rain has 1 entries and people has 3; both have one for each of hours"),
    ],
)
def test_what_no_type_holds_is_checked_when_a_message_is_made(
    door: Modules, fields: Any, says: str
) -> None:
    """Numbers that may be NaN, numbers that may not, and columns; by readers as well."""
    with pytest.raises(ValueError, match="^" + says.replace("(", r"\(") + "$"):
        day(door, **fields)
    plain = door.plain(day(door))
    plain["body"] |= fields
    assert door.refused(plain).detail.startswith(says)


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ({"version": 5}, "newer", "it is of version 5; this reader knows versions 2 to 4: update the reader"),
        ({"version": 1}, "older", "it is of version 1; this reader knows versions 2 to 4: update the sender"),
        ({"version": True}, "malformed", "it is no envelope"),
        ({"version": None}, "malformed", "it is no envelope"),
        ({"body": [1]}, "malformed", "it is no envelope"),
        ({"more": 1}, "illegal", "Object contains unknown field `more`"),
        ({"id": ""}, "illegal", "Expected `str` of length >= 1 - at `$.id`"),
        ({"sent": math.nan}, "illegal", "Expected `float` >= 0.0 - at `$.sent`"),
        ({"sent": "soon"}, "illegal", "Expected `float`, got `str` - at `$.sent`"),
        ({"body": {"kind": "sing", "door": "a"}}, "illegal", "Invalid value 'sing' - at `$.body.kind`"),
        ({"body": {"door": "a"}}, "illegal", "Object missing required field `kind` - at `$.body`"),
        ({"body": {"kind": "lock_up"}}, "illegal", "Object missing required field `door` - at `$.body`"),
        ({"body": {"kind": "lock_up", "door": "a", "b": 1}}, "illegal", "unknown field `b` - at `$.body`"),
    ],
)  # fmt: skip
def test_a_message_that_cannot_be_read_is_refused_with_its_reason(
    door: Modules, change: dict[str, Any], reason: str, says: str
) -> None:
    """Newer versions, unknown fields, wrong values; by its id where it has one."""
    error = door.refused(door.plain(door.types.LockUp(door="front"), **change))
    assert error.reason == reason
    assert says in error.detail
    assert error.message_id in ("m", "", None)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff\x01",
        b"\xc6\xff\xff\xff\xffabc",
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 200_000,
        b"\x81\xa1a" * 50_000,
        b"\x81\xa7version\xd9\x02\xff\xfe",
        b"\x82\x90\x01\x91\x02\x03",
        b"\x01",
        b"\xc0",
        bytes(range(256)) * 40,
    ],
    ids=lambda payload: f"{payload[:8].hex()}-{len(payload)}",
)
def test_hostile_bytes_are_refused_cheaply(door: Modules, payload: bytes) -> None:
    """Cut, nested, of lengths that nothing has: a typed refusal, whoever asks."""
    assert door.refused(payload).reason == "malformed"
    (found,) = door.wire.decode_each(payload)[:1]
    assert isinstance(found, door.wire.MessageRefused)
    with pytest.raises(door.wire.MessageRefused):
        door.wire.decode_many(payload)


def test_of_many_in_a_payload_only_the_wrong_ones_are_refused(door: Modules) -> None:
    """Each in its place."""
    good = door.plain(door.types.LockUp(door="a"))
    found = door.wire.decode_each(msgspec.msgpack.encode([good, good | {"version": 9}, 7, good]))
    reasons = [getattr(each, "reason", "read") for each in found]
    assert reasons == ["read", "newer", "malformed", "read"]


# ------------------------------------------------------------------------------ old messages


OLD = {"version": 2, "id": "m", "when": 3.0, "colour": "red"}
ADMIT = {"kind": "admit", "guest": {"name": "Ada", "age": None}, "shoes": 2, "loud": True}


def test_an_old_message_is_read_as_a_new_one(door: Modules) -> None:
    """Through every version between: renamed, dropped, added, called otherwise; defaults fill."""
    types = door.types
    found = door.wire.decode(msgspec.msgpack.encode(OLD | {"body": ADMIT}))
    whom = types.Visitor(name="Ada", age=None)
    assert found == door.envelope(
        types.Open(door="front", whom=whom, how="narrow", loud=True), sent=3.0
    )
    third = {"version": 3, "id": "m", "sent": 1.0}
    body = {"kind": "admit", "whom": {"name": "Ada"}}
    found = door.wire.decode(msgspec.msgpack.encode(third | {"body": body}))
    assert found.body == types.Open(door="front", whom=whom, how="narrow")
    found = door.wire.decode(msgspec.msgpack.encode(third | {"body": {"kind": "lock_up"}}))
    assert found.body == types.LockUp(door="front")


@pytest.mark.parametrize(
    ("head", "body", "reason", "says"),
    [
        ({}, {"kind": "sing"}, "ended", "it is of version 2: The door listens to nobody."),
        ({}, ADMIT | {"whom": 1}, "illegal", "as version 2: unknown field `whom` in its version"),
        ({}, ADMIT | {"door": "a"}, "illegal", "as version 2: unknown field `door` in its version"),
        ({}, ADMIT | {"hair": 1}, "illegal", "as version 2: Object contains unknown field `hair`"),
        ({"sent": 1.0}, ADMIT, "illegal", "as version 2: unknown field `sent` in its version"),
        ({}, {"kind": "admit"}, "illegal", "as version 2: Object missing required field `whom`"),
        ({}, ADMIT | {"kind": "open"}, "illegal", "as version 2: "),
        ({"version": 3}, {"kind": "sing"}, "illegal", "as version 3: "),
    ],
)
def test_an_old_message_is_held_to_what_its_version_had(
    door: Modules, head: dict[str, Any], body: dict[str, Any], reason: str, says: str
) -> None:
    """Fields of a newer version in it are unknown; a kind that is gone says what to do."""
    error = door.refused(OLD | head | {"body": body})
    assert error.reason == reason
    assert error.detail.startswith(says)
    assert (error.message_id, error.kind) == ("m", body["kind"])
