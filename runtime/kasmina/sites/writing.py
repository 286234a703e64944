"""A plain model as a file of its own: source that imports torch only, and weights beside it.

`torch.export` traces the model, and what it gives is written down as Python: one line an operation,
weights by their names. So whatever the host's code does, nothing of it is needed to load the file.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection, export
from torch.export.graph_signature import (
    ConstantArgument,
    InputKind,
    InputSpec,
    OutputKind,
    TensorArgument,
)
from torch.fx import Node
from torch.utils import _pytree as pytree

from kasmina.sites.errors import SiteError
from kasmina.sites.example import Example

SOURCE, WEIGHTS = "model.py", "model.safetensors"
_TENSORS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_KNOWN = {"torch", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree"}  # names in fx's code
_TEXT = '''\
"""A network that was grown by kasmina and folded. It needs torch alone.

    import model
    network = model.load()  # with the weights in {weights}
    output = network({inputs})

It computes what the network computed in evaluation mode{sizes}.
"""

from math import inf, nan  # noqa: F401
from operator import attrgetter
from pathlib import Path

import torch
from torch import device  # noqa: F401

# Name in the state dict, shape, dtype, whether it is a parameter that trains.
TENSORS = [
{tensors}
]


class Model(torch.nn.Module):
    """The network; its weights are undefined until a state dict is loaded."""

    def __init__(self):
        super().__init__()
        for name, shape, dtype, trains in TENSORS:
            _put(self, name, torch.zeros(shape, dtype=dtype), trains)

    def forward(self, {inputs}):
        """As the folded network's."""
        return compute(*(attrgetter(name)(self) for name, *_ in TENSORS), {inputs})


def load(directory=Path(__file__).parent):
    """The network with its weights."""
    from safetensors.torch import load_file

    model = Model()
    model.load_state_dict(load_file(Path(directory) / {weights!r}))
    return model.eval()


def _put(module, name, tensor, trains):
    *path, last = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, torch.nn.Module())
        module = module._modules[part]
    if trains is None:
        module.register_buffer(last, tensor)
    else:
        module.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=trains))


