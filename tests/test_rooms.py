"""Imports point one way, and each room keeps to itself what it must not know."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.helpers import PACKAGES, ROOT, run_python

# A room may import itself and what stands here, at any depth of its modules; every package of ours
# that is not named is forbidden to it. `kasmina` alone stands for `errors.py`.
_BELOW = {"kasmina.errors", "kasmina_generated", "kasmina_spec"}
_DATA = {*_BELOW, "kasmina.lifecycle", "kasmina.kernels", "kasmina.registry"}
_SITES = {*_DATA, "kasmina.blueprints", "kasmina.grafting"}
_APART = {"kasmina.checkpoint", "kasmina.bus", "kasmina.observe", "kasmina.rollout"}
_GROWTH = {*_SITES, *_APART, "kasmina.sites"}
_USERS = {*_GROWTH, "kasmina.growth", "kasmina.control", "kasmina.tasks"}
ALLOWED: dict[str, set[str]] = {
    "kasmina_spec": set(),
    "kasmina_generator": {"kasmina_spec"},
    "kasmina_generated": set(),
    "kasmina.errors": set(),
    "kasmina.registry": {"kasmina.errors"},
    "kasmina.lifecycle": {*_BELOW, "kasmina.kernels"},  # for the choice of the step's backend
    "kasmina.kernels": {*_BELOW, "kasmina_generator"},
    "kasmina.blueprints": _DATA,
    "kasmina.grafting": _DATA,
    "kasmina.sites": _SITES,
    "kasmina.checkpoint": _BELOW,
    "kasmina.bus": _BELOW,
    "kasmina.observe": _BELOW,
    "kasmina.rollout": _BELOW,
    "kasmina.growth": _GROWTH,
    "kasmina.control": {*_GROWTH, "kasmina.growth"},
    "kasmina.tasks": {*_GROWTH, "kasmina.growth"},
    "kasmina.bench": {*_USERS, "kasmina_generator"},
    "kasmina.__main__": {"kasmina.cli"},
    "kasmina.cli": {*_USERS, "kasmina.bench", "kasmina_generator"},
}
GENERATED_CORE = {"lifecycle", "guards", "tables", "machine", "vector", "state", "observation"}
CODE_FROM_DATA = {"eval", "exec", "compile", "__import__"}
ORDINARY = {  # names of the seed lifecycle that are English, or torch's, as well
    *("alpha", "cancel", "complete", "emergency", "expire", "fail", "improve", "negative"),
    *("positive", "settle", "stability"),
}
TIMES_TORCH_SAVE = "kasmina.bench.checkpoint"  # as the baseline, on files of its own
PICKLES = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of a package by its dotted name (`a.b.__init__` for a package), parsed."""
    folder = PACKAGES[package]
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        yield ".".join(parts), ast.parse(path.read_text(), filename=str(path))


