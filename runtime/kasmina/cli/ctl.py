"""`kasmina ctl`: command a run that is on a bus, and see what becomes of it."""

from __future__ import annotations

import asyncio
import json as json_module
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import uuid4

import cyclopts
import msgspec
from cyclopts import Parameter

from kasmina.bus.operator import Answer, Operator, enveloped
from kasmina.cli.legal import unfit
from kasmina.cli.reaching import Reach, through, verifier, waits
from kasmina.cli.saying import say, warn
from kasmina.errors import UsageError
from kasmina_generated.messages import types

if TYPE_CHECKING:
    from kasmina.bus.client import MessageBusClient

app = cyclopts.App(name="ctl", help="Command a run that is on a bus.")

Flag = Annotated[bool, Parameter(negative=())]
_TARGET = re.compile(
    r"(?:(?P<run>[^/]+)/)?(?P<site>[^\[\]#]+)(?:\[(?P<slot>\d{1,99})\])?(?:#(?P<generation>\d{1,99}))?"
)


@Parameter(name="*")
@dataclass(frozen=True)
class How(Reach):
    """Whom to ask, and how.

    Attributes:
        bus: redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS, unix:///path; or the
            environment's KASMINA_BUS.
        run: name of the run; not needed where one alone is alive.
        key: file with the key that commands are signed with; answers must be signed then, too.
        reason: why, for the run's log.
        timeout: seconds to find the run and to wait for its answer, also while the bus is away.
        id: of a command that was sent before: the same again, which is done once. A new one gets a
            new id.
        json: print the answer as one JSON object.
    """

    run: str | None = None
    key: Path | None = None
    reason: str = ""
    timeout: float = 60.0
    id: str | None = None
    json: Flag = False


HERE = How()


@app.command
def germinate(
    target: str, /, *, blueprint: str | None = None, strategy: str | None = None, how: How = HERE
) -> int:
    """Give seeds a blueprint to grow.

    Args:
        target: SITE[SLOT], SITE[SLOT]#GENERATION, SITE for all its seeds, layer:MODULE for all
            sites at or below a module, or all.
        blueprint: kind; the site's first if not given.
        strategy: how alpha moves; the run's if not given.
        how: whom to ask.
    """
    return _send(
        how,
        target,
        lambda known: types.Germinate(**known, blueprint=blueprint, strategy=strategy),
    )


@app.command
def cancel(target: str, /, *, how: How = HERE) -> int:
    """End seeds in order.

    Args:
        target: as for germinate.
        how: whom to ask.
    """
    return _send(how, target, lambda known: types.Cancel(**known))


@app.command
def rollback(target: str, /, *, how: How = HERE) -> int:
    """Stop seeds at once, and take the run back to before their graft.

    Args:
        target: as for germinate.
        how: whom to ask.
    """
    return _send(how, target, lambda known: types.Rollback(**known))


@app.command
def strategy(name: str, target: str = "all", /, *, how: How = HERE) -> int:
    """Let another strategy move alpha.

    Args:
        name: of the strategy.
        target: as for germinate.
        how: whom to ask.
    """
    return _send(how, target, lambda known: types.SetStrategy(**known, strategy=name))


@app.command
def limit(name: str, value: float, /, *, how: How = HERE) -> int:
    """Change a limit of the lifecycle, if nothing that was proved breaks by it.

    Args:
        name: of the limit.
        value: what it shall be.
        how: whom to ask.
    """
    return _send(how, None, lambda known: types.SetLimit(**known, name=name, value=value))


@app.command
def checkpoint(tag: str | None = None, /, *, how: How = HERE) -> int:
    """Save the run now; answered when it is on the disk.

    Args:
        tag: what `kasmina checkpoint list` calls it.
        how: whom to ask.
    """
    return _send(how, None, lambda known: types.Checkpoint(**known, tag=tag))


@app.command
def pause(*, how: How = HERE) -> int:
    """Hold the run after the step it is in; it still tells and obeys.

    Args:
        how: whom to ask.
    """
    return _send(how, None, lambda known: types.Pause(**known))


@app.command
def resume(*, how: How = HERE) -> int:
    """Let a held run go on.

    Args:
        how: whom to ask.
    """
    return _send(how, None, lambda known: types.Resume(**known))


@app.command
def status(
    what: Literal["status", "seeds", "limits", "checkpoints"] = "status",
    target: str | None = None,
    /,
    *,
    how: How = HERE,
) -> int:
    """Ask how the run is.

    Args:
        what: the sites and their seeds by state, or each seed, the limits, or the checkpoints.
        target: of which seeds, as for germinate.
        how: whom to ask.
    """

    def query(known: dict[str, Any]) -> types.Query:
        return types.Query(**{"target": None, **known}, what=what)

    return _send(how, target, query)


