"""YAML text as a tree of nodes that know their line and column.

Built from ruamel.yaml's events and not from its composer, so that nothing is guessed: a scalar
stays the text that was written (`on` is never a boolean), and what a spec has no use for (anchors,
aliases, merge keys, tags, several documents) is refused where it stands. Nothing is ever expanded
or constructed, so no document costs more than its size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from kasmina_generator.finding import Log
from kasmina_generator.model import Place

MOST_BYTES = 1 << 20  # the default spec has 13 kB; parsing takes about 3 s a MB
MOST_NESTING = 16


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf as written; `plain` where it stands without quotes and is no block."""

    text: str
    plain: bool
    place: Place
    source: str = field(default="", repr=False, compare=False)  # the whole file
    start: int = field(default=0, repr=False, compare=False)  # of the text in it, quotes aside

    def at(self, offset: int) -> Place:
        """Return the place of a character of the stripped text, wherever folding has put it.

        Where the text was written with escapes, that is the place of the scalar.
        """
        text = self.text.strip()
        index = self.start - 1
        for character in text[: offset + 1]:
            if character.isspace():
                continue
            index = _skip_space(self.source, index + 1)
            if self.source[index : index + 1] != character:
                return self.place
        index += max(0, offset + 1 - len(text))
        line = self.place.line + self.source.count("\n", self.start, index)
        return Place(self.place.file, line, index - self.source.rfind("\n", 0, index))


def _skip_space(text: str, index: int) -> int:
    while text[index : index + 1].isspace():
        index += 1
    return index


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping with unique keys, in the order of the file."""

    entries: tuple[tuple[Scalar, Node], ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Unusable:
    """Stands where something was refused already; readers pass over it in silence."""

    place: Place


Node = Scalar | Sequence | Mapping | Unusable


def load_document(path: Path, log: Log) -> Node:
    """Read the one YAML document in `path`; faults go to `log`, the worst give an `Unusable`."""
    start = Place(path.name, 1, 1)
    text = _read_text(path, start, log)
    return Unusable(start) if text is None else parse_document(text, path.name, log)


def parse_document(text: str, name: str, log: Log) -> Node:
    """Read the one YAML document in `text`, which messages call `name`; see `load_document`."""
    start = Place(name, 1, 1)
    try:
        root = _Builder(name, text, log).build()
    except MarkedYAMLError as error:
        log.add(_place_of(error, name), f"is not YAML: {_cause(error)}")
    except _TooDeep as error:
        log.add(error.place, f"nested more than {MOST_NESTING} levels deep; a spec needs 5")
    except ReaderError as error:
        what = f"is not YAML: character U+{ord(text[error.position]):04X} is not allowed"
        log.add(_place_in(text, error.position, name), what)
    except (YAMLError, ValueError, OverflowError) as error:
        log.add(start, f"is not YAML: {' '.join(str(error).split())}")
    else:
        if root is None:
            log.add(start, "holds no document; `kasmina spec init DIR` writes one to start from")
        else:
            return root
    return Unusable(start)


def _read_text(path: Path, start: Place, log: Log) -> str | None:
    try:
        if path.is_dir():
            log.add(start, f"'{path}' is a directory; give the YAML file in it")
            return None
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        log.add(start, f"'{path}' cannot be read: {reason}")
        return None
    if len(data) > MOST_BYTES:
        log.add(start, f"is larger than {MOST_BYTES} bytes, which no spec needs; split the machine")
        return None
    return _decode(data, start, log)


def _decode(data: bytes, start: Place, log: Log) -> str | None:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", "replace")
        place = _place_in(before, len(before), start.file)
        log.add(place, f"is not UTF-8: byte 0x{data[error.start]:02x}; save the file as UTF-8")
        return None


def _place_of(error: MarkedYAMLError, file: str) -> Place:
    mark = error.problem_mark or error.context_mark
    return Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)


def _place_in(text: str, index: int, file: str) -> Place:
    return Place(file, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _cause(error: MarkedYAMLError) -> str:
    parts = (error.context, error.problem)
    return ", ".join(" ".join(str(part).split()) for part in parts if part)


class _TooDeep(Exception):
    def __init__(self, place: Place) -> None:
        self.place = place


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet; a mapping's children alternate key, value."""

    place: Place
    refused: bool
    children: list[Node] = field(default_factory=list)


