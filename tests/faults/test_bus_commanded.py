"""One run of two sites, commanded from the shell: each command, each refusal, rollbacks."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
import pytest

from kasmina.bus.client import LARGEST_PAYLOAD
from kasmina.bus.names import streams_of
from kasmina.bus.operator import Operator
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.stamping import Stamp
from kasmina.observe.log import Record, read_log
from kasmina.observe.record import SeedKey
from kasmina_generated.messages import types, wire
from tests.faults.bus_runs import (
    WITHIN_S,
    Shell,
    Told,
    alive,
    answers,
    ask,
    growing,
    kasmina,
    on,
    published,
    sent,
    shell,
    until,
)
from tests.redis_servers import RedisServer

TASK = """
from collections import OrderedDict
from dataclasses import replace
import torch
from torch import nn
from kasmina.growth.task import seeded
from kasmina.sites import Site
from kasmina.tasks import find

def build(seed, width=None):
    with seeded(seed):
        first, second = nn.Linear(64, 4), nn.Linear(4, 4)
        body = nn.Sequential(OrderedDict(first=first, relu=nn.ReLU(), second=second))
        return nn.Sequential(OrderedDict(body=body, relu=nn.ReLU(), head=nn.Linear(4, 10)))

def site(path):
    return Site(path, seeds=12, blueprint=("mlp", "gated"), options={"mlp": {"hidden": 8}})

def slowly(parameters, steps):
    "The host hardly learns, so that there is always something left for seeds."
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

def blocks():
    sites = (site("body.first"), site("body.second"))
    return replace(find("digits"), name="blocks", build_model=build, sites=lambda: sites,
                   optimizer=slowly)
