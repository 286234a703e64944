"""How the bus does: for Prometheus, as JSON lines, and in the log of the process.

Nothing here is labelled by seed: 10,000 series would take 52 ms a scrape (measured), and a seed's
health travels as telemetry. Labels are names of streams, groups and latencies, and of these only so
many.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

import msgspec
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kasmina.bus.client import Loss, MessageBusClient
from kasmina.bus.errors import BusError
from kasmina.bus.names import HEARTBEATS
from kasmina.bus.retry import BadSetting

logger = logging.getLogger(__name__)

BUCKETS_S = (
    *(0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
OTHER = "other"  # the label of what would be one series too many


@dataclass(frozen=True, slots=True)
class GroupSample:
    """Where a group stood; -1 where the server cannot say."""

    stream: str
    group: str
    length: int
    lag: int
    pending: int
    consumers: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the bus. `rates` are per second since the look before."""

    time: float
    up: bool
    groups: tuple[GroupSample, ...] = ()
    counters: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)


class MessageBusMonitor:
    """Looks at the bus and at what uses it.

    Args:
        client: the bus.
        groups: (stream, group) pairs to look at.
        series: values of one label; what comes after them is counted together as "other".
        registry: where the metrics are registered; None makes one of its own.
        clock: seconds since 1970.

    Raises:
        BadSetting: there is no room for a series.
    """

    def __init__(
        self,
        client: MessageBusClient,
        groups: Sequence[tuple[str, str]] = (),
        *,
        series: int = 64,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if series < 1:
            raise BadSetting("MessageBusMonitor", "series", series, "1 or more")
        self.registry = registry or CollectorRegistry()
        self.last = Sample(clock(), up=False)
        self._client, self._groups, self._clock, self._series = client, groups, clock, series
        self._lock = Lock()
        self._names: set[str] = set()
        self._values: dict[str, Callable[[], float]] = {}
        self._counters: dict[str, Callable[[], float]] = {}
        self._histogram = Histogram(
            "kasmina_bus_latency_seconds",
            "Time from one thing to another, by name.",
            ["what"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.registry.register(_Collector(self))
        client.on_loss(self._lost)

    def observe(self, what: str, seconds: float) -> None:
        """Count a latency; from any thread."""
        self._histogram.labels(self._label(what)).observe(seconds)

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Look at a value that goes up and down, such as what waits."""
        self._values[self._label(name)] = read

    def count(self, name: str, read: Callable[[], float]) -> None:
        """Look at a number that only grows, such as what was dropped; its rate is told as well."""
        self._counters[self._label(name)] = read

    async def sample(self) -> Sample:
        """Look now. A bus that cannot be reached is told as such, with all that is known here."""
        groups: list[GroupSample] = []
        try:
            await self._client.info(HEARTBEATS)  # somebody answers
            for stream, group in self._groups[: self._series]:
                groups.append(await self._group(stream, group))
            up = True
        except BusError:
            up = False
        now, before = self._clock(), self.last
        own = {name: read() for name, read in self._counters.items()}
        counters = {**{self._label(n): float(v) for n, v in self._client.counters.items()}, **own}
        passed = now - before.time
        rates = {
            name: max(0.0, value - before.counters.get(name, 0.0)) / passed if passed > 0 else 0.0
            for name, value in counters.items()
        }
        values = {name: float(read()) for name, read in self._values.items()}
        self.last = Sample(now, up, tuple(groups), counters, rates, values)
        return self.last

    async def run(self, every_s: float, *tell: Callable[[MessageBusMonitor], object]) -> None:
        """Look, and tell, until it is cancelled: `monitor.run(10, MessageBusMonitor.log)`."""
        while True:
            await self.sample()
            for each in tell:
                each(self)
            await asyncio.sleep(every_s)

    def text(self) -> str:
        """The last sample and all latencies in the format of Prometheus."""
        return generate_latest(self.registry).decode()

    def json_line(self) -> bytes:
        """The last sample and all latencies as one line of JSON, with its end."""
        plain = {**msgspec.to_builtins(self.last), "latencies": self._latencies()}
        return msgspec.json.encode(plain) + b"\n"

    def log(self) -> None:
        """Write the last sample to the log of the process, in one line."""
        logger.info("%s", self.line())

    def line(self) -> str:
        """The last sample in words."""
        last = self.last
        groups = ", ".join(
            f"{g.stream}/{g.group} lag {g.lag} pending {g.pending}" for g in last.groups
        )
        rates = ", ".join(f"{name} {rate:.3g}/s" for name, rate in last.rates.items() if rate)
        state = "up" if last.up else "not reachable"
        values = ", ".join(f"{n} {v:.6g}" for n, v in last.values.items() if not math.isnan(v))
        parts = [f"bus {state}", groups or "no groups", rates or "idle", *filter(None, [values])]
        return "; ".join(parts)

    async def _group(self, stream: str, group: str) -> GroupSample:
        info = await self._client.info(stream)
        found = info.groups.get(group)
        if found is None:
            return GroupSample(stream, group, info.length, info.length, 0, 0)
        lag = -1 if found.lag is None else found.lag
        return GroupSample(stream, group, info.length, lag, found.pending, found.consumers)

    def _latencies(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for metric in self._histogram.collect():
            for each in metric.samples:
                part = each.name.removeprefix("kasmina_bus_latency_seconds_")
                part = f"le {each.labels['le']}" if part == "bucket" else part
                if part != "created":
                    found.setdefault(each.labels["what"], {})[part] = each.value
        return found

    def _label(self, name: str) -> str:
        with self._lock:
            if name in self._names or len(self._names) < self._series:
                self._names.add(name)
                return name
        return OTHER

    def _lost(self, loss: Loss) -> None:
        logger.warning("the bus has lost something (%s): %s", loss.kind, loss.detail)


class _Collector(Collector):
    """Gives the last sample to Prometheus."""

    def __init__(self, monitor: MessageBusMonitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        last = self._monitor.last
        yield GaugeMetricFamily("kasmina_bus_up", "Whether the bus answered.", float(last.up))
        for what, help_ in (
            ("length", "Entries that a stream holds."),
            ("lag", "Entries that a group was not given yet; -1: the server cannot say."),
            ("pending", "Entries that a group was given and has not acknowledged."),
            ("consumers", "Consumers of a group."),
        ):
            family = GaugeMetricFamily(f"kasmina_bus_{what}", help_, labels=["stream", "group"])
            for group in last.groups:
                family.add_metric([group.stream, group.group], getattr(group, what))
            yield family
        counted = CounterMetricFamily("kasmina_bus", "What happened, by name.", labels=["what"])
        rates = GaugeMetricFamily("kasmina_bus_rate", "What happens a second.", labels=["what"])
        values = GaugeMetricFamily("kasmina_bus_value", "What there is, by name.", labels=["what"])
        for name, value in last.counters.items():
            counted.add_metric([name], value)
        for gauge, found in ((rates, last.rates), (values, last.values)):
            for name, value in found.items():
                gauge.add_metric([name], value)
        yield from (counted, rates, values)
