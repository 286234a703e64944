"""The event log: whole lines, exact numbers, a strict reader."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kasmina.lifecycle.address import Address
from kasmina.observe.log import (
    EventLog,
    LogError,
    Position,
    SeedKey,
    TornLine,
    canonical,
    read_log,
    read_until,
)
from kasmina.observe.record import ENVELOPE, KINDS

LINE = (
    '{"v":1,"run":"r","seq":0,"kind":"limit","epoch":0,"step":0,"name":"x","value":1,"clock":{}}\n'
)


def limit(log: EventLog, value: object = 1.0) -> None:
    """Append the shortest legal event."""
    log.append("limit", epoch=0, step=0, name="x", value=value)


def written(path: Path, **change: object) -> Path:
    """A log of one event with some of its parts changed."""
    path.write_text(json.dumps({**json.loads(LINE), **change}) + "\n")
    return path


def message(path: Path) -> str:
    """What the reader says, without the file's folder."""
    with pytest.raises(LogError) as caught:
        read_log(path)
    return str(caught.value).removeprefix(f"{path.parent}/")


def test_a_line_has_its_parts_in_order(tmp_path: Path) -> None:
    """Version, envelope, address, the kind's fields, clock."""
    with EventLog(tmp_path / "events.jsonl", "r", clock=lambda: 7.5) as log:
        log.append(
            "released",
            epoch=3,
            step=57,
            address=Address("r", "features", 2, 1),
            blueprint="mlp",
            row=5,
            parameters=40,
            clock={"wall_s": 0.25},
        )
    assert (tmp_path / "events.jsonl").read_text() == (
        '{"v":1,"run":"r","seq":0,"kind":"released","epoch":3,"step":57,"address":{"site":'
        '"features","slot":2,"generation":1},"blueprint":"mlp","row":5,"parameters":40,'
        '"clock":{"time":7.5,"wall_s":0.25}}\n'
    )


def test_what_is_read_equals_what_was_appended(tmp_path: Path) -> None:
    """Reading gives the records that `append` returned."""
    with EventLog(tmp_path / "log", "r") as log:
        first = log.append("snapshot", epoch=0, step=0, number=1)
        seed = SeedKey("a.b", 0, 0)
        second = log.append(
            "refused", epoch=1, step=9, address=seed, event="promote", state="A", reason="no room"
        )
    assert read_log(tmp_path / "log") == [first, second]
    assert second.address == seed
    assert str(second.address) == "a.b[0]#0"
    assert second["reason"] == "no room"
    assert second.get("absent", 5) == 5


@pytest.mark.parametrize(
    "value",
    [0.1, 1e-45, 3.4028235e38, -0.0, 1.1754944e-38, 16777217.0, math.nan, math.inf, -math.inf],
)
def test_a_float32_survives_to_the_bit(tmp_path: Path, value: float) -> None:
    """Also as a tensor or array, also NaN and the infinities, which are strings in the file."""
    exact = np.float32(value)
    with EventLog(tmp_path / "log", "r") as log:
        for form in (exact, torch.tensor(exact), np.array([exact]), torch.tensor([exact])):
            limit(log, form)
    for record in read_log(tmp_path / "log"):
        read = record["value"][0] if isinstance(record["value"], list) else record["value"]
        assert np.float32(float(read)).tobytes() == exact.tobytes()
    assert not re.search("NaN|Infinity|null", (tmp_path / "log").read_text())


def test_containers_become_plain(tmp_path: Path) -> None:
    """Mappings, sequences, sets, integers and truths of any library."""
    value = {1: (np.int64(2), True, None), "x": {"b", "a"}, "y": [np.bool_(False), "nan"]}
    with EventLog(tmp_path / "log", "r") as log:
        limit(log, value)
    (record,) = read_log(tmp_path / "log")
    assert record["value"] == {"1": [2, True, None], "x": ["a", "b"], "y": [False, "nan"]}


def test_subscribers_see_each_event(tmp_path: Path) -> None:
    """Each is called once an event, after it is in the file."""
    seen: list[tuple[int, int]] = []
    with EventLog(tmp_path / "log", "r") as log:
        log.subscribe(lambda record: seen.append((record.seq, len(read_log(tmp_path / "log")))))
        limit(log)
        limit(log)
    assert seen == [(0, 1), (1, 2)]


