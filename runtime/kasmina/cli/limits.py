"""Proves limits before a run takes them: what was proved of its spec must hold with them as well.

In a process of its own, as a proof would take the interpreter from the training thread.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

import kasmina_spec
from kasmina.errors import KasminaError
from kasmina.growth.outside import Broken
from kasmina_generator.prove.proof import prove
from kasmina_generator.reader import read_spec

LONGEST_S = 120.0  # of a proof
_CODE = "from kasmina.cli.limits import main; main()"


class NotProved(KasminaError):
    """The proof did not come to an end."""


def prover(digest: str) -> Callable[[Mapping[str, float]], Broken | None] | None:
    """What proves limits of the built-in spec; None for a lifecycle of another one.

    Of that one the spec is not at hand. What `kasmina spec build` has proved of it holds for every
    legal value of its limits, but for whether states can be reached.
    """
    return in_a_process if read_spec(kasmina_spec.LIFECYCLE).digest == digest else None


def in_a_process(limits: Mapping[str, float]) -> Broken | None:
    """What `broken` says, from another process.

    Raises:
        NotProved: it failed, or took too long.
    """
    command = [sys.executable, "-c", _CODE]
    try:
        done = subprocess.run(
            command, input=json.dumps(dict(limits)), capture_output=True, text=True,
            timeout=LONGEST_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NotProved(f"the proof took more than {LONGEST_S:g} s") from None
    if done.returncode:
        raise NotProved(done.stderr.strip().splitlines()[-1] if done.stderr else "the proof failed")
    found = json.loads(done.stdout)
    return None if found is None else Broken(found["what"], tuple(found["witness"]))


def broken(limits: Mapping[str, Any]) -> Broken | None:
    """The first thing that does not hold of the built-in spec where limits stand at these values."""
    spec = read_spec(kasmina_spec.LIFECYCLE)
    fixed = tuple(
        replace(each, default=value, low=value, high=value)
        for each in spec.limits
        for value in [np.dtype(each.dtype).type(limits[each.name]).item()]  # as a run rounds it
    )
    findings = prove(replace(spec, limits=fixed)).findings
    if not findings:
        return None
    return Broken(f"{findings[0].what}", findings[0].witness)


def main() -> None:
    """Read limits as JSON, write what they break."""
    found = broken(json.load(sys.stdin))
    plain = None if found is None else {"what": found.what, "witness": found.witness}
    json.dump(plain, sys.stdout)