def target_of(text: str) -> tuple[str | None, types.Target]:
    """Read a target: the run that it names, if any, and the seeds.

    Raises:
        UsageError: it is none.
    """
    if text == "all":
        return None, types.Target()
    if text.startswith("layer:") and len(text) > len("layer:"):
        return None, types.Target(layer=text.removeprefix("layer:"))
    found = _TARGET.fullmatch(text)
    if found is None or (found["generation"] and not found["slot"]):
        raise UsageError(
            f"{_shortly(text)} is no target; write SITE[SLOT], e.g. block.0[3], SITE[SLOT]#GENERATION, "
            "SITE, layer:MODULE or all"
        )
    slot, generation = (None if found[n] is None else int(found[n]) for n in ("slot", "generation"))
    return found["run"], types.Target(site=found["site"], slot=slot, generation=generation)


def _shortly(text: str) -> str:
    return repr(text) if len(text) <= 100 else f"{text[:60]!r}..., of {len(text):,} characters,"


def _send(how: How, target: str | None, make: Callable[[dict[str, Any]], types.Command]) -> int:
    named, seeds = (None, None) if target is None else target_of(target)
    if named is not None and how.run not in (None, named):
        raise UsageError(f"the target is of run {named!r}, and --run says {how.run!r}")
    if not how.timeout > 0:
        raise UsageError(f"--timeout is {how.timeout:g}; it must be more than 0 seconds")

    id = uuid4().hex if how.id is None else how.id
    known: dict[str, Any] = {"run": how.run or named or "", "reason": how.reason}
    if seeds is not None:
        known["target"] = seeds
    _check(make, known, id)

    keys = verifier(how.key)

    async def work(client: MessageBusClient) -> Answer:
        operator = Operator(client, sign=keys.sign if keys else None, verify=keys, on_outage=waits)
        end = time.monotonic() + how.timeout
        run = await operator.within(how.timeout, partial(_found, operator, how.run or named))
        command = make(known | {"run": run})
        try:
            left = max(0.0, end - time.monotonic())
            return await operator.ask(command, timeout_s=left, tell=_tell_accepted(how), id=id)
        except asyncio.CancelledError:
            warn(f"command {id} may have been sent; --id {id} asks for the same again")
            raise

    answer = through(how.bus, work)
    _tell(answer, how.json)
    return int(isinstance(answer, types.Refused))


def _check(make: Callable[[dict[str, Any]], types.Command], known: dict[str, Any], id: str) -> None:
    """Refuse what no message can hold before anybody is asked."""
    try:
        sent = enveloped(make({**known, "run": known["run"] or "any"}), id)
        wrong = unfit(sent) or unfit(sent.body)
    except ValueError as error:  # NaN makes no message at all
        wrong = str(error)
    if wrong is not None:
        raise UsageError(f"this command cannot be sent: {wrong}")


async def _found(operator: Operator, named: str | None) -> str:
    run = await operator.find(named)
    found = (await operator.runs()).get(run)
    if found is not None and found.silent:
        ended = "has ended" if found.beat.ended else "was heard of"
        last = "" if found.beat.ended else " for the last time"
        warn(f"run {run!r} {ended} {found.age_s:.0f} s ago{last}; it is asked all the same")
    return run


def _tell_accepted(how: How) -> Callable[[types.Acknowledgement], None]:
    def tell(answer: types.Acknowledgement) -> None:
        if not how.json and isinstance(answer, types.Accepted) and answer.waiting:
            say(f"accepted; {answer.waiting} before it")

    return tell


def _tell(answer: Answer, json: bool) -> None:
    if json:
        say(
            json_module.dumps(
                {"kind": type(answer).__name__.lower(), **msgspec.to_builtins(answer)}
            )
        )
    elif isinstance(answer, types.Refused):
        warn(refusal(answer))
    elif isinstance(answer, types.Status):
        say(
            f"run {answer.run}: epoch {answer.epoch}, step {answer.step}" + ", held" * answer.paused
        )
        for site in answer.sites:
            states = ", ".join(f"{each.seeds} {each.state}" for each in site.states)
            embargoed = "; rewound too often, germinates no more" * site.embargoed
            say(f"  {site.path} ({site.placement}, {'|'.join(site.kinds)}): {states}{embargoed}")
        counts = ", ".join(f"{each.what} {each.number}" for each in answer.counts if each.number)
        if counts:
            say(f"  on its bus: {counts}")
        if answer.detail:
            say(answer.detail)
    else:
        seeds = " ".join(f"{s.site}[{s.slot}]#{s.generation}" for s in answer.seeds[:32])
        more = f" and {len(answer.seeds) - 32} more" if len(answer.seeds) > 32 else ""
        about = "; ".join(filter(None, [f"{seeds}{more}", answer.detail]))
        say(
            f"applied at epoch {answer.epoch}, step {answer.step}" + (f": {about}" if about else "")
        )


def refusal(answer: types.Refused) -> str:
    """A refusal in words."""
    lines = [f"refused ({answer.reason}): {answer.detail}"]
    if answer.witness:
        lines.append(f"  witness: {' -> '.join(answer.witness)}")
    return "\n".join(lines)