def test_canonical_lines_hold_no_clock(tmp_path: Path) -> None:
    """Two equal runs at different times have equal canonical lines, whatever the key order."""
    lines = []
    for time in (1.0, 2.0):
        path = tmp_path / str(time)
        with EventLog(path, "r", clock=lambda time=time: time) as log:  # type: ignore[misc]
            limit(log)
        lines.append(path.read_text())
    turned = json.dumps(dict(reversed(json.loads(lines[0]).items())))
    assert lines[0] != lines[1]
    assert canonical(lines[0]) == canonical(lines[1].encode()) == canonical(turned)
    assert canonical(lines[0]) == (
        '{"epoch":0,"kind":"limit","name":"x","run":"r","seq":0,"step":0,"v":1,"value":1.0}'
    )


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (
            "transitoin",
            {},
            f"unknown kind 'transitoin'; legal are {', '.join(KINDS)}; did you mean 'transition'?",
        ),
        ("limit", {"name": "x"}, "a 'limit' event lacks 'value'"),
        (
            "limit",
            {"name": "x", "value": 1, "v": 2},
            "field 'v' has the name of a part of every event",
        ),
        (
            "released",
            {"blueprint": "mlp", "row": 1, "parameters": 1},
            "a 'released' event has an address",
        ),
    ],
)
def test_an_illegal_event_is_not_written(
    tmp_path: Path, kind: str, fields: dict[str, Any], expected: str
) -> None:
    """The message names the event and what it lacks; the file stays as it was."""
    with EventLog(tmp_path / "log", "r") as log:
        limit(log)
        with pytest.raises(LogError) as caught:
            log.append(kind, epoch=0, step=0, **fields)
        assert str(caught.value) == f"{tmp_path}/log: event 1: {expected}"
        limit(log)
    assert [record.seq for record in read_log(tmp_path / "log")] == [0, 1]


def test_a_value_that_json_has_not_is_refused(tmp_path: Path) -> None:
    """The message names the field down to the element."""
    with EventLog(tmp_path / "log", "r") as log, pytest.raises(LogError) as caught:
        limit(log, {"rows": [1, object()]})
    assert str(caught.value) == (
        "field limit.value.rows[1] is a object; a log holds numbers, strings, None, sequences and "
        "mappings"
    )


def test_a_negative_counter_is_refused(tmp_path: Path) -> None:
    """Epoch and step count from 0."""
    with EventLog(tmp_path / "log", "r") as log, pytest.raises(LogError) as caught:
        log.append("snapshot", epoch=-1, step=0, number=1)
    assert str(caught.value).endswith("seq, epoch and step are integers from 0 on")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (
            "{}\n",
            (
                "log:1: schema version None; this kasmina reads version 1: read the log with the "
                "release that wrote it"
            ),
        ),
        (
            LINE.replace('"v":1', '"v":2'),
            (
                "log:1: schema version 2; this kasmina reads version 1: "
                "read the log with the release that wrote it"
            ),
        ),
        (
            LINE + LINE,
            ("log:2: seq is 0, but 1 comes next: lines are missing, doubled or out of order"),
        ),
        (
            LINE + LINE.replace('"seq":0', '"seq":1').replace('"r"', '"s"'),
            "log:2: run 's' in the log of run 'r'",
        ),
        (
            LINE.replace('"epoch":0', '"epoch":0,"epoch":1'),
            "log:1: not a line of a log: key 'epoch' stands twice",
        ),
        (
            LINE.replace('"value":1', '"value":NaN'),
            'log:1: not a line of a log: bare NaN; the log writes "nan"',
        ),
        ("[]\n", "log:1: not a line of a log: it is no JSON object"),
        ("[" * 100_000 + "\n", "log:1: not a line of a log: it is nested too deeply"),
        (
            "{\n",
            (
                "log:1: not a line of a log: Expecting property name enclosed in double quotes: "
                "line 1 column 2 (char 1)"
            ),
        ),
        (LINE.replace('"seq":0,', ""), "log:1: the event lacks 'seq'"),
        (LINE.replace(',"clock":{}', ""), "log:1: the event lacks 'clock'"),
        (LINE.replace('"clock":{}', '"clock":3'), "log:1: event 0: clock is 3; it is an object"),
        (
            LINE.replace('"epoch":0', '"epoch":true'),
            "log:1: event 0: seq, epoch and step are integers from 0 on",
        ),
        (
            LINE.replace('"run":"r"', '"run":"a/b"'),
            "log:1: event 0: run is 'a/b'; a run has a name without a slash",
        ),
    ],
)
def test_the_reader_is_strict(tmp_path: Path, text: str, expected: str) -> None:
    """Each fault is told with file and line; an empty file is an empty log."""
    path = tmp_path / "log"
    path.write_text(text)
    if expected:
        assert message(path) == expected
    else:
        assert read_log(path) == []


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (
            {"site": "a", "slot": 1},
            ("log:1: an address is {site, slot, generation}, not {'site': 'a', 'slot': 1}"),
        ),
        (
            {"site": "a", "slot": -1, "generation": 0},
            (
                "log:1: event 0: address SeedKey(site='a', "
                "slot=-1, generation=0): site is a string, slot and generation count from 0"
            ),
        ),
    ],
)
def test_an_address_is_read_strictly(tmp_path: Path, address: object, expected: str) -> None:
    """Three parts, counted from 0."""
    assert message(written(tmp_path / "log", address=address)) == expected


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """The system's own words, after the path."""
    assert message(tmp_path / "log") == "log: the log cannot be read: No such file or directory"


def test_a_torn_line_is_told_and_can_be_left_out(tmp_path: Path) -> None:
    """Even a whole object without its line end does not count."""
    path = tmp_path / "log"
    second = LINE.replace('"seq":0', '"seq":1')
    for torn in (second[:17], second[:-1]):
        path.write_text(LINE + torn)
        with pytest.raises(TornLine) as caught:
            read_log(path)
        assert str(caught.value) == (
            f"{path}:2: the last line is torn after {len(torn)} bytes: its writer was killed; the "
            "1 events before it are whole, read them with ignore_torn=True"
        )
        assert len(read_log(path, ignore_torn=True)) == 1


