"""What Prometheus is told of a run's bus."""

from __future__ import annotations

import asyncio
import re
import time
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kasmina.bus.in_process import InProcessBus
from kasmina.bus.names import streams_of
from kasmina.bus.stamping import Stamp
from kasmina.growth import metrics
from kasmina.growth.metrics import PortIsTaken
from kasmina.growth.outside import Outside, OutsideConfig
from kasmina_generated.messages import types, wire
from tests.runtime.growth.gardens import Bed


def asked(port: int) -> dict[tuple[str, ...], float]:
    """What is told, by name and labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_tells_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it serves; counts and latencies, and never by seed or site."""
    monkeypatch.setattr(metrics, "EVERY_S", 0.05)
    bus, bed = InProcessBus(), Bed()
    with Outside("test", bus.peer, config=OutsideConfig(metrics=0)) as outside:
        outside.start(bed.gardener, fresh=True)
        port = outside.metrics_port
        assert port is not None
        with pytest.raises(PortIsTaken, match=f"nobody can listen at 127.0.0.1:{port}: Address al"):
            Outside("other", bus.peer, config=OutsideConfig(metrics=port))
        query = wire.encode(Stamp("somebody")(types.Query(run="test")))
        asyncio.run(bus.publish(streams_of("test").commands, query))
        end = time.monotonic() + 60
        while not (found := asked(port)).get(("kasmina_bus_total", "commands applied")):
            assert time.monotonic() < end, found
            outside.after_step()
            time.sleep(0.01)
        assert found["kasmina_bus_up",] == 1
        assert found["kasmina_bus_total", "commands accepted"] == 1
        assert found["kasmina_bus_total", "frames dropped"] == 0
        assert ("kasmina_bus_value", "commands waiting") in found
        assert found["kasmina_bus_latency_seconds_count", "applied"] == 1
        assert not [name for name in found if re.search(r"\[\d|seed|site", " ".join(name))]
    assert outside.metrics_port is None
    with pytest.raises(URLError):
        asked(port)


def test_a_run_that_is_not_asked_listens_nowhere() -> None:
    """The default."""
    assert Outside("test", InProcessBus().peer).metrics_port is None
