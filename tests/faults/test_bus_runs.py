"""Runs on a real bus: commanded, killed, resumed; a controller in another process, killed as well."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

from kasmina.bus.names import streams_of
from kasmina.bus.operator import Operator
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.observe.log import read_log
from kasmina_generated.messages import types, wire
from tests.faults.bus_runs import (
    RUN,
    SEED,
    WITHIN_S,
    alive,
    ask,
    growing,
    hold,
    kasmina,
    let_go,
    on,
    process,
    resumed,
    status,
    until,
    waits,
)
from tests.helpers import ROOT
from tests.redis_servers import RedisServer


def test_applied_commands_survive_a_kill(server: RedisServer, tmp_path: Path) -> None:
    """What was acknowledged as applied is so after kill -9 and resume; copies are not done again."""
    with growing(server, tmp_path) as run:
        alive(server)
        assert isinstance(
            ask(server, types.SetLimit(run=RUN, name="max_training", value=7)), types.Applied
        )
        saved = ask(server, types.Checkpoint(run=RUN))
        assert isinstance(saved, types.Applied)
        assert saved.detail.startswith("checkpoint ")
        # after the checkpoint: in no checkpoint at all
        limit = ask(server, types.SetLimit(run=RUN, name="hopeless_epochs", value=11))
        assert isinstance(limit, types.Applied)
        paused = ask(server, types.Pause(run=RUN))
        assert isinstance(paused, types.Applied)
        step = status(server).step
        assert status(server).paused
        assert status(server).step == step  # it is held
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    killed = time.time()
    with resumed(server, tmp_path):
        alive(server, after=killed)
        until(server, lambda client: _held(client))
        limits = json.loads(status(server, "limits").detail)
        assert limits["max_training"] == 7  # from the checkpoint
        end = time.monotonic() + WITHIN_S  # read again from the stream, and proved again
        while json.loads(status(server, "limits").detail)["hopeless_epochs"] != 11:
            assert time.monotonic() < end
        assert isinstance(ask(server, types.Resume(run=RUN)), types.Applied)
        until(server, lambda client: _is_beyond(client, step))
    told = (tmp_path / "grow.txt").read_text()
    assert "goes on at" in told
    records = [
        r
        for r in read_log(tmp_path / "run3" / "events.jsonl", ignore_torn=True)
        if r.kind == "limit"
    ]
    assert [r.fields["name"] for r in records] == ["max_training", "hopeless_epochs"]


async def _held(client: RedisStreamClient) -> bool:
    found = (await Operator(client).runs())[RUN]
    return found.beat.paused and not found.silent


async def _is_beyond(client: RedisStreamClient, step: int) -> bool:
    return (await Operator(client).runs())[RUN].beat.step > step


def test_refusals_are_typed(server: RedisServer, tmp_path: Path) -> None:
    """Each wrong command is answered with its reason and what helps; the run is untouched by it."""
    with growing(server, tmp_path, "--checkpoint-every", "0", "--controller", "bus"):
        alive(server)
        ask(server, types.Pause(run=RUN))
        step = status(server).step

        def refused(command: types.Command) -> types.Refused:
            found = ask(server, command)
            assert isinstance(found, types.Refused), found
            return found

        site = refused(types.Cancel(run=RUN, target=types.Target(site="body")))
        assert (site.reason, site.detail) == (
            "unknown_site",
            "there is no site 'body'; there are '.'",
        )
        seed = refused(types.Cancel(run=RUN, target=types.Target(site=".", slot=99)))
        last = status(server).sites[0].seeds - 1
        assert (seed.reason, seed.near) == ("unknown_seed", (f".[{last}]",))
        kind = refused(types.Germinate(run=RUN, target=SEED, blueprint="mlp_rlu"))
        assert kind.reason == "unknown_name"
        assert "mlp_rlu" in kind.detail
        back = refused(types.Rollback(run=RUN, target=SEED))
        assert (back.reason, back.state) == ("no_checkpoint", "DORMANT")
        none = refused(types.Checkpoint(run=RUN))
        assert none.reason == "no_checkpoint"
        assert "--checkpoint-every" in none.detail
        limit = refused(types.SetLimit(run=RUN, name="min_stabilty", value=0.5))
        assert (limit.reason, limit.near[0]) == ("unknown_name", "min_stability")
        value = refused(types.SetLimit(run=RUN, name="min_stability", value=3))
        assert value.reason == "out_of_range"
        assert "from 0.0 to 1.0" in value.detail
        broken = refused(types.SetLimit(run=RUN, name="min_stability", value=0))
        assert broken.reason == "property"
        assert broken.detail.startswith("'overrun' from STABILIZATION to ROLLED_BACK can never")
        assert broken.witness[:2] == ("DORMANT@0", "request_germination")
        assert isinstance(ask(server, types.Germinate(run=RUN, target=SEED)), types.Applied)
        twice = refused(types.Germinate(run=RUN, target=SEED))
        assert (twice.reason, twice.state) == ("illegal", "GERMINATED")
        assert twice.legal == ("emergency", "cancel")
        stale = refused(types.Cancel(run=RUN, target=types.Target(site=".", slot=0, generation=5)))
        assert stale.reason == "stale"
        assert isinstance(ask(server, types.Cancel(run=RUN, target=SEED)), types.Applied)
        assert status(server).step == step
        assert status(server).sites[0].states[0] == types.StateCount(state="CANCELLED", seeds=1)


def test_a_controller_elsewhere_survives_and_is_survived(
    server: RedisServer, tmp_path: Path
) -> None:
    """Two runs, one `kasmina tamiyo`: killed, started again, it goes on; no wave germinates twice."""
    more = ("--controller", "bus", "--epochs", "150")  # a wave begins after a share of them
    with growing(server, tmp_path, *more), growing(server, tmp_path, *more, seed=4):
        for run in (RUN, "digits-4"):
            hold(server, run)
        with process(tmp_path, "tamiyo", "--bus", server.url) as tamiyo:
            waits(tmp_path, 1)
            for run in (RUN, "digits-4"):
                let_go(server, run)
            for run in (RUN, "digits-4"):
                until(server, partial(_answered, run=run))
            tamiyo.send_signal(signal.SIGKILL)
            tamiyo.wait()
        before = on(server, _observed)
        until(server, lambda client: _more(client, before))  # the run goes on alone
        with process(tmp_path, "tamiyo", "--verbose", "--bus", server.url):
            decided = len((tmp_path / "tamiyo.txt").read_text().splitlines())
            end = time.monotonic() + WITHIN_S
            while len((tmp_path / "tamiyo.txt").read_text().splitlines()) < decided + 2:
                assert time.monotonic() < end
                time.sleep(0.05)
    for run in (RUN, "digits-4"):
        germinated = on(server, partial(_germinated, run=run))
        assert len(germinated) == len(set(germinated)) > 0


async def _answered(client: RedisStreamClient, *, run: str) -> bool:
    return len(await _germinated(client, run=run)) > 0


async def _observed(client: RedisStreamClient) -> str:
    return (await client.info(streams_of(RUN).observed)).last


async def _more(client: RedisStreamClient, before: str) -> bool:
    return len(await client.read(streams_of(RUN).observed, after=before)) >= 2


async def _germinated(client: RedisStreamClient, *, run: str) -> list[tuple[str, int, int]]:
    """Every life of a seed that an answer says was begun."""
    found = [
        wire.decode(each.payload).body
        for each in await client.read(streams_of(run).replies, count=5000)
    ]
    return [
        (seed.site, seed.slot, seed.generation)
        for body in found
        if isinstance(body, types.Applied)
        for seed in body.seeds
    ]


def test_the_bus_may_go_and_come_back(server: RedisServer, tmp_path: Path) -> None:
    """Training goes on while the server is dead, and no event is missing afterwards."""
    with growing(server, tmp_path) as run:
        alive(server)
        step = status(server).step
        server.kill()
        log = tmp_path / "run3" / "events.jsonl"
        size = log.stat().st_size
        end = time.monotonic() + WITHIN_S
        while log.stat().st_size < size + 2000:
            assert time.monotonic() < end, "the run has stopped with its bus"
            assert run.poll() is None
            time.sleep(0.05)
        server.start()
        assert isinstance(ask(server, types.Pause(run=RUN)), types.Applied)
        assert status(server).step > step
        events = len(read_log(log, ignore_torn=True))
        until(server, lambda client: _has(client, events))


async def _has(client: RedisStreamClient, events: int) -> bool:
    found, after = set(), "0"
    while page := await client.read(streams_of(RUN).events, after=after):
        after = page[-1].id
        found |= {wire.decode(each.payload).sequence for each in page}
    return found >= set(range(events))


def test_the_command_line(server: RedisServer, tmp_path: Path) -> None:
    """`ctl` and `bus` as docs/bus.md shows them."""
    with growing(server, tmp_path, "--controller", "bus"):
        alive(server)

        def tell(*arguments: str, code: int = 0) -> str:
            done = subprocess.run(
                kasmina(*arguments, "--bus", server.url),
                cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S, check=False,
            )  # fmt: skip
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout + done.stderr

        assert "the run is held" in tell("ctl", "pause")
        assert tell("ctl", "germinate", ".[1]").endswith(".[1]#0; 1 of 1 seeds\n")
        refused = tell("ctl", "germinate", ".[1]", code=1)
        assert refused.startswith("refused (illegal): request_germination is not legal")
        assert "no run 'digits-33' was heard of" in tell(
            "ctl", "status", "--run", "digits-33", code=1
        )
        shown = tell("ctl", "status")
        assert "1 GERMINATED" in shown
        assert "digits-3: heard" in tell("bus", "lag")
        assert '"kind": "applied"' in tell("bus", "tail", "replies", "--count", "20")
        assert "append-only file: yes" in tell("bus", "doctor")
