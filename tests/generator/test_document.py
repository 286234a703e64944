"""YAML that no spec needs is refused where it stands, and no file can exhaust the reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from kasmina_generator import SpecErrors, read_spec
from tests.generator.specs import DOOR, faults, spoil, write


def refused(path: Path) -> list[str]:
    """Return the messages with which the reader refuses a file."""
    with pytest.raises(SpecErrors) as caught:
        read_spec(path)
    assert str(caught.value) == "\n".join(map(str, caught.value.findings))
    return [str(finding) for finding in caught.value.findings]


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        (
            "dtype: bool, default: false, meaning: The bell rings.}",
            "<<: *field, dtype: bool, default: false, meaning: The bell rings.}",
            [
                "door.yaml:24:11: merge key '<<' is not allowed; write the keys out",
                "door.yaml:24:15: alias '*field' is not allowed; write it out",
            ],
        ),
        (
            "usable: [SHUT, OPEN]",
            "usable: &all [SHUT, *all]",
            [
                "door.yaml:15:11: anchor '&all' is not allowed; drop it",
                "door.yaml:15:23: alias '*all' is not allowed; write it out",
            ],
        ),
        (
            "meaning: A door with a spring.",
            "meaning: !!str A door with a spring.",
            ["door.yaml:4:10: tag 'tag:yaml.org,2002:str' is not allowed; drop it"],
        ),
        (
            "usable: [SHUT, OPEN]",
            "usable: !!python/object/apply:os.system [ls]",
            [
                (
                    "door.yaml:15:11: tag 'tag:yaml.org,2002:python/object/apply:os.system' "
                    "is not allowed; drop it"
                )
            ],
        ),
        (
            "groups:\n",
            "groups:\n  ? [SHUT, OPEN]\n  : [SHUT]\n",
            ["door.yaml:15:5: a key must be a name, not a list or a mapping"],
        ),
        (
            "groups:\n",
            "---\ngroups:\n",
            ["door.yaml:14:1: a second document begins; a spec is one document: drop the '---'"],
        ),
        (
            "groups:\n",
            "groups:\n\tall: [SHUT]\n",
            [
                (
                    "door.yaml:15:1: is not YAML: while scanning for the next token, "
                    "found character '\\t' that cannot start any token"
                )
            ],
        ),
        (
            "meaning: A door with a spring.",
            "meaning: A door: with a spring.",
            ["door.yaml:4:16: is not YAML: mapping values are not allowed here"],
        ),
        (
            "meaning: A door with a spring.",
            'meaning: "\\ud800"',
            ["door.yaml:4:10: spec: meaning: holds a character that cannot be printed: '\\ud800'"],
        ),
        (
            "meaning: A door with a spring.",
            'meaning: "\\U99999999"',
            ["door.yaml:1:1: is not YAML: Python int too large to convert to C int"],
        ),
        (
            "meaning: A door with a spring.",
            "meaning: \x01",
            ["door.yaml:4:10: is not YAML: character U+0001 is not allowed"],
        ),
    ],
)
def test_yaml_that_no_spec_needs(tmp_path: Path, old: str, new: str, messages: list[str]) -> None:
    """Anchors, aliases, merge keys, tags, second documents and broken YAML have a place."""
    said = faults(tmp_path, spoil(DOOR, old, new))
    assert [message for message in said if message in messages] == messages, said


def test_an_alias_bomb_costs_nothing(tmp_path: Path) -> None:
    """Aliases are refused and never expanded."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for n in range(1, 40):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    messages = faults(tmp_path, "\n".join(lines))
    assert "door.yaml:2:10: alias '*a0' is not allowed; write it out" in messages


def test_a_cyclic_anchor_is_refused(tmp_path: Path) -> None:
    """A node that holds itself is an alias like any other."""
    assert faults(tmp_path, "&a [*a]") == [
        "door.yaml:1:1: anchor '&a' is not allowed; drop it",
        "door.yaml:1:1: expected a mapping, found a list of 1",
        "door.yaml:1:5: alias '*a' is not allowed; write it out",
    ]


