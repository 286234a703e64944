"""What `kasmina bus` does without a server of its own: ends of streams, plain texts, figures."""

from __future__ import annotations

import asyncio
import json
import math
import re
from urllib.request import urlopen

import pytest

from kasmina.bus.client import FIRST
from kasmina.bus.errors import BusUnavailable
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.mock import MockMessageBusClient
from kasmina.bus.monitor import MessageBusMonitor
from kasmina.bus.stamping import Stamp
from kasmina.cli import main
from kasmina.cli.bus import PAGE, _last, _line
from kasmina.cli.monitoring import _asked_at, _Looking
from kasmina.cli.saying import harmless, line
from kasmina.errors import UsageError
from kasmina_generated.messages import types, wire

NOBODY = ("--bus", "redis://127.0.0.1:1")
S = "stream"


def test_the_end_of_a_stream_is_read_from_its_end() -> None:
    """Page by page, of whatever length it is, and not beyond the id that was given."""

    async def script() -> None:
        bus = MockMessageBusClient()
        ids = await bus.publish_many(S, [b"%d" % number for number in range(3 * PAGE)])

        async def last(after: str, count: int) -> list[str]:
            before = len(bus.calls)
            found = [each.id for each in await _last(bus, S, after, count)]
            calls = bus.calls[before:]
            assert {call.method for call in calls} == {"read_back"}
            assert len(calls) <= 1 + count // PAGE
            return found

        assert await last(FIRST, 20) == ids[-20:]
        assert await last(FIRST, PAGE + 7) == ids[-PAGE - 7 :]
        assert await last(ids[-6], 20) == ids[-5:]
        assert await last(ids[-1], 20) == []
        assert [each.id for each in await _last(bus, S, FIRST, 10 * PAGE)] == ids

    asyncio.run(script())


def test_nothing_that_comes_from_a_bus_moves_the_cursor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever is printed: what a terminal would obey stands there as an escape."""
    hostile = "a\x1b[2J\x07\x9b1m\u202eb\u200b\udcff ü 漢"
    assert harmless(f"{hostile}\n\t{hostile}") == "\n\t".join(
        ["a\\x1b[2J\\x07\\x9b1m\\u202eb\\u200b\\udcff ü 漢"] * 2
    )
    assert line("one\nof two\r\tlines") == "one\\nof two\\r\\tlines"
    assert main(["ctl", "pause", "--run", "\x1b]0;mine\x07", "--timeout", "nan", *NOBODY]) == 2
    assert main(["ctl", "cancel", "\x1b]0;[", *NOBODY]) == 2
    err = capsys.readouterr().err
    assert "'\\x1b]0;[' is no target" in err
    assert "\x1b" not in err


def test_messages_are_lines_of_json() -> None:
    """Numbers that JSON does not have are texts; a line of a log that is no JSON stays one."""
    seed = types.Address(site="0", slot=1, generation=0)
    nan = math.nan
    evidence = types.GateEvidence(
        run="r", epoch=0, step=0, seed=seed, measure="gain", value=nan, low=nan, high=1.5
    )
    shown = [
        json.loads(_line("1-0", wire.encode(Stamp("r")(body))), parse_constant=pytest.fail)["body"]
        for body in (evidence, logged('{"a": [1, NaN]}'), logged("{no"), logged("[" * 100_000))
    ]
    assert [shown[0][name] for name in ("value", "high")] == ["nan", 1.5]
    assert [each["line"] for each in shown[1:]] == [{"a": [1, "nan"]}, "{no", "[" * 100_000]


def logged(text: str) -> types.Logged:
    """An event of a log."""
    return types.Logged(run="r", epoch=0, step=0, event="e", line=text)


def test_what_cannot_be_looked_at_is_not_known() -> None:
    """And is told as such, until the bus is there again."""

    async def script() -> None:
        bus = MockMessageBusClient()
        looking = _Looking(bus, [S])
        monitor = MessageBusMonitor(bus, looking.groups)
        await bus.create_group(S, "group")
        seen = []
        for fails in (False, True, False):
            if fails:
                bus.fail("read_back", BusUnavailable("cut"))
            await looking.look(monitor)
            last = await monitor.sample()
            seen.append((last.values["runs alive"], len(last.groups)))
        assert seen[0] == seen[2] == (0.0, 1)
        assert math.isnan(seen[1][0])
        assert seen[1][1] == 0

    asyncio.run(script())


@pytest.mark.parametrize("listen", ["", "x", "1.2.3.4:", "host:99999", "9100:", "-1"])
def test_an_address_that_is_none_is_wrong_usage(
    listen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says how to write one."""
    assert main(["bus", "monitor", f"--listen={listen}", *NOBODY]) == 2
    told = capsys.readouterr().err
    assert told == f"--listen is {listen!r}; write PORT or HOST:PORT, e.g. 9100\n"


def test_prometheus_may_ask_meanwhile(capsys: pytest.CaptureFixture[str]) -> None:
    """At a port that is told; one that is taken is told too."""
    monitor = MessageBusMonitor(InProcessBus())
    with _asked_at(("127.0.0.1", 0), monitor):
        told = re.fullmatch(
            r"Prometheus may ask at (http://\S+:(\d+)/metrics)\n", capsys.readouterr().err
        )
        assert told
        asyncio.run(monitor.sample())
        with urlopen(told[1]) as answer:
            assert "kasmina_bus_up 1.0" in answer.read().decode().splitlines()
        port = int(told[2])
        taken = pytest.raises(UsageError, match=f"nobody can listen at 127.0.0.1:{port}: ")
        with taken, _asked_at(("127.0.0.1", port), monitor):
            pass
    with _asked_at(None, monitor):
        pass