class _Builder:
    """Turns the events of one text into nodes, without recursion."""

    def __init__(self, file: str, text: str, log: Log) -> None:
        self._file = file
        self._text = text
        self._log = log
        self._open: list[_Open] = []
        self._root: Node | None = None

    def build(self) -> Node | None:
        """Return the root node, None for an empty text."""
        documents = 0
        for event in self._events():
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    what = "a second document begins; a spec is one document: drop the '---'"
                    self._log.add(self._place(event.start_mark), what)
                    break
            self._take(event)
        return self._root

    def _events(self) -> Iterator[Event]:
        yaml = YAML(typ="safe", pure=True)
        yield from yaml.parse(self._text)

    def _take(self, event: Event) -> None:
        match event:
            case AliasEvent():
                place = self._place(event.start_mark)
                self._log.add(place, f"alias '*{event.anchor}' is not allowed; write it out")
                self._attach(Unusable(place))
            case ScalarEvent():
                self._attach(self._scalar(event))
            case MappingStartEvent() | SequenceStartEvent():
                place = self._place(event.start_mark)
                if len(self._open) >= MOST_NESTING:
                    raise _TooDeep(place)
                self._open.append(_Open(place, self._refused(event, place)))
            case SequenceEndEvent():
                done = self._open.pop()
                self._attach(self._close(done, Sequence(tuple(done.children), done.place)))
            case MappingEndEvent():
                done = self._open.pop()
                self._attach(self._close(done, self._mapping(done)))
            case _:
                pass

    def _attach(self, node: Node) -> None:
        if self._open:
            self._open[-1].children.append(node)
        else:
            self._root = node

    def _close(self, done: _Open, node: Node) -> Node:
        return Unusable(done.place) if done.refused else node

    def _scalar(self, event: ScalarEvent) -> Node:
        place = self._place(event.start_mark)
        if self._refused(event, place):
            return Unusable(place)
        start = event.start_mark.index
        if event.style in ("|", ">"):
            start = self._text.index("\n", start)  # the text begins in the line below
        elif event.style:
            start += 1
        return Scalar(event.value, not event.style, place, self._text, start)

    def _refused(self, event: NodeEvent, place: Place) -> bool:
        tag = getattr(event, "tag", None)
        if event.anchor is not None:
            self._log.add(place, f"anchor '&{event.anchor}' is not allowed; drop it")
        if tag is not None:
            self._log.add(place, f"tag '{tag}' is not allowed; drop it")
        return tag is not None

    def _mapping(self, done: _Open) -> Mapping:
        entries: dict[str, tuple[Scalar, Node]] = {}
        for key, value in zip(done.children[0::2], done.children[1::2], strict=True):
            if isinstance(key, Scalar):
                self._enter(entries, key, value)
            elif not isinstance(key, Unusable):
                self._log.add(key.place, "a key must be a name, not a list or a mapping")
        return Mapping(tuple(entries.values()), done.place)

    def _enter(self, entries: dict[str, tuple[Scalar, Node]], key: Scalar, value: Node) -> None:
        if key.plain and key.text == "<<":
            self._log.add(key.place, "merge key '<<' is not allowed; write the keys out")
        elif key.text in entries:
            first = entries[key.text][0].place
            what = f"duplicate key {key.text!r}; the first stands in line {first.line}"
            self._log.add(key.place, what)
        else:
            entries[key.text] = (key, value)

    def _place(self, mark: StringMark) -> Place:
        return Place(self._file, mark.line + 1, mark.column + 1)


def describe(node: Node) -> str:
    """Say in words what a node is, for `expected ..., found ...`."""
    match node:
        case Scalar(text="", plain=True):
            return "nothing"
        case Scalar(text=text, plain=plain):
            shown = repr(text if len(text) <= 60 else text[:57] + "...")
            return shown if plain else f"the quoted text {shown}"
        case Sequence(items=items):
            return f"a list of {len(items)}"
        case _:
            return "a mapping"
