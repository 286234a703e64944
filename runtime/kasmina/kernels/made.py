"""Kernels of kinds that users have written: made from their formulas when they are first used.

The generator is imported here, and only then. A kernel is believed after it has given, on random
numbers, what the kind's own `forward` gives, and the gradients that torch finds of it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib.abc import SourceLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from kasmina.errors import KasminaError

if TYPE_CHECKING:
    from kasmina_generator.kernels.making import Request

_ROWS = 16
# float32 against float64, of sums of some hundred terms; a wrong formula is off by more. A site holds
# the kernel in the dtype of its own tensors, see `inline.hold`.
_TOLERANCE = 1e-3
_SCALE = 0.25  # of parameters: a steep formula shall not leave float32, as float64 would not tell
_MADE: dict[Path, _Asked] = {}  # files that this process has imported, and what for


class FormulaError(KasminaError, ValueError):
    """A kind's formula that gives no kernel, or another one than its `forward` needs."""


class _Asked(NamedTuple):
    """What a kernel is made from, see `making.Request`."""

    name: str
    formula: str
    placement: str
    choices: tuple[tuple[str, str], ...]
    package: str
    mixing: int
    joint: int


class Written(Protocol):
    """What is needed of a kind; a Blueprint has it."""

    hidden: int
    shape: Any

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters of one seed, in a fixed order."""

    def forward(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """All seeds at once."""


def made(package: str, name: str, kind: Written) -> tuple[Any, Any] | None:
    """The modules `forward` and `backward` of a kind's inline kernel; None where it has no formula.

    Args:
        package: of the lifecycle, whose states the kernel has to know.
        name: of the kind.
        kind: itself; its options are attributes of it. Only a formula that its own class declares
            counts: a subclass may compute something else.

    Raises:
        FormulaError: the formula is wrong, or is not what `forward` computes.
    """
    formula = vars(type(kind)).get("formula", "")
    if not formula:
        return None
    if not isinstance(formula, str):
        raise FormulaError(
            f"blueprint {name!r}: formula is {formula!r}, which is no text; it must be one like "
            "'{maps: {up: bias}, hidden: relu(up)}'"
        )
    choices = tuple(sorted((k, v) for k, v in vars(kind).items() if isinstance(v, str)))
    catalogue = importlib.import_module(f"{package}.kernels.catalogue")
    masks = (catalogue.MIXING, catalogue.JOINT)
    asked = _Asked(name, formula, "inline", choices, package, *masks)
    modules, parameters = _modules(asked)
    _check_shapes(name, kind, parameters)
    _check_values(asked, kind, modules)
    return modules


@functools.cache
def _modules(asked: _Asked) -> tuple[tuple[Any, Any], tuple[str, ...]]:
    """Forward and backward, and the names of the parameters."""
    from kasmina_generator import SpecErrors
    from kasmina_generator.kernels import making

    try:
        found = making.make(_request(asked))
    except (SpecErrors, ValueError) as error:
        told = f"blueprint {asked.name!r}: its formula gives no kernel:\n{error}"
        raise FormulaError(told) from error
    except OSError as error:
        raise FormulaError(
            f"blueprint {asked.name!r}: its kernel cannot be kept: {error.strerror}: "
            f"{error.filename}; remove that, or set XDG_CACHE_HOME to a folder of your own"
        ) from error
    except Exception as error:  # whatever a template may raise that somebody has edited
        told = f"{type(error).__name__}: {error}{_template_of(error)}"
        raise FormulaError(
            f"blueprint {asked.name!r}: its kernel cannot be made: {told}"
        ) from error
    _MADE.update(dict.fromkeys(found.files.values(), asked))
    try:
        forward, backward = (_load(path) for path in found.files.values())
    except Exception as error:
        raise FormulaError(_told(asked, error)) from error
    return (forward, backward), found.parameters


def _template_of(error: Exception) -> str:
    """The line of a template at which it cannot be read or filled in; empty where it is of none."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [(f.filename, f.lineno) for f in frames if f.filename.endswith(".jinja")]
    if hasattr(error, "lineno"):  # jinja's reader was not inside of it
        places.append((getattr(error, "filename", None) or "text", error.lineno))
    return f" ({places[-1][0]}:{places[-1][1]})" if places else ""


def _request(asked: _Asked) -> Request:
    from kasmina_generator.kernels import making

    return making.Request(**{**asked._asdict(), "choices": dict(asked.choices)})


