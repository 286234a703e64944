"""A build gives the same bytes wherever, whenever and by whichever Python it is run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.generator.specs import MACHINES
from tests.helpers import PACKAGES

SITE = sysconfig.get_path("purelib")
BUILD = """
import sys
from pathlib import Path
import kasmina_generator
from kasmina_generator.build import build, built_in_targets, user_target
checkout, out, *machines = map(Path, sys.argv[1:])
assert checkout in Path(kasmina_generator.__file__).parents, kasmina_generator.__file__
build(built_in_targets(out / "kasmina_generated"))
for machine in machines:
    build([user_target(machine, out / machine.stem)])
"""


def checkout(folder: Path) -> Path:
    """Copy what a build needs to another place."""
    for name in ("kasmina_spec", "kasmina_generator"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGES[name], folder / name, ignore=ignored)
    shutil.copytree(MACHINES, folder / "machines")
    return folder


def built(
    folder: Path,
    *,
    python: str = sys.executable,
    environment: dict[str, str] | None = None,
    machines: tuple[str, ...] = ("orders", "mission", "traffic_light"),
) -> dict[str, bytes]:
    """Build the shipped specs and some others in a checkout of their own; return all files."""
    place, out = checkout(folder / "checkout"), folder / "out"
    files = [str(place / "machines" / f"{machine}.yaml") for machine in machines]
    path = {"PYTHONPATH": os.pathsep.join([str(place), SITE]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-c", BUILD, str(place), str(out), *files],
        env={**_unmeasured(), **path, **(environment or {})},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = sorted(file for file in out.rglob("*") if file.is_file())
    return {str(file.relative_to(out)): file.read_bytes() for file in found}


def _unmeasured() -> dict[str, str]:
    """The environment, without what makes a process count the lines of its own copy as ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a build gives, with one seed for hashes and in one time zone."""
    environment = {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"}
    return built(tmp_path_factory.mktemp("here"), environment=environment)


def test_neither_place_nor_time_nor_hashes_matter(here: dict[str, bytes], tmp_path: Path) -> None:
    """Another checkout, another seed, a time zone half a day away, another locale."""
    folder = tmp_path / "a much longer way" / "to the checkout"
    folder.mkdir(parents=True)
    environment = {"PYTHONHASHSEED": "31337", "TZ": "Pacific/Kiritimati", "LC_ALL": "C.UTF-8"}
    assert built(folder, environment=environment) == here
    assert len(here) > 30


def pythons() -> Iterator[str]:
    """Yield the Python 3.12 interpreters of this machine that start."""
    roots = Path.home().glob(".pyenv/versions/3.12.*/bin/python")
    found = [shutil.which("python3.12"), *map(str, sorted(roots))]
    for path in filter(None, found):
        command = [path, "-c", "import sys; sys.exit(sys.version_info[:2] != (3, 12))"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            yield path


def test_another_python_builds_the_same(here: dict[str, bytes], tmp_path: Path) -> None:
    """Python 3.12 where there is one, else this one again; machines that need no compiled package."""
    python = next(pythons(), sys.executable)
    found = built(tmp_path, python=python, machines=("traffic_light",))
    assert found == {name: here[name] for name in found}
    assert "kasmina_generated/lifecycle_v1/tables.py" in found
    assert "traffic_light/tables.py" in found
