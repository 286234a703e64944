"""Retention never deletes what must stay, whatever was saved, damaged and archived."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from kasmina.checkpoint import CheckpointManager, Retention
from kasmina.checkpoint.manifest import Priority
from kasmina.checkpoint.names import CheckpointId
from kasmina.checkpoint.retention import Held
from tests.faults.disks import contents, number_in

PRIORITY: st.SearchStrategy[Priority] = st.sampled_from(("normal", "high"))
COUNT = st.integers(0, 4)


@given(
    st.lists(st.tuples(PRIORITY, st.booleans()), min_size=1, max_size=12), COUNT, COUNT, st.data()
)
def test_the_plan_keeps_what_it_must(
    rows: list[tuple[Priority, bool]], normal: int, high: int, data: st.DataObject
) -> None:
    """The newest of each priority, archives, the last good one and all that is newer."""
    held = [
        Held(CheckpointId(len(rows) - place, "00000000"), priority, archived, 1)
        for place, (priority, archived) in enumerate(rows)
    ]
    good = data.draw(st.sampled_from(held)).id
    doomed = Retention(normal, high).doomed(held, good)
    kept = [each for each in held if each not in doomed]
    assert all(each.id < good and not each.archived for each in doomed)
    for priority, room in (("normal", normal), ("high", high)):
        plain = [each for each in held if each.priority == priority and not each.archived]
        assert set(plain[:room]) <= set(kept)
        assert {each for each in plain[room:] if each.id < good} <= set(doomed)


@given(
    st.lists(
        st.tuples(PRIORITY, st.sampled_from(["intact", "damaged", "tensors damaged", "archived"])),
        min_size=1, max_size=6,
    ),
    COUNT, COUNT,
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_pruned_directory_still_has_its_latest(
    rows: list[tuple[Priority, str]], normal: int, high: int
) -> None:
    """On a real directory: the same latest before and after, damaged files untouched."""
    folder = Path(tempfile.mkdtemp())
    try:
        manager = CheckpointManager(folder)
        damaged, newest, archives = set(), 0, set()
        intact: dict[str, list[Path]] = {"normal": [], "high": []}
        for number, (priority, fate) in enumerate(rows, 1):
            id_ = manager.save(contents(number), priority=priority)
            path = folder / f"{id_}.ckpt"
            if fate in ("damaged", "tensors damaged"):
                whole = path.read_bytes()
                rest = bytes(80) if fate == "damaged" else b"?" + whole[-72:]
                path.write_bytes(whole[: -len(rest)] + rest)
                damaged.add(path)
                continue
            newest = number
            if fate == "archived":
                manager.archive(id_)
                archives.add(path)
            else:
                intact[priority].append(path)
        before = set(folder.iterdir())
        done = manager.prune(Retention(normal, high))
        after = set(folder.iterdir())
        assert damaged | archives <= after
        assert {*intact["normal"][::-1][:normal], *intact["high"][::-1][:high]} <= after
        assert {folder / f"{id_}.ckpt" for id_ in done.deleted} == before - after
        if newest:
            assert number_in(manager.restore().contents()) == newest
        else:
            assert before == after
    finally:
        shutil.rmtree(folder)
