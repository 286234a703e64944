"""The end of a run whose server stands still, or whose line is dead: it waits once, not by turns."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from kasmina.bus.connecting import open_bus
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.growth.outside import Outside, OutsideConfig
from tests.faults.proxies import Proxy
from tests.redis_servers import redis_server
from tests.runtime.growth.gardens import Bed


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_leaves_a_server_that_stands_still_in_time(finished: bool) -> None:
    """Sending, trimming, the last sign of life and both clients have one deadline together."""
    with redis_server() as server:
        bed, few = Bed(), OutsideConfig(drain_s=0.5, telemetry_s=0.01)
        outside = Outside("test", partial(open_bus, server.url), config=few)
        before = set(threading.enumerate())
        outside.start(bed.gardener, fresh=True)
        serving = set(threading.enumerate()) - before
        assert {each.name for each in serving} >= {"kasmina-bus"}
        outside.after_step()
        server.hold()
        outside.after_step()
        outside.close(finished=finished)  # gives up by itself 5 s after the deadline
        assert not [each for each in serving if each.name == "kasmina-bus" and each.is_alive()]
        assert outside.fault is None


def test_a_client_is_closed_in_the_time_that_it_is_given() -> None:
    """Over a line that passes nothing, with a call under way that would take ten minutes."""

    async def work(port: int) -> None:
        async with Proxy(port) as proxy:
            client = RedisStreamClient(proxy.url, timeout_s=600, watch_s=0)
            await client.publish("s", b"x")
            proxy.hold()
            late = asyncio.create_task(client.publish("s", b"y"))
            while not proxy.faults:
                await asyncio.sleep(0.01)
            await client.close(within_s=0.1)
            with pytest.raises(Exception, match="was closed; open another one"):
                await late

    with redis_server() as server:
        asyncio.run(asyncio.wait_for(work(server.port), 60))