"""
RUN = "blocks-3"
ALL = types.Target()
ON_TRIAL = ("GRAFTING", "STABILIZATION", "EVALUATING", "FINE_TUNING")


class Blocks(NamedTuple):
    """The run, and where it is."""

    server: RedisServer
    folder: Path
    process: subprocess.Popen[bytes]

    def log(self) -> list[Record]:
        """Its events until now."""
        return read_log(self.folder / "run3" / "events.jsonl", ignore_torn=True)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocks]:
    """It grows nothing by itself, and is held between tests, which use seeds of their own."""
    folder = tmp_path_factory.mktemp("blocks")
    (folder / "redis").mkdir()
    (folder / "blockstask.py").write_text(TASK)
    server = RedisServer(folder / "redis", appendonly="yes", appendfsync="everysec").start()
    more = ("--task", "blockstask:blocks", "--controller", "bus", "--set", "training_patience=1")
    try:
        with growing(server, folder, *more, "--budget", "100000") as process:
            alive(server, RUN)
            assert isinstance(ask(server, types.Pause(run=RUN)), types.Applied)
            yield Blocks(server, folder, process)
    finally:
        server.stop()


@pytest.fixture
def tell(blocks: Blocks, capsys: pytest.CaptureFixture[str]) -> Shell:
    """`kasmina ctl` on its server."""

    def run(*arguments: str) -> Told:
        where = ("--bus", blocks.server.url, "--timeout", str(WITHIN_S))
        return shell(["ctl", *arguments, *where], capsys)

    return run


def seeds(told: Told) -> dict[str, dict[str, Any]]:
    """What `status seeds` says, by address."""
    lines = told.out.splitlines()
    return {f"{each['site']}[{each['slot']}]": each for each in json.loads(lines[-1])}


def refused(told: Told) -> str:
    """A refusal, in words; nothing else was said."""
    assert (told.code, told.out) == (1, "")
    return told.err


HOSTILE = {
    "nothing": b"",
    "noise": Random(0).randbytes(4096),
    "a length of 2^32": b"\xdd\xff\xff\xff\xff" + b"\x00" * 64,
    "a text of 2^32": b"\xdb\xff\xff\xff\xff" + b"a" * 64,
    "deep nesting": b"\x91" * 1_000_000,
    "no map": msgspec.msgpack.encode(float("nan")),
    "as large as can be": b"\xc4" * LARGEST_PAYLOAD,
}


def spoiled(**changes: Any) -> tuple[str, bytes]:
    """A cancel with other fields than it may have, and its id."""
    plain = msgspec.msgpack.decode(wire.encode(Stamp("hostile")(types.Cancel(run=RUN, target=ALL))))
    body = {**plain["body"], **changes.pop("body", {})}
    plain = {**plain, "body": body, **changes}
    return plain["id"], msgspec.msgpack.encode(plain)


def test_hostile_bytes_do_nothing(blocks: Blocks, tell: Shell) -> None:
    """Each is refused where somebody can be told; the run is as it was, and obeys as before."""
    before, held = seeds(tell("status", "seeds")), step_of(tell("status"))
    replies = streams_of(RUN).replies

    async def work(client: RedisStreamClient) -> list[types.Refused]:
        after = (await client.info(replies)).last
        await client.publish_many(streams_of(RUN).commands, list(HOSTILE.values()))
        found: list[types.Refused] = []
        async with asyncio.timeout(WITHIN_S):
            while len(found) < len(HOSTILE):
                for each in await client.read(replies, after=after, wait_s=1):
                    after, body = each.id, wire.decode(each.payload).body
                    assert isinstance(body, types.Refused), body
                    found.append(body)
        return found

    assert {each.reason for each in on(blocks.server, work)} == {"malformed"}
    wrong = {
        "version": spoiled(version=types.VERSION + 1),
        "malformed": spoiled(body={"surprise": 1}),
    }
    wrong |= {
        f"malformed {number}": spoiled(body={"expires": value})
        for number, value in enumerate([float("nan"), -1.0, "soon", [[]]])
    }
    for name, (id, payload) in wrong.items():
        (refused,) = sent(blocks.server, RUN, payload, id)
        assert isinstance(refused, types.Refused)
        assert refused.reason == name.partition(" ")[0], (name, refused)
    assert seeds(tell("status", "seeds")) == before
    assert step_of(tell("status")) == held


def test_a_server_that_is_emptied_gets_every_event_again(blocks: Blocks, tell: Shell) -> None:
    """FLUSHALL takes all streams: events come again, and commands are obeyed as before."""
    gone = on(blocks.server, lambda client: published(client, RUN))
    assert gone
    blocks.server.ask("FLUSHALL")
    alive(blocks.server, RUN)
    assert tell("checkpoint").code == 0  # read from a stream that began anew
    assert tell("germinate", "body.first[10]").code == 0
    assert tell("cancel", "body.first[10]").code == 0
    everything(blocks)


def everything(blocks: Blocks) -> str:
    """Wait until every event of the held run is on the bus, maybe twice; returns the last entry."""
    numbers = set(range(len(blocks.log())))

    async def found(client: RedisStreamClient) -> bool:
        return set(await published(client, RUN)) == numbers

    until(blocks.server, found)
    return on(blocks.server, lambda client: client.info(streams_of(RUN).events)).last


def test_wrong_names_list_near_ones(blocks: Blocks, tell: Shell) -> None:
    """Of layers, sites, seeds, blueprints, strategies and limits."""
    assert refused(tell("germinate", "layer:bdy")) == (
        "refused (unknown_site): there is no layer 'bdy'; did you mean 'body'?\n"
    )
    assert refused(tell("cancel", "body.frist[2]")) == (
        "refused (unknown_site): there is no site 'body.frist'; did you mean 'body.first'?\n"
    )
    assert refused(tell("rollback", "body.first[12]")) == (
        "refused (unknown_seed): site 'body.first' has slots 0 to 11, and no slot 12\n"
    )
    assert refused(tell("germinate", "body.first[11]", "--blueprint", "mpl")) == (
        "refused (unknown_name): there is no blueprint of site 'body.first' 'mpl'; did you mean "
        "'mlp'?\n"
    )
    assert refused(tell("strategy", "cosin", "body.first[11]")) == (
        "refused (unknown_name): there is no grafting strategy 'cosin'; did you mean 'cosine'?\n"
    )
    assert refused(tell("limit", "min_stabilty", "0.5")) == (
        "refused (unknown_name): there is no limit 'min_stabilty'; did you mean 'min_stability'?\n"
    )
    assert tell("status", "--run", "block-3").err == (
        "no run 'block-3' was heard of on this bus; did you mean 'blocks-3'?\n"
    )
    assert seeds(tell("status", "seeds", "body.first[11]")).keys() == {"body.first[11]"}
    assert seeds(tell("status", "seeds", "layer:body")).keys() == {
        f"body.{site}[{slot}]" for site in ("first", "second") for slot in range(12)
    }


def test_what_is_illegal_says_what_is_legal(blocks: Blocks, tell: Shell) -> None:
    """The state of the seed and its legal events, in words and as JSON."""
    target = "body.first[11]"
    assert tell("germinate", target).out.endswith(f": {target}#0; 1 of 1 seeds\n")
    assert refused(tell("germinate", target)) == (
        "refused (illegal): request_germination is not legal: the seed is in GERMINATED, which "
        "takes emergency, cancel\n"
    )
    told = tell("germinate", target, "--json")
    plain = json.loads(told.out)
    assert (told.code, plain["kind"], plain["reason"]) == (1, "refused", "illegal")
    assert (plain["state"], plain["legal"]) == ("GERMINATED", ["emergency", "cancel"])
    assert refused(tell("cancel", f"{target}#7")) == (
        f"refused (stale): {target} is in life 0, and the command is for life 7: look at it again\n"
    )
    assert refused(tell("rollback", target)).startswith(
        "refused (no_checkpoint): there is no checkpoint from before its graft to go back to"
    )
    assert tell("cancel", target, "--reason", "not now").code == 0
    assert seeds(tell("status", "seeds", target))[target]["state"] == "CANCELLED"
    (decision,) = [r for r in blocks.log() if r.kind == "command" and r["reason"] == "not now"]
    assert decision["event"] == "cancel"


def test_limits_strategies_and_checkpoints(blocks: Blocks, tell: Shell) -> None:
    """What is taken is told with what was before; what would break a property with its witness."""
    told = tell("limit", "min_stability", "0.8")  # no float32 is 0.8: it is rounded before a proof
    assert (told.code, told.err) == (0, "")
    assert "min_stability was 0.8999999761581421 and is 0.800000011920929" in told.out
    broken = refused(tell("limit", "min_stability", "0"))
    assert broken.startswith("refused (property): 'overrun' from STABILIZATION to ROLLED_BACK")
    assert "\n  witness: DORMANT@0 -> request_germination -> " in broken
    assert refused(tell("limit", "min_stability", "3")) == (
        "refused (out_of_range): limit 'min_stability' cannot be 3.0; legal: float32 from 0.0 to "
        "1.0\n"
    )
    limits = json.loads(tell("status", "limits").out.splitlines()[-1])
    assert limits["min_stability"] == 0.800000011920929

    told = tell("strategy", "cosine", "body.second")
    addresses = " ".join(f"body.second[{slot}]#0" for slot in range(12))
    assert (told.code, told.out.endswith(f": {addresses}\n")) == (0, True), told
    saved = tell("checkpoint", "before lunch")
    assert saved.code == 0
    name = saved.out.split()[-1]
    assert tagged(blocks) == {name: "before lunch"}
    assert name in json.loads(tell("status", "checkpoints").out.splitlines()[-1])
    assert (blocks.folder / "run3" / "checkpoints" / f"{name}.ckpt").exists()

    step = step_of(tell("status"))
    assert tell("status").out.splitlines()[0].endswith(", held")
    assert step_of(tell("status")) == step  # it stands still
    assert ": the run goes on\n" in tell("resume").out
    end = time.monotonic() + WITHIN_S
    while step_of(tell("status")) == step:
        assert time.monotonic() < end
    assert ": the run is held\n" in tell("pause").out


def tagged(blocks: Blocks) -> dict[str, str]:
    """What `kasmina checkpoint list` calls the checkpoints that have a tag."""
    folder = str(blocks.folder / "run3")
    listed = json.loads(subprocess.check_output(kasmina("checkpoint", "list", folder, "--json")))
    return {each["id"]: each["tag"] for each in listed["checkpoints"] if each["tag"]}


def on_trial(blocks: Blocks, slot: int) -> str:
    """Germinate until a seed is held while it is on trial; its address."""

    async def work(client: RedisStreamClient) -> str:
        operator = Operator(client)

        async def answer(command: types.Command) -> Any:
            return await operator.ask(command, timeout_s=WITHIN_S)

        for number in range(slot, slot + 4):  # where this process was too slow, the next one
            target = types.Target(site="body.first", slot=number)
            found = await answer(types.Germinate(run=RUN, target=target, blueprint="mlp"))
            assert isinstance(found, types.Applied), found
            await answer(types.Resume(run=RUN))
            query = types.Query(run=RUN, what="seeds", target=target)
            end, state = time.monotonic() + WITHIN_S, "GERMINATED"
            while state in ("GERMINATED", "TRAINING") and time.monotonic() < end:
                state = json.loads((await answer(query)).detail)[0]["state"]
            await answer(types.Pause(run=RUN))
            state = json.loads((await answer(query)).detail)[0]["state"]
            if state in ON_TRIAL:
                return f"body.first[{number}]"
        raise AssertionError(f"no seed was held on trial: the last was {state}")

    return on(blocks.server, work)


def test_rollbacks(blocks: Blocks, tell: Shell) -> None:
    """Of a seed, a site and a layer; the run goes back, and its commands and events do not."""
    marker, known = everything(blocks), len(blocks.log())
    # ---- a seed, from the shell
    target = on_trial(blocks, 0)
    before = step_of(tell("status"))
    told = tell("rollback", target, "--reason", "looks bad")
    assert (told.code, told.err) == (0, "")
    assert told.out.endswith(f": {target}#0; 1 of 1 seeds\n")
    after = step_of(tell("status"))
    (rewind,) = rewinds(blocks)
    assert (rewind["from_step"], rewind["to_step"]) == (before, after)
    assert after < before
    assert seeds(tell("status", "seeds", target))[target]["state"] == "ROLLED_BACK"
    assert refused(tell("rollback", target)).startswith(
        "refused (illegal): emergency is not legal: the seed is in ROLLED_BACK, which takes nothing"
    )
    # ---- a site, from the shell
    target = on_trial(blocks, 4)
    told = tell("rollback", "body.first")
    assert told.out.endswith(f": {target}#0; 1 of 1 seeds\n")
    assert len(rewinds(blocks)) == 2
    # ---- a layer, between other commands, all of them sent twice
    target = on_trial(blocks, 8)
    stamp = Stamp("somebody")
    sent = [
        stamp(types.SetStrategy(run=RUN, target=types.Target(), strategy="cosine")),
        stamp(types.Rollback(run=RUN, target=types.Target(layer="body"))),
        stamp(types.Germinate(run=RUN, target=types.Target(site="body.second", slot=11))),
        stamp(types.Checkpoint(run=RUN)),
        stamp(types.Resume(run=RUN)),
    ]
    outcomes = on(blocks.server, lambda client: _all_twice(client, sent))
    for envelope, found in zip(sent, outcomes, strict=True):
        kinds = [each for each in found if not isinstance(each, types.Accepted)]
        assert len(kinds) >= 1, envelope
        assert all(each == kinds[0] for each in kinds)  # the copy is told the same
        assert isinstance(kinds[0], types.Applied), found
    assert len(rewinds(blocks)) == 3
    begun = Counter(
        r.address for r in blocks.log() if r.kind == "transition" and r["to"] == "GERMINATED"
    )
    assert begun[SeedKey("body.second", 11, 0)] == 1  # after the rewind, which goes first
    # ---- every event is on the bus, once, and no other
    assert tell("pause").code == 0
    assert refused(tell("germinate", "body.first")) == (
        "refused (guard): site 'body.first' was rewound 3 times, so nothing germinates there any "
        "more\n"
    )
    everything(blocks)
    numbers = on(blocks.server, lambda client: published(client, RUN, marker))
    assert numbers == list(range(known, len(blocks.log())))


def rewinds(blocks: Blocks) -> list[Record]:
    """The run's, until now."""
    return [record for record in blocks.log() if record.kind == "rewind"]


def step_of(told: Told) -> int:
    """Where a held run is."""
    return int(told.out.splitlines()[0].split("step ")[1].split(",")[0])


async def _all_twice(
    client: RedisStreamClient, sent: list[types.Envelope]
) -> list[list[types.Acknowledgement]]:
    payloads = [wire.encode(each) for each in sent]
    await client.publish_many(streams_of(RUN).commands, [*payloads, *payloads])
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = [await answers(client, RUN, each.id) for each in sent]
            if all(len(each) >= 3 for each in found) and all(map(_is_done, found)):
                return found
            await asyncio.sleep(0.05)


def _is_done(found: list[types.Acknowledgement]) -> bool:
    return any(not isinstance(each, types.Accepted) for each in found)
