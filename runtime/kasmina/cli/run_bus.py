"""The bus of `kasmina grow`: what the command line says of it, and what a run keeps of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from kasmina.bus.connecting import open_bus
from kasmina.bus.urls import hidden, without_password
from kasmina.cli.reaching import verifier
from kasmina.cli.words import Flag, WholeOrNone
from kasmina.errors import UsageError
from kasmina.observe.folder import PUBLISHED

if TYPE_CHECKING:
    from kasmina.bus.packing import Precision
    from kasmina.bus.signing import Verifier
    from kasmina.growth import GrowConfig
    from kasmina.growth.outside import Outside
    from kasmina.growth.outside_config import OutsideConfig
    from kasmina.observe.log import EventLog

KEPT: dict[str, Any] = {  # of a run's options, and what they are where none was given
    "controller": "tamiyo",
    "bus": None,
    "bus_password": False,  # there was one, and it is kept nowhere
    "bus_key": None,
    "telemetry": "lossless",
    "metrics": None,
}
PORTS = range(1 << 16)


@Parameter(name="*")
@dataclass(frozen=True)
class BusOptions:
    """How a run is reached from outside. A run that is resumed keeps what is not given again.

    Attributes:
        bus: server on which the run tells how it is and takes commands, as redis://HOST:PORT; one
            in the process if not given.
        no_bus: leave the server that the run was started with, or that KASMINA_BUS names.
        bus_key: file of keys (`kasmina bus key FILE`): take commands only from who knows one.
        no_bus_key: leave the key that the run was started with: take commands from everybody.
        controller: who decides: tamiyo in the process, or bus for who listens there, as
            `kasmina tamiyo` does.
        telemetry: what health may lose on its way: lossless, float16, or quantised:BOUND, as
            quantised:1e-3 for an error of at most 0.001.
        metrics: port of this machine (127.0.0.1) on which Prometheus finds how the run's bus does;
            0 takes a free one and tells it.
    """

    bus: Annotated[str | None, Parameter(env_var="KASMINA_BUS")] = None
    no_bus: Flag = False
    bus_key: Path | None = None
    no_bus_key: Flag = False
    controller: Literal["tamiyo", "bus"] | None = None
    telemetry: str | None = None
    metrics: WholeOrNone = None

    def settled(self, kept: Mapping[str, Any] = KEPT) -> RunBus:
        """The bus of a run.

        Args:
            kept: what a run that is resumed has kept.

        Raises:
            UsageError: options that do not fit together, or that are no values.
            BadBusUrl: the URL names no bus.
            BadKeyFile: no keys can be read from the file.
        """
        if self.bus_key is not None and self.no_bus_key:
            raise UsageError("--bus-key and --no-bus-key say two things: leave one out")
        url = None if self.no_bus else _url(self.bus, kept)
        controller = self.controller or kept["controller"]
        if url is None and self.bus_key is not None:
            raise UsageError("--bus-key is for commands that come over a server: give --bus URL")
        if url is None and controller == "bus":
            raise UsageError(
                "--controller bus leaves all decisions to who listens on a server: give --bus URL, "
                "e.g. redis://localhost:6379, and start `kasmina tamiyo` there"
            )
        key = None if self.no_bus_key else self.bus_key or kept["bus_key"]
        keys = None if url is None else verifier(None if key is None else Path(key))
        metrics = kept["metrics"] if self.metrics is None else self.metrics
        if metrics is not None and metrics not in PORTS:
            raise UsageError(f"--metrics is {metrics}; a port is from 0 to {PORTS[-1]}")
        telemetry = self.telemetry or kept["telemetry"]
        precision(telemetry)
        return RunBus(url, None if key is None else Path(key), keys, controller, telemetry, metrics)


HERE = BusOptions()


def _url(given: str | None, kept: Mapping[str, Any]) -> str | None:
    """Raise for a URL that names no bus before anything is made."""
    url: str | None = kept["bus"] if given is None else given
    if given is None and kept["bus_password"]:
        raise UsageError(
            f"the run was on {url}, by a password, which is kept nowhere: give --bus with it "
            "again, or set KASMINA_BUS; or leave the server by --no-bus"
        )
    if url is not None:
        open_bus(url)
    return url


def precision(text: str) -> Precision:
    """What `--telemetry` says.

    Raises:
        UsageError: nothing that is legal.
    """
    from kasmina.bus.packing import EXACT, Precision
    from kasmina.bus.retry import BadSetting

    kind, _, bound = text.partition(":")
    try:
        if text == "lossless":
            return EXACT
        if text == "float16":
            return Precision("float16")
        if kind in ("quantised", "quantized"):
            return Precision("bounded", float(bound))
    except (BadSetting, ValueError):
        pass
    raise UsageError(
        f"--telemetry {text}: legal are lossless, float16, and quantised:BOUND with a bound of more "
        "than 0, as quantised:1e-3"
    )


@dataclass(frozen=True, slots=True)
class RunBus:
    """The bus of one run; `url` is None for one in the process, `key` the file of its keys."""

    url: str | None
    key: Path | None
    verify: Verifier | None
    controller: str
    telemetry: str
    metrics: int | None

    def kept(self) -> dict[str, Any]:
        """What the run keeps, for when it is resumed."""
        url, had = (None, False) if self.url is None else without_password(self.url)
        key = None if self.key is None else str(self.key.resolve())
        return {
            "controller": self.controller,
            "bus": url,
            "bus_password": had,
            "bus_key": key,
            "telemetry": self.telemetry,
            "metrics": self.metrics,
        }

    def outside(self, run: str, log: EventLog, config: GrowConfig) -> Outside:
        """The run on it; in the process it keeps less, as it takes the run's own memory."""
        from kasmina.bus.in_process import InProcessBus
        from kasmina.growth.outside import Outside

        if self.url is None:
            return Outside(run, InProcessBus().peer, log=log, config=self._config())
        from kasmina.cli.limits import prover

        assert config.lifecycle is not None
        return Outside(
            run,
            partial(open_bus, self.url),
            log=log,
            cursor=log.path.with_name(PUBLISHED),
            verify=self.verify,
            prove=prover(config.lifecycle.digest),
            config=self._config(),
        )

    def told(self, run: str, metrics: int | None) -> list[str]:
        """What the user is told once the run is there.

        Args:
            run: its name.
            metrics: the port at which they are; None where there are none.
        """
        lines = []
        if self.url is not None:
            lines.append(f"on {hidden(self.url)} as {run}: `kasmina ctl status` there tells of it")
        if metrics is not None:
            lines.append(f"Prometheus may ask at http://127.0.0.1:{metrics}/metrics")
        return lines

    def _config(self) -> OutsideConfig:
        from kasmina.bus.telemetry import TelemetryConfig
        from kasmina.growth.outside_config import OutsideConfig

        loss = precision(self.telemetry)
        if self.url is None:
            telemetry = TelemetryConfig(keep=16, key_every=8, precision=loss)
            return OutsideConfig(telemetry=telemetry, events_keep=256, metrics=self.metrics)
        telemetry = TelemetryConfig(keep=600, precision=loss)
        return OutsideConfig(telemetry=telemetry, metrics=self.metrics)