{compute}
'''


class _Held(NamedTuple):
    """A tensor that the model holds, as the file's table has it."""

    name: str
    value: Tensor
    trains: bool | None  # None for a buffer

    def row(self) -> str:
        shape = tuple(self.value.shape)
        return f"    ({self.name!r}, {shape}, {self.value.dtype}, {self.trains}),"


class _Name(str):
    """A name in code."""

    def __repr__(self) -> str:
        return str(self)


def write(model: nn.Module, directory: Path | str, example: Example) -> Path:
    """Write `model.py` and `model.safetensors`, from which a plain model can be loaded.

    The files appear whole, or not at all. The model keeps its device; the first axis of each input
    may have any size, unless the model's own code needs the example's.

    Args:
        model: plain, as `fold` gives it; it is not changed.
        directory: is made where it does not exist.
        example: one batch, a tensor, a tuple of tensors or a mapping of keywords.

    Returns:
        The path of the source.

    Raises:
        SiteError: the model does what cannot be written down as operations of torch on tensors.
    """
    program = _exported(model, example)
    held = [_held(program, spec) for spec in _specs(program, *_TENSORS)]
    files = {SOURCE: _source(program, held).encode()}
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights = {each.name: each.value.detach().cpu().contiguous().clone() for each in held}
    new = {name: directory / f".{name}.new" for name in (WEIGHTS, SOURCE)}
    save_file(weights, new[WEIGHTS])
    new[SOURCE].write_bytes(files[SOURCE])
    for name, path in new.items():
        path.replace(directory / name)
    return directory / SOURCE


def _exported(model: nn.Module, example: Example) -> ExportedProgram:
    args, kwargs = _arguments(example)
    sizes = ShapesCollection()  # type: ignore[no-untyped-call]  # as below: torch has no types here
    for each in (*args, *kwargs.values()):
        if each.dim():
            sizes[each] = {0: Dim.AUTO}
    modes = [(module, module.training) for module in model.modules()]
    try:
        with _expected_warnings(), torch.no_grad():
            model.eval()
            shapes = sizes.dynamic_shapes(model, args, kwargs)  # type: ignore[no-untyped-call]
            found: ExportedProgram = export(model, args, kwargs, dynamic_shapes=shapes)
            return found.run_decompositions({})  # type: ignore[no-any-return]
    except Exception as error:  # whatever the model's own code may raise, too
        raise SiteError(
            f"{type(model).__name__} cannot be written as a file, since torch.export cannot trace "
            f"it: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training


def _arguments(example: Example) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The example's tensors; two examples where it has only one, which tells no batch from a 1."""
    args = () if isinstance(example, Mapping) else example
    args = args if isinstance(args, tuple) else (args,)
    kwargs = dict(example) if isinstance(example, Mapping) else {}
    given = [*args, *kwargs.values()]
    for each in given:
        if not isinstance(each, Tensor):
            raise SiteError(
                f"a model that is written as a file takes tensors; the example holds a "
                f"{type(each).__name__}. Wrap the model in one whose forward gives the rest itself"
            )
    if all(each.dim() and len(each) == 1 for each in given):
        return tuple(torch.cat([x, x]) for x in args), {
            name: torch.cat([x, x]) for name, x in kwargs.items()
        }
    return args, kwargs


@contextmanager
def _expected_warnings() -> Iterator[None]:
    """Torch's own, on what its exporter does: nothing that a user could mend."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*", FutureWarning)
        warnings.filterwarnings("ignore", ".*were assigned during export.*", UserWarning)
        yield


def _specs(program: ExportedProgram, *kinds: InputKind) -> list[InputSpec]:
    return [spec for spec in program.graph_signature.input_specs if spec.kind in kinds]


def _held(program: ExportedProgram, spec: InputSpec) -> _Held:
    name = spec.target
    assert name is not None  # of everything that a model holds
    held = program.state_dict if name in program.state_dict else program.constants
    value: Tensor = held[name]
    trains = value.requires_grad if spec.kind is InputKind.PARAMETER else None
    return _Held(name, value, trains)


def _source(program: ExportedProgram, held: list[_Held]) -> str:
    _refuse_untold(program)
    given = _specs(program, InputKind.USER_INPUT)
    inputs = [s.arg.name for s in given if not isinstance(s.arg, ConstantArgument)]
    code = program.graph_module.graph.python_code("self")
    foreign = set(code.globals) - _KNOWN
    if foreign:
        raise _unwritable(f"its code needs {', '.join(sorted(foreign))}")
    return _TEXT.format(
        weights=WEIGHTS,
        inputs=", ".join(inputs),
        sizes=_sizes(program),
        tensors="\n".join(each.row() for each in held),
        compute=_compute(program, code.src),
    )


def _compute(program: ExportedProgram, source: str) -> str:
    """Fx's code as a function, which gives its results in the form in which the model does."""
    names = [_Name(spec.arg.name) for spec in program.graph_signature.output_specs]
    out_spec = program.call_spec.out_spec
    assert out_spec is not None
    made = pytree.tree_unflatten(names, out_spec)
    _refuse_form(made)
    head, _, _ = source.strip().rpartition("\n    return ")
    return head.replace("def forward(self, ", "def compute(") + f"\n    return {made!r}"


def _sizes(program: ExportedProgram) -> str:
    """What the file says of the inputs' sizes."""
    graph, inputs = program.graph_module.graph, program.graph_signature.user_inputs
    told = [
        f"{node.name} [{', '.join(map(_size, node.meta['val'].shape))}]"
        for node in graph.find_nodes(op="placeholder")
        if node.name in inputs
    ]
    return f", for inputs\n{', '.join(told)}"


def _size(axis: int | torch.SymInt) -> str:
    return str(axis) if isinstance(axis, int) else "any"


def _refuse_untold(program: ExportedProgram) -> None:
    """Refuse what is no operation of torch's on tensors that are given or held."""
    signature = program.graph_signature
    for spec in signature.input_specs:
        if spec.kind not in (*_TENSORS, InputKind.USER_INPUT):
            raise _unwritable(f"its forward takes {spec.arg.name}, which is no tensor")
    for spec in signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise _unwritable(f"its forward writes into {spec.target}, in evaluation mode too")
        if not isinstance(spec.arg, TensorArgument):
            raise _unwritable("its forward returns what is no tensor")
    for node in program.graph_module.graph.find_nodes(op="get_attr"):
        raise _unwritable(f"it has a part of its own, {node.target}, such as a branch or a mode")
    for node in program.graph_module.graph.nodes:
        if node.op == "call_function" and not _is_torchs(node):
            raise _unwritable(f"it calls {node.target}, which torch alone does not have")


def _is_torchs(node: Node) -> bool:
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target.namespace in ("aten", "prim", "prims")
    return getattr(node.target, "__module__", "") in (operator.__name__, "_operator", "torch")


def _refuse_form(made: Any) -> None:
    """Refuse outputs that cannot be written as literals of names."""
    if type(made) in (tuple, list):
        for each in made:
            _refuse_form(each)
    elif type(made) is dict:
        _refuse_form(list(made.values()))
    elif not isinstance(made, _Name):
        raise _unwritable(f"its forward returns a {type(made).__name__}")


def _unwritable(why: str) -> SiteError:
    return SiteError(
        f"the model cannot be written as a file: {why}. Fold it without to=, and save its state "
        "dict beside your own code"
    )
