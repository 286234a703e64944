"""Commands and events for code without an event loop, and the example of docs/bus.md."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kasmina.bus.errors import BusClosed
from kasmina.bus.frames import HealthFrame
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.names import HEARTBEATS, streams_of
from kasmina.bus.operator_thread import OperatorThread
from kasmina.bus.stamping import Stamp
from kasmina.bus.telemetry import TelemetryPublisher
from kasmina_generated.messages import types, wire
from tests.helpers import ROOT, run_python

RUN = "run"
STAMP = Stamp(RUN)
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "bus.md").read_text(), re.DOTALL)


@pytest.fixture
def bus() -> Iterator[InProcessBus]:
    """A bus on which nobody else is."""
    yield InProcessBus()


def send(bus: InProcessBus, stream: str, *bodies: types.Body) -> None:
    """Publish messages."""
    payloads = [wire.encode(STAMP(body)) for body in bodies]
    asyncio.run(bus.publish_many(stream, payloads))


def logged(number: int) -> types.Logged:
    """An event."""
    return types.Logged(run=RUN, log=number, epoch=0, step=0, event="limit", line="{}")


def test_the_example_of_the_documents_runs(tmp_path: Path) -> None:
    """As it stands, in a fresh process: it germinates, and sees its events and its health."""
    done = run_python("import torch\ntorch.manual_seed(0)\n" + EXAMPLES[0], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == "(Address(site='0', slot=1, generation=0),)"
    assert any(line.endswith(" Transition") for line in rest)
    assert any(line.startswith("0 ") and line.endswith("[0. 0. 0.]") for line in rest)


def test_the_consumer_of_the_documents_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """A copy is done once, what came late is in its place, and what nobody can do is put aside."""
    code = compile(EXAMPLES[1], "docs/bus.md", "exec")
    exec(code, {"__name__": "example"})  # noqa: S102  what users are told to write
    assert capsys.readouterr().out.splitlines() == [
        *("called for a", "called for b", "called for d"),
        "2 RuntimeError: nobody answers",
    ]


def test_events_are_read_once_and_what_cannot_be_read_is_counted(bus: InProcessBus) -> None:
    """Of a claim-check whose bytes are gone, too."""
    stream = streams_of(RUN).events
    with OperatorThread(bus.peer()) as operator:
        assert operator.events(RUN) == []
        send(bus, stream, logged(0), logged(1))
        asyncio.run(bus.publish(stream, b"nonsense"))
        send(bus, stream, types.ClaimCheck(
            place="chunks", name="none", chunks=1, size=1, digest=bytes(32), expires=2e9,
        ))  # fmt: skip
        assert [each.body for each in operator.events(RUN)] == [logged(0), logged(1)]
        assert operator.unreadable == 2
        send(bus, stream, logged(2))
        assert [each.body for each in operator.events(RUN, wait_s=20)] == [logged(2)]
        assert operator.events(RUN, wait_s=0.01) == []
        asyncio.run(bus.wipe())
        bus.broker.clock = lambda: 1.0  # of a server whose clock went back
        send(bus, stream, logged(3))
        assert operator.events(RUN) == []  # it is found out that the stream begins anew
        assert [each.body for each in operator.events(RUN)] == [logged(3)]


def test_health_is_read_from_where_it_was_left(bus: InProcessBus) -> None:
    """Deltas count from frames of earlier calls; a batch without its keyframe is passed over."""
    stream = streams_of(RUN).health

    async def publish(publisher: TelemetryPublisher, *steps: int) -> None:
        for step in steps:
            columns = {"alpha": np.full(3, step, np.float32)}
            publisher.offer(HealthFrame(RUN, ".", 0, step, columns))
        await publisher.flush()

    publisher = TelemetryPublisher(bus, stream, STAMP)
    with OperatorThread(bus.peer()) as operator:
        asyncio.run(publish(publisher, 1, 2))
        assert [each.step for each in operator.health(RUN)] == [1, 2]
        asyncio.run(publish(publisher, 3))
        (frame,) = operator.health(RUN)
        assert frame.columns["alpha"].tolist() == [3.0] * 3
        with OperatorThread(bus.peer()) as late:
            asyncio.run(bus.remove(stream, [asyncio.run(bus.info(stream)).first or ""]))
            assert late.health(RUN) == []
            assert late.unreadable == 1


def test_who_is_alive_is_told(bus: InProcessBus) -> None:
    """By signs of life."""
    send(bus, HEARTBEATS, types.Heartbeat(
        run=RUN, epoch=1, step=2, every=1.0, paused=False, waiting=0,
    ))  # fmt: skip
    with OperatorThread(bus.peer()) as operator:
        assert list(operator.runs()) == [RUN]


def test_closing_ends_what_still_waits(bus: InProcessBus) -> None:
    """An answer that never comes is cancelled; closing twice is fine, asking afterwards is not."""
    operator = OperatorThread(bus.peer())
    asked = operator.ask(types.Pause(run=RUN), timeout_s=1000)
    operator.close()
    operator.close()
    assert asked.cancelled()
    with pytest.raises(BusClosed, match="this operator was closed"):
        operator.events(RUN)
    with pytest.raises(BusClosed, match="this client"):
        asyncio.run(operator._client.info("x"))