class _TextLoader(SourceLoader):
    """Imports a file by its text alone: bytecode beside it has no checksum."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get_filename(self, fullname: str) -> str:
        """See `importlib.abc.ExecutionLoader`."""
        return str(self._path)

    def get_data(self, path: str) -> bytes:
        """See `importlib.abc.ResourceLoader`."""
        return Path(path).read_bytes()


def _load(path: Path) -> Any:
    """Import a file that the generator has written or found whole."""
    name = f"kasmina_made.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_TextLoader(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _check_shapes(name: str, kind: Written, parameters: tuple[str, ...]) -> None:
    """Hold that a kind declares the parameters that its formula has."""
    d_in, d_out, hidden = kind.shape.d_in, kind.shape.d_out, kind.hidden
    dense = "out_weight" in parameters
    wanted = {
        each: (d_out,) if each == "out_bias" or not dense
        else (d_out, hidden) if each == "out_weight"
        else (hidden, d_in) if each.endswith("_weight")
        else (hidden,)
        for each in parameters
    }  # fmt: skip
    if list(wanted.items()) != list(kind.shapes().items()):
        raise FormulaError(
            f"blueprint {name!r}: shapes() declares {_listed(kind.shapes())}, and its formula has "
            f"{_listed(wanted)}; they must be the same, in this order"
        )


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())


def _check_values(asked: _Asked, kind: Written, modules: tuple[Any, Any]) -> None:
    """Hold that a kernel gives what `forward` gives, and its gradients, on random numbers."""
    wanted = _wanted(kind)
    try:
        found = _found(asked, kind, *modules)
    except Exception as error:  # whatever a compiler may raise
        raise FormulaError(_told(asked, error)) from error
    for what, value in found.items():
        kept = wanted[what].float().isfinite()
        want = wanted[what][kept]
        off = float((value.cpu().double()[kept] - want).abs().max()) if kept.any() else 0.0
        if not off <= _TOLERANCE * (1 + float(want.abs().max() if kept.any() else 0)):
            raise FormulaError(
                f"blueprint {asked.name!r}: its formula and its forward() differ, by {off:.3g} in "
                f"the {what} on random numbers; mend one of them, or drop the formula, and it runs "
                "without a kernel"
            )


def _numbers(kind: Written) -> list[Tensor]:
    """The input, dL/doutput `[N, 2 c]` and the parameters of two seeds, `[2, ...]` each."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(_ROWS, 2 * kind.shape.d_in, generator=random)
    stacks = [_SCALE * torch.randn(2, *shape, generator=random) for shape in kind.shapes().values()]
    return [x, torch.randn(x.shape, generator=random), *stacks]


def _wanted(kind: Written) -> dict[str, Tensor]:
    """What `forward` gives in float64, by name, and torch's gradients of it."""
    x, g, *stacks = _numbers(kind)
    leaves = [each.double().requires_grad_() for each in (x, *stacks)]
    named = dict(zip(kind.shapes(), leaves[1:], strict=True))
    chunks = leaves[0].view(_ROWS, 2, -1).transpose(0, 1)
    with torch.enable_grad():
        out = kind.forward(named, chunks).transpose(0, 1).reshape(_ROWS, -1)
    found = torch.autograd.grad(out, leaves, g.double(), allow_unused=True, materialize_grads=True)
    names = ["gradient of its input", *(f"gradient of {name}" for name in kind.shapes())]
    return {"output": out.detach(), **dict(zip(names, found, strict=True))}


def _found(asked: _Asked, kind: Written, forward: Any, backward: Any) -> dict[str, Tensor]:
    """The same by the kernel: seeds whose blueprints take the place of their chunks, and train."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, g, *stacks = (each.to(device) for each in _numbers(kind))
    states = asked.mixing & asked.joint or asked.mixing
    code = (states & -states).bit_length() - 1
    codes = torch.full((2,), code, dtype=torch.int8, device=device)
    order = torch.arange(2, device=device).int()
    alpha, count = torch.ones(2, device=device), torch.full((1,), 2, device=device).int()
    seeds = (codes, torch.zeros_like(order), order, alpha, tuple(stacks))
    out, to_x, to_alpha = torch.empty_like(x), torch.empty_like(x), torch.zeros_like(alpha)
    given = {"replace": True, "tiles": forward.Tiles(), "carried": None}
    forward.forward(x, out, *seeds, 0, torch.zeros_like(order).long(), None, order, count, **given)
    to_stacks = tuple(torch.empty_like(stack) for stack in stacks)
    backward.backward(g, x, to_x, *seeds, to_stacks, to_alpha, 0, order, count, **given)
    found = {"output": out, "gradient of its input": to_x}
    if states & asked.joint:
        names = (f"gradient of {name}" for name in kind.shapes())
        found |= dict(zip(names, to_stacks, strict=True))
    return found


def _told(asked: _Asked, error: Exception) -> str:
    """Say why a kernel does not compile, with the line of the template or that it is the formula's."""
    last = list(_causes(error))[-1]
    what = f"{type(last).__name__}: {last}".strip().split("\n")[-1]
    return f"blueprint {asked.name!r}: its kernel cannot be compiled: {what}{place_of(error)}"


def place_of(error: BaseException) -> str:
    """The line of a made file that an error is about, and where that comes from, to be put behind it.

    Empty where the error is about none of the files that this process has made or found.
    """
    causes = list(_causes(error))
    for path, asked in _MADE.items():
        lines = [line for cause in causes if (line := _line_of(cause, path)) is not None]
        if lines:
            from kasmina_generator.kernels import making

            place = making.origin(_request(asked), path.stem.rpartition("_")[0], lines[-1])
            text = path.read_text().split("\n")[lines[-1] - 1].strip()
            return f"\n    {path}:{lines[-1]}: {text}\n    which comes from {place}"
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it comes from, the first of all last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line_of(error: BaseException, path: Path) -> int | None:
    """The line of a file at which an error was raised, or which a compiler says it is about."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    source, node = getattr(error, "src", None), getattr(error, "node", None)
    if isinstance(source, str) and node is not None:
        text = path.read_text()
        start = text.find(source)
        return text.count("\n", 0, start) + int(node.lineno) if start >= 0 else None
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return lines[-1] if lines else None
