"""One process at a time is the run of a name, on a real server and from the shell."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.faults.bus_runs import WITHIN_S, alive, growing, resumed, status
from tests.redis_servers import RedisServer


def test_a_second_run_of_a_name_is_refused_until_the_first_is_dead(
    server: RedisServer, tmp_path: Path
) -> None:
    """It leaves nothing; after kill -9 the first goes on at once, another one when its lease ends."""
    other = tmp_path / "other"
    other.mkdir()
    with growing(server, tmp_path) as first:
        alive(server)
        with growing(server, other) as second:
            assert second.wait(WITHIN_S) == 1
        told = " ".join((other / "grow.txt").read_text().split())
        assert f"run 'digits-3' is on this bus already: process {first.pid} on " in told
        assert f", in {tmp_path / 'run3'}, at epoch " in told
        assert "give this run another --seed" in told
        assert "Traceback" not in told
        assert not (other / "run3").exists()
        status(server)  # the first still obeys
        first.send_signal(signal.SIGKILL)
        first.wait()
    killed = time.time()
    with resumed(server, tmp_path):
        alive(server, after=killed)
        status(server)
    killed = time.time()
    with growing(server, other):
        alive(server, after=killed)
        status(server)
