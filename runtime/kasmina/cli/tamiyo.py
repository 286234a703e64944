"""`kasmina tamiyo`: decide for runs on a bus, in a process of its own."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kasmina.bus.errors import BusError, BusRejected
from kasmina.bus.names import HEARTBEATS, is_run_name
from kasmina.bus.retry import Backoff
from kasmina.cli.reaching import HERE, Reach, through, verifier, waits
from kasmina.cli.saying import say, warn
from kasmina.cli.words import Flag
from kasmina.errors import UsageError

if TYPE_CHECKING:
    from kasmina.bus.client import MessageBusClient
    from kasmina.control.remote import Steering
    from kasmina.growth.controller import Proposal

_FIGURES = re.compile(r"\d[\d.]*")


def tamiyo(
    *,
    run: Annotated[Sequence[str], Parameter(negative=())] = (),
    key: Path | None = None,
    verbose: Flag = False,
    reach: Reach = HERE,
) -> int:
    """Decide for runs that were started with --controller bus.

    Each run has a controller of its own, whose state is kept on the bus: who starts again goes on
    where it ended. Decisions are told that command something, or nothing for another reason than
    before. Ctrl-C ends in order.

    Args:
        run: only this run; may be given again. All that are alive if not given.
        key: file with the key of the runs: commands are signed with it, and nothing is decided on
            what it does not prove.
        verbose: tell every decision.
        reach: where the bus is.
    """
    from kasmina.control.remote import Steering
    from kasmina.control.tamiyo import TamiyoController

    for name in run:
        if not is_run_name(name):
            raise UsageError(
                f"{name!r} can be no run: give a name of 1 to 256 printable characters"
            )
    keys = verifier(key)

    async def work(client: MessageBusClient) -> int:
        steering = Steering(
            client,
            TamiyoController,
            runs=set(run) or None,
            verify=keys,
            tell=Telling(verbose),
            warn=warn,
        )
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, steering.stop)
        await client.info(HEARTBEATS)  # a bus that cannot be used is told at once
        say("waiting for what runs observe")
        await _through_outages(steering)
        return 0

    return through(reach.bus, work)


class Telling:
    """Tells decisions of controllers.

    Args:
        all: also those that command nothing, for the same reason but for its figures.
    """

    def __init__(self, all: bool) -> None:
        self._all = all
        self._last: dict[str, str] = {}  # reason, by run

    def __call__(self, run: str, epoch: int, proposal: Proposal) -> None:
        """Tell one, if it is worth it."""
        reason = _FIGURES.sub("", proposal.reason)
        if self._all or proposal.commands or self._last.get(run) != reason:
            say(f"{run}, epoch {epoch}: {len(proposal.commands)} commands; {proposal.reason}")
        self._last[run] = reason


async def _through_outages(steering: Steering) -> None:
    """Decide until it is stopped; a bus that is away is waited for, once it was there."""
    from random import Random

    backoff, rng, tries = Backoff(base_s=0.2), Random(), 0
    while True:
        before = steering.rounds
        try:
            return await steering.run()
        except BusError as error:
            passing = error.transient or isinstance(error, BusRejected)
            if not passing or not steering.connected:
                raise
            tries = 1 if steering.rounds > before else tries + 1
            if tries == 1:
                waits(error)
            await asyncio.sleep(backoff.wait(min(tries, 16), rng))