def imports(module: str, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module that `module` imports, with the line, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = module.split(".")[: -node.level or None] if node.level else []
            base = ".".join([*parent, *filter(None, [node.module])])
            if base in PACKAGES:  # `from kasmina import lifecycle` imports a room
                yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield base, node.lineno


def room(module: str) -> str:
    """The room of a module: `kasmina.sites` of `kasmina.sites.morph`, else the package."""
    parts = module.removesuffix(".__init__").split(".")
    return ".".join(parts[:2]) if parts[0] == "kasmina" else parts[0]


def forbidden(module: str, tree: ast.Module) -> list[str]:
    """What `module` imports of ours and must not."""
    here = room(module)
    if here == "kasmina":  # the public API names every room, lazily
        return []
    return [
        f"{module}:{line} imports {target}"
        for target, line in imports(module, tree)
        if target.split(".")[0] in PACKAGES and room(target) not in {here, *ALLOWED[here]}
    ]


def dynamic(module: str, tree: ast.Module) -> list[str]:
    """Where `module` runs code from data, or could be made to."""
    found = [
        f"{module}:{line} imports {name}" for name, line in imports(module, tree) if name in PICKLES
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in CODE_FROM_DATA:
                found.append(f"{module}:{node.lineno} calls {node.func.id}")
        elif (
            module != TIMES_TORCH_SAVE
            and isinstance(node, ast.Attribute)
            and ast.unparse(node) in {"torch.load", "torch.save"}
        ):
            found.append(f"{module}:{node.lineno} pickles by {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    """No room imports what stands above or beside it."""
    found = [line for name, tree in modules(package) for line in forbidden(name, tree)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "code", "target"),
    [
        ("kasmina.observe.log", "from kasmina.growth.task import Task", "kasmina.growth.task"),
        ("kasmina.lifecycle.step", "def f():\n    import kasmina.sites", "kasmina.sites"),
        ("kasmina.blueprints.pool", "from kasmina import growth", "kasmina.growth"),
        ("kasmina.blueprints.__init__", "from ..growth import Task", "kasmina.growth"),
        ("kasmina.growth.loop", "import kasmina_generator.check", "kasmina_generator.check"),
        ("kasmina_generated.vector", "import kasmina.lifecycle", "kasmina.lifecycle"),
        ("kasmina_generator.emit", "import kasmina_generated", "kasmina_generated"),
    ],
)
def test_a_planted_import_is_found(module: str, code: str, target: str) -> None:
    """The check sees each direction, also inside functions and in both spellings."""
    line = code.count("\n") + 1
    assert forbidden(module, ast.parse(code)) == [f"{module}:{line} imports {target}"]


def test_every_room_has_its_rule() -> None:
    """A new folder of the runtime gets a line in `ALLOWED` and a docstring that says what it is."""
    rooms = {f"kasmina.{p.parent.name}" for p in PACKAGES["kasmina"].glob("*/__init__.py")}
    assert rooms | {"kasmina.errors", "kasmina.registry", "kasmina.__main__"} == {
        name for name in ALLOWED if name.startswith("kasmina.")
    }
    empty = [name for name, tree in modules("kasmina") if not ast.get_docstring(tree)]
    assert not empty


def test_the_rules_have_no_circle() -> None:
    """What a room may import may never import the room."""
    circles = [(a, b) for a in ALLOWED for b in ALLOWED[a] if a in ALLOWED[b]]
    assert not circles


def test_the_runtime_asks_the_generator_in_one_place_only_when_it_must() -> None:
    """The command line aside, that is for kernels of users' kinds, inside a function."""
    cli = ("kasmina.cli", "kasmina.bench")
    asking = [
        (name, target, tree)
        for name, tree in modules("kasmina")
        if not name.startswith(cli)
        for target, _ in imports(name, tree)
        if target.startswith("kasmina_generator")
    ]
    assert {name for name, _, _ in asking} == {"kasmina.kernels.made"}
    for _, _, tree in asking:
        top = {a.name for n in tree.body if isinstance(n, ast.Import) for a in n.names}
        top |= {n.module or "" for n in tree.body if isinstance(n, ast.ImportFrom)}
        assert not [name for name in top if name.startswith("kasmina_generator")]


def test_the_generated_core_stands_alone() -> None:
    """Core modules import torch, numpy and transitions at most, and never a subpackage."""
    legal = {"torch", "numpy", "transitions", "kasmina_generated"} | sys.stdlib_module_names
    core = [(n, t) for n, t in modules("kasmina_generated") if n.split(".")[-1] in GENERATED_CORE]
    assert core
    for name, tree in core:
        package = name.rpartition(".")[0]
        for target, line in imports(name, tree):
            root, last = target.split(".")[0], target.removeprefix(f"{package}.").split(".")[0]
            assert root in legal, f"{name}:{line} imports {target}"
            inside = root != "kasmina_generated" or target == package or last in GENERATED_CORE
            assert inside, f"{name}:{line} leaves the core for {target}"


def test_generated_messages_import_msgspec_only() -> None:
    """So another program can speak to a run without torch, numpy and all else that is ours."""
    legal = {"msgspec", "kasmina_generated"} | sys.stdlib_module_names
    found = [(n, t) for n, t in modules("kasmina_generated") if ".messages." in n]
    assert len(found) == 4
    for name, tree in found:
        for target, line in imports(name, tree):
            assert target.split(".")[0] in legal, f"{name}:{line} imports {target}"
            if target.startswith("kasmina_generated"):
                assert target.startswith("kasmina_generated.messages."), f"{name}:{line}"


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_runs_code_from_a_file(package: str) -> None:
    """No pickle, no eval, no exec, in no package."""
    found = [line for name, tree in modules(package) for line in dynamic(name, tree)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    ["eval(text)", "exec(text)", "import pickle", "torch.load(path)", "from joblib import x"],
)
def test_a_planted_way_to_run_code_is_found(code: str) -> None:
    """The check sees calls and imports."""
    assert len(dynamic("kasmina.tasks.user", ast.parse(code))) == 1


def seed_words() -> set[str]:
    """What only the seed lifecycle speaks of: its states, events, attributes and fields.

    Left out are those of its names that mean something elsewhere too.
    """
    spec = YAML(typ="safe").load(PACKAGES["kasmina_spec"] / "lifecycle.yaml")
    tables = (spec["states"], spec["events"], spec["attributes"], spec["context"])
    names = {str(name).lower() for table in tables for name in table}
    return names - ORDINARY | {"seed", "seeds", "graft", "grafted"}


def test_the_generator_knows_nothing_of_seeds() -> None:
    """No word of the seed lifecycle stands in the generator, in its templates and comments too."""
    words = re.compile(rf"(?<![a-z])({'|'.join(sorted(seed_words()))})(?![a-z])", re.IGNORECASE)
    folder = PACKAGES["kasmina_generator"]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match.group()}"
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".py", ".jinja", ".json", ".md"}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for match in words.finditer(line)
    ]
    assert not found, "\n".join(found)


def test_import_kasmina_does_not_import_torch() -> None:
    """`import kasmina` and its command are quick; torch comes with the first name that needs it."""
    code = "import sys, kasmina, kasmina.cli; sys.exit('torch' in sys.modules)"
    assert run_python(code).returncode == 0


def test_no_path_of_a_machine_is_shipped() -> None:
    """Sources name no folder of the machine that they were written on."""
    home = re.compile(r"(?<![\w.])/(home|root|Users|work|tmp)/\w")
    found = [
        f"{path}:{number}"
        for folder in PACKAGES.values()
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".py", ".jinja", ".yaml", ".md", ".json"}
        for number, line in enumerate(Path(path).read_text().splitlines(), 1)
        if home.search(line)
    ]
    assert not found
