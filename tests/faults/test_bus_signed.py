"""A run with `--bus-key`: who knows the key is obeyed, nobody else."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from msgspec import structs

from kasmina.bus import operator
from kasmina.bus.operator import enveloped
from kasmina.bus.signing import Signer, make_key_file, read_keys
from kasmina.bus.stamping import Stamp
from kasmina.growth.outside import SKEW_S
from kasmina_generated.messages import types, wire
from tests.faults.bus_runs import (
    RUN,
    WITHIN_S,
    Shell,
    alive,
    answers,
    ask,
    growing,
    on,
    resumed,
    sent,
)
from tests.redis_servers import RedisServer

PAUSE = types.Pause(run=RUN)


def old_stamp(name: str) -> Stamp:
    """Of a clock that is 1,000 seconds late."""
    return Stamp(name, clock=lambda: time.time() - 1000)


def old_command(command: types.Command, id: str) -> types.Envelope:
    """What such a clock makes of a command."""
    return structs.replace(enveloped(command, id), time=time.time() - 1000)


def has_caught_up(server: RedisServer, sign: Signer) -> bool:
    """Whether a run that goes on has done again what it had done, and is held by the last of it."""
    found = ask(server, types.Query(run=RUN), sign)
    assert isinstance(found, types.Status)
    waiting = {each.what: each.number for each in found.counts}["commands waiting"]
    return found.paused and not waiting


def test_only_who_knows_the_key_is_obeyed(
    server: RedisServer, tmp_path: Path, tell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsigned, forged and old commands are refused by name, and a copy has no second effect."""
    file, others = tmp_path / "key", tmp_path / "others"
    name = make_key_file(file).name
    make_key_file(others)
    key = ("--key", str(file))
    with growing(server, tmp_path, "--bus-key", str(file)):
        alive(server)

        def refused(*arguments: str) -> str:
            told = tell("ctl", "pause", *arguments)
            assert (told.code, told.out) == (1, "")
            return told.err

        def outcome(envelope: types.Envelope) -> list[types.Acknowledgement]:
            return sent(server, RUN, wire.encode(envelope), envelope.id)

        assert refused() == (
            "refused (unsigned): only what is signed counts here; give the sender the key's file\n"
        )
        assert refused("--key", str(others)) == (
            f"refused (forged): it is signed by key {read_keys(others)[0].name!r}, which is not "
            "known here\n"
        )
        signed = Signer(read_keys(file)[0])(Stamp("somebody")(PAUSE))
        assert isinstance(signed.body, types.Signed)
        fake = wire.encode(Stamp("somebody")(types.Resume(run=RUN)))  # by the name of the key
        body = types.Signed(key=name, mac=signed.body.mac, payload=fake)
        (forged,) = outcome(Stamp("somebody")(body))
        assert isinstance(forged, types.Refused)
        assert (forged.reason, forged.detail) == (
            "forged",
            f"its proof is not that of key {name!r}",
        )

        (old,) = outcome(Signer(read_keys(file)[0])(old_stamp("somebody")(PAUSE)))
        assert isinstance(old, types.Refused)
        assert old.reason == "expired"
        assert "s before the bus took it, and at most 300 s are allowed" in old.detail
        with monkeypatch.context() as late:
            late.setattr(operator, "enveloped", old_command)
            assert re.match(
                r"refused \(expired\): it was made 10\d\d s before the bus", refused(*key)
            )

        assert "held" not in tell("ctl", "status", *key).out  # none of them has done anything
        told = tell("ctl", "pause", *key)
        assert (told.code, told.err) == (0, "")
        assert told.out.endswith(": the run is held\n")
        assert tell("ctl", "resume", *key).code == 0

        copied = Signer(read_keys(file)[0])(Stamp("somebody")(PAUSE))
        first = outcome(copied)[-1]
        assert isinstance(first, types.Applied)
        assert tell("ctl", "resume", *key).code == 0
        (again,) = outcome(copied)  # what became of it then, told once more of the copy
        assert again.entry != first.entry
        assert structs.replace(again, entry=first.entry) == first
        assert "held" not in tell("ctl", "status", *key).out
        last = Signer(read_keys(file)[0])(Stamp("somebody")(PAUSE))
        assert isinstance(outcome(last)[-1], types.Applied)
    killed = time.time()
    with resumed(server, tmp_path):  # signed answers prove what it had done: no more is said of it
        alive(server, after=killed)
        end = time.monotonic() + WITHIN_S
        while not has_caught_up(server, Signer(read_keys(file)[0])):
            assert time.monotonic() < end
        told_of = on(server, lambda client: answers(client, RUN, last.id))
        assert [type(each) for each in told_of] == [types.Accepted, types.Applied]
    # another run of the name knows nothing of what became of it, and is told that it is old
    while (begun := time.time()) < copied.time + 2 * SKEW_S:
        time.sleep(0.05)
    with growing(server, tmp_path, "--bus-key", str(file), "--force"):
        alive(server, after=begun)
        (replayed,) = sent(server, RUN, wire.encode(copied), copied.id)
        assert isinstance(replayed, types.Refused)
        assert replayed.reason == "replayed"
        assert replayed.detail == "it was made before this run began"
        assert "held" not in tell("ctl", "status", *key).out