def test_nesting_is_bounded(tmp_path: Path) -> None:
    """A document that is nested deeper than any spec is given up at once."""
    assert faults(tmp_path, "[" * 100_000) == [
        "door.yaml:1:17: nested more than 16 levels deep; a spec needs 5"
    ]


def test_ten_megabytes_are_refused_before_parsing(tmp_path: Path) -> None:
    """The bound on the size is stated."""
    path = write(tmp_path, "a: b\n" * 2_000_000)
    assert refused(path) == [
        "door.yaml:1:1: is larger than 1048576 bytes, which no spec needs; split the machine"
    ]


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "\n\n"])
def test_an_empty_file(tmp_path: Path, text: str) -> None:
    """Nothing is no spec."""
    assert faults(tmp_path, text) == [
        "door.yaml:1:1: holds no document; `kasmina spec init DIR` writes one to start from"
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [("- a", "a list of 1"), ("just text", "'just text'"), ("--- ''", "the quoted text ''")],
)
def test_a_document_that_is_no_mapping(tmp_path: Path, text: str, found: str) -> None:
    """The outermost node is a mapping."""
    (message,) = faults(tmp_path, text)
    assert message.endswith(f": expected a mapping, found {found}")


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    """The place is that of the byte."""
    path = tmp_path / "door.yaml"
    path.write_bytes("schema: kasmina/lifecycle@1\nname: tür\n".encode("latin-1"))
    assert refused(path) == ["door.yaml:2:8: is not UTF-8: byte 0xfc; save the file as UTF-8"]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    """Some editors write one."""
    path = tmp_path / "door.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + DOOR.encode())
    assert read_spec(path).name == "door"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The message has the path as it was given."""
    path = tmp_path / "nowhere" / "door.yaml"
    assert refused(path) == [f"door.yaml:1:1: '{path}' cannot be read: No such file or directory"]


def test_a_directory(tmp_path: Path) -> None:
    """A directory is no file."""
    assert refused(tmp_path) == [
        f"{tmp_path.name}:1:1: '{tmp_path}' is a directory; give the YAML file in it"
    ]


def test_a_path_that_no_system_takes() -> None:
    """A NUL in a path is the user's fault, not a crash."""
    (message,) = refused(Path("door\0.yaml"))
    assert "cannot be read" in message


@pytest.mark.parametrize(
    ("style", "place"),
    [
        ("guard: wind < gael", "door.yaml:35:53"),
        ('guard: "wind < gael"', "door.yaml:35:54"),
        ("guard: '  wind < gael'", "door.yaml:35:56"),
        ("guard: wind <\n     gael", "door.yaml:36:6"),
        ('guard: "wind <\n\n     gael"', "door.yaml:37:6"),
        ('guard: "wind \\x3c gael"', "door.yaml:35:46"),  # an escape: the guard's own place
    ],
)
def test_columns_inside_a_guard(tmp_path: Path, style: str, place: str) -> None:
    """A fault in a guard is placed at its own column however the guard is quoted."""
    text = spoil(DOOR, "on: close, to: SHUT, guard: timed_out", f"on: close, to: SHUT, {style}")
    (message,) = [m for m in faults(tmp_path, text) if "gael" in m]
    assert message.startswith(f"{place}: ")


def test_columns_inside_a_block(tmp_path: Path) -> None:
    """A guard may stand as a block of lines below its key."""
    text = spoil(DOOR, "calm: wind < gale", "calm: >-\n    wind < 3\n    and wind < gael")
    (message,) = [m for m in faults(tmp_path, text) if "gael" in m]
    assert message.startswith("door.yaml:31:16: guard 'calm': unknown name 'gael'")


def test_a_guard_that_breaks_off(tmp_path: Path) -> None:
    """The end of a guard has a place too."""
    text = spoil(DOOR, "calm: wind < gale", "calm: wind < (gale")
    (message,) = [m for m in faults(tmp_path, text) if "no expression" in m]
    assert message.startswith("door.yaml:29:16: guard 'calm': is no expression at '(gale'")