def test_a_log_is_continued(tmp_path: Path) -> None:
    """The sequence goes on and a torn line is cut off."""
    path = tmp_path / "log"
    path.write_text(LINE + "{half")
    with EventLog(path, "r") as log:
        limit(log)
    assert [record.seq for record in read_log(path)] == [0, 1]


def test_the_log_of_another_run_is_not_continued(tmp_path: Path) -> None:
    """Nor is it changed."""
    path = tmp_path / "log"
    path.write_text(LINE)
    with pytest.raises(LogError) as caught:
        EventLog(path, "other")
    assert str(caught.value) == (
        f"{path}: this is the log of run 'r', not of 'other': choose another folder"
    )
    assert path.read_text() == LINE


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Opening says which file it was."""
    with pytest.raises(LogError) as caught:
        EventLog(tmp_path / "no" / "log", "r")
    assert str(caught.value) == (
        f"{tmp_path}/no/log: the log cannot be opened: No such file or directory"
    )


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    """Closing twice is fine, appending after it is not."""
    log = EventLog(tmp_path / "log", "r")
    log.close()
    log.close()
    with pytest.raises(LogError) as caught:
        limit(log)
    assert str(caught.value) == f"{tmp_path}/log: the log is closed, so event 0 is not written"


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """A write that stops in the middle is taken back; with room again the log goes on."""
    path = tmp_path / "log"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with EventLog(path, "r") as log:
        limit(log)
        whole = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, before[1]))
        try:
            with pytest.raises(LogError) as caught:
                limit(log)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert str(caught.value) == (
            f"{path}: event 1 cannot be written: File too large; the log ends whole with the event "
            "before it: make room and run again"
        )
        assert path.read_bytes() == whole
        limit(log)
    assert [record.seq for record in read_log(path)] == [0, 1]


def test_a_killed_writer_leaves_a_readable_log(tmp_path: Path) -> None:
    """After SIGKILL in the middle of writing, all but a torn last line is read."""
    path = tmp_path / "log"
    code = (
        "from kasmina.observe.log import EventLog\n"
        f"log = EventLog({str(path)!r}, 'r')\n"
        "while True: log.append('limit', epoch=0, step=0, name='x' * 5000, value=1.0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        while not path.exists() or path.stat().st_size < 200_000:
            assert writer.poll() is None
        writer.kill()
    records = read_log(path, ignore_torn=True)
    assert len(records) > 30
    assert records[-1].seq == len(records) - 1


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    """Lines of several threads never mix and are numbered without a gap."""
    with EventLog(tmp_path / "log", "r") as log:

        def write() -> None:
            for _ in range(100):
                limit(log)

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_log(tmp_path / "log")) == 400


def test_the_log_needs_no_torch() -> None:
    """A log can be read where torch is not installed."""
    code = "import sys, kasmina.observe.log; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_field_has_the_name_of_a_part() -> None:
    """The kinds' fields and the parts of every event share one object."""
    parts = {"v", *ENVELOPE, "address", "clock"}
    assert not parts & {name for fields in KINDS.values() for name in fields}


def test_the_file_is_read_by_all_and_written_by_its_owner(tmp_path: Path) -> None:
    """The mode is that of an ordinary file."""
    umask = os.umask(0o022)
    os.umask(umask)
    EventLog(tmp_path / "log", "r").close()
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o644 & ~umask


def test_a_log_is_cut_back_by_the_first_event_after_it(tmp_path: Path) -> None:
    """Until then it is as it was, and its place is the one that was given."""
    path = tmp_path / "log"
    with EventLog(path, "r") as log:
        limit(log)
        place = log.sync()
        limit(log)
    whole = path.read_bytes()
    with EventLog(path, "r", at=place) as log:
        assert log.sync() == place == Position(path.read_bytes().index(b"\n") + 1, 1)
        assert path.read_bytes() == whole
        limit(log)
    assert [record.seq for record in read_log(path)] == [0, 1]
    assert read_until(path, place) == read_log(path)[:1]


def test_a_place_that_is_none_of_the_log_is_told(tmp_path: Path) -> None:
    """Behind its end, in the middle of an event, with another count; a closed log has none."""
    path = tmp_path / "log"
    with EventLog(path, "r") as log:
        limit(log)
    with pytest.raises(LogError, match="the log is closed"):
        log.sync()
    size = path.stat().st_size
    for bytes_, events, whole, upto in [
        (size + 9, 1, 1, size),
        (size - 1, 1, 0, size - 1),
        (size, 2, 1, size),
    ]:
        with pytest.raises(LogError) as caught:
            read_until(path, Position(bytes_, events))
        assert str(caught.value) == (
            f"{path}: {events} events should end at byte {bytes_}; the log has {whole} whole ones "
            f"up to byte {upto}"
        )
    assert read_until(path, Position(0, 0)) == []
