"""Everything that a GPU has to say of the kernels, in two calls of some minutes each.

    PYTHONPATH=spec:generator:generated:runtime OUT=. python -m tools.gpu_all checks --seconds 270
    PYTHONPATH=spec:generator:generated:runtime OUT=. python -m tools.gpu_all table --seconds 270

`checks`: whole runs of `tools.gpu_grow`, every check of `tools.gpu_sites`, `compute-sanitizer` on a
case of each family, and the step. They run side by side, each a process of its own within its own
seconds, the most valuable first, and none measures time. `table`: eager calls, then every benchmark by `tools.gpu_bench`, alone. What is
known is in $OUT/gpu_checks.json or $OUT/gpu_table.json after each job, whatever happens later.

`--dry` does the same without a GPU, by Triton's interpreter: names, arguments, flow and output are
those of the real run, and where `compute-sanitizer` is missing the command under it runs by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tools import gpu_grow, gpu_sites

OUT = Path(os.environ.get("OUT", "."))
STARTED = time.monotonic()
NEEDED = ("torch", "triton", "numpy", "transitions", "msgspec", "safetensors")
# Launches that racecheck looks at one by one: products by the tensor memory accelerator break it.
RACING = ("select", "move_map", "move_out", "hidden", "exact", "elements", "add_up")


class Job(NamedTuple):
    """A command, and the seconds after which it is ended."""

    name: str
    command: Sequence[str]
    seconds: float


def site_check(name: str) -> list[str]:
    """The command of one check of sites, but for where its results go."""
    return [sys.executable, "-m", "tools.gpu_sites", "--only", name]


def _sanitizer() -> str | None:
    return shutil.which("compute-sanitizer") or shutil.which(
        "/usr/local/cuda/bin/compute-sanitizer"
    )


def sanitized(tool: str, command: Sequence[str], *options: str) -> list[str]:
    """The same under `compute-sanitizer`, where there is one."""
    found = _sanitizer()
    if found is None:
        return list(command)
    return [found, "--tool", tool, "--error-exitcode", "9", *options, *command]


def checks(seconds: float, *, few: bool) -> Iterator[Job]:
    """All checks, the most valuable first; one of each sort where `few` are wanted."""
    names = [name for name in gpu_sites.cases() if name != "costs"]
    launches = [name for name in names if name.startswith("launched")]
    device = "cuda" if gpu_sites.CUDA else "cpu"
    for name in list(gpu_grow.RUNS)[: 1 if few else None]:
        command = [sys.executable, "-m", "tools.gpu_grow", "--only", name, "--device", device]
        yield Job(f"grown, {name}", command, seconds)
    if few:
        names = ["captured inline", "memory", "twice parallel"]
        launches = ["launched inline affine", "launched parallel affine"]
    for name in names:
        if name not in launches:
            yield Job(name, site_check(name), seconds)
    for name in launches:
        yield Job(f"memcheck, {name}", sanitized("memcheck", site_check(name)), seconds)
    inline = sanitized("racecheck", site_check(launches[0]))
    yield Job(f"racecheck, {launches[0]}", inline, seconds)
    for kernel in RACING[: 1 if few else None]:
        of = launches[-1] if kernel == "elements" else launches[len(launches) // 2]
        only = ("--kernel-name", f"kernel_substring={kernel}")
        command = sanitized("racecheck", site_check(of), *only)
        yield Job(f"racecheck, {kernel} of {of}", command, seconds)
    if not few:
        step = sanitized("memcheck", [sys.executable, "-m", "tools.gpu_step", "--small"])
        yield Job("memcheck, step", step, seconds)


def table(seconds: float, *, few: bool) -> Iterator[Job]:
    """What is measured; each job has the machine for itself."""
    costs = "costs" if gpu_sites.CUDA else "twice inline"
    yield Job("costs", site_check(costs), min(60.0, seconds))
    bench = [sys.executable, "-m", "tools.gpu_bench", *(["--dry"] if few else [])]
    yield Job("bench", [*bench, "--seconds", f"{seconds * 0.8:.0f}"], seconds * 0.9)


def done(job: Job, folder: Path, until: float) -> dict[str, Any]:
    """Run a job, and tell how it went: rc -1 where it was ended, -2 where it was not begun."""
    began = time.monotonic()
    left = until - (began - STARTED)
    if left < 1:
        return {"job": job.name, "rc": -2, "seconds": 0.0, "told": "no time was left"}
    results = folder / f"{job.name.replace(' ', '_').replace(',', '')}.json"
    command = list(job.command)
    if "tools.gpu_sites" in command:
        command += ["--out", str(results)]
    with results.with_suffix(".txt").open("w+") as output:
        try:
            process = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, check=False,
                timeout=min(job.seconds, left),
            )  # fmt: skip
            rc = process.returncode
        except subprocess.TimeoutExpired:
            rc = -1
        output.seek(0)
        told = output.read()[-3000:]
    found = json.loads(results.read_text()) if results.exists() else []
    took = time.monotonic() - began
    return {"job": job.name, "rc": rc, "seconds": round(took, 1), "found": found, "told": told}


def run(jobs: Sequence[Job], path: Path, until: float, at_once: int) -> list[dict[str, Any]]:
    """Run jobs, some at once; what is known is on disk after each."""
    known: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder, ThreadPoolExecutor(at_once) as pool:
        started = [pool.submit(done, job, Path(folder), until) for job in jobs]
        for each in started:
            found = each.result()
            known.append(found)
            path.write_text(json.dumps(known, indent=1))
            sys.stdout.write(
                f"{time.monotonic() - STARTED:6.1f} rc {found['rc']:>2} {found['job']}\n"
            )
            if found["rc"]:
                sys.stdout.write(f"{found['told'][-700:]}\n")
            sys.stdout.flush()
    return known


def main() -> int:
    """Run one of the calls; 1 where a job failed, 2 where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("call", choices=("checks", "table"))
    parser.add_argument("--seconds", type=float, default=270.0, help="for everything")
    parser.add_argument("--each", type=float, default=150.0, help="for a check at most")
    parser.add_argument("--dry", action="store_true", help="a few of each, without a GPU")
    given = parser.parse_args()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if given.call == "checks" and not given.dry and _sanitizer() is None:
        missing.append("compute-sanitizer")  # its jobs would pass without having looked
    if missing or not (given.dry or gpu_sites.CUDA):
        what = f"not installed: {', '.join(missing)}" if missing else "torch finds no GPU; --dry"
        sys.stdout.write(f"{what}\n")
        return 2
    if given.call == "checks":
        jobs = list(checks(given.each, few=given.dry))
        at_once = 1 if given.dry else min(12, max(2, (os.cpu_count() or 2) - 2))
    else:
        jobs, at_once = list(table(given.seconds, few=given.dry)), 1
    OUT.mkdir(parents=True, exist_ok=True)
    found = run(jobs, OUT / f"gpu_{given.call}.json", given.seconds, at_once)
    bad = [each["job"] for each in found if each["rc"]]
    sys.stdout.write(f"{len(found) - len(bad)} of {len(found)} jobs are well; not: {bad}\n")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
