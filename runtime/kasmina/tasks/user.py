"""A user's own task: `package.module:function`.

The function returns a `Task`, or model, loaders and loss, and is called again for each twin. So
it builds new ones in each call; it runs under seeded global streams and need take no seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kasmina.growth.task import Task, accuracy, seeded
from kasmina.tasks.importing import InvalidTask, resolve, told
from kasmina.tasks.loaders import LoaderData, describe

if TYPE_CHECKING:
    from kasmina.sites import Site

REQUIRED = ("model", "loaders", "loss")
OPTIONAL = ("metric", "sites", "layout", "epochs", "budget")
LEGAL = (
    "legal are a kasmina.growth.task.Task, (model, loaders, loss), or a mapping with the keys "
    f"{', '.join(REQUIRED)} and, if you like, {', '.join(OPTIONAL)}"
)


def load(name: str) -> Task:
    """Turn `package.module:function` into a task; the working folder is searched first.

    Raises:
        InvalidTask: it cannot be found or called, or returns something else.
        BadData: a loader cannot be used.
    """
    function = Function(name, resolve(name))
    made = function.call(seed=0)
    if isinstance(made, Task):
        return made
    parts = function.parts(made)
    _try_once(name, parts)
    default_sites = parts.sites or _every_linear(name, parts.model)
    try:
        return Task(
            name=name,
            build_model=function.model,
            build_data=lambda seed: LoaderData(
                function.parts(function.call(seed)).loaders, seed=seed, where=name
            ),
            loss=parts.loss,
            metric=parts.metric,
            metric_name=parts.metric_name,
            sites=lambda: default_sites,
            layout=parts.layout,
            default_epochs=parts.epochs,
            default_budget=parts.budget,
        )
    except ValueError as error:  # it names the task and the field
        raise InvalidTask(str(error)) from error


@dataclass(frozen=True)
class Parts:
    """What a function returned, once it is known to be of the right kinds."""

    model: nn.Module
    loaders: tuple[Iterable[object], ...]
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor, Tensor], float]
    metric_name: str = "score"
    sites: tuple[Site, ...] = ()
    layout: tuple[int | str, ...] | None = None
    epochs: int = 20
    budget: int | None = None


class Function:
    """The user's function and the models that it has given so far."""

    def __init__(self, name: str, function: Callable[[], object]) -> None:
        self.name, self._function = name, function
        self._given: WeakSet[nn.Module] = WeakSet()

    def call(self, seed: int) -> object:
        """Call it under streams of this seed."""
        with told(self.name, "the function"), seeded(seed):
            return self._function()

    def model(self, seed: int, width: int | None = None) -> nn.Module:
        """Build a model from this seed; raises InvalidTask if it is not a new one."""
        if width is not None:
            raise InvalidTask(
                f"task {self.name!r}: width {width} was asked for, but a user's function builds "
                "one width: leave --width out, or return a Task with widths=True"
            )
        return self.parts(self.call(seed)).model

    def parts(self, made: object) -> Parts:
        """Read what the function returned; raises InvalidTask for anything else."""
        values = _mapping(self.name, made)
        model = _kind(self.name, "model", values["model"], nn.Module)
        if model in self._given:
            raise InvalidTask(
                f"task {self.name!r}: two calls returned the same model, so a twin would share "
                "its parameters; build a new one in each call"
            )
        self._given.add(model)
        return _parts(self.name, values)


def _mapping(name: str, made: object) -> Mapping[str, Any]:
    if isinstance(made, tuple) and len(made) == len(REQUIRED):
        return dict(zip(REQUIRED, made, strict=True))
    if not isinstance(made, Mapping):
        raise InvalidTask(f"task {name!r}: the function returned {describe(made)}; {LEGAL}")
    unknown = [key for key in made if key not in REQUIRED + OPTIONAL]
    missing = [key for key in REQUIRED if key not in made]
    if unknown or missing:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has {unknown[0]!r}"
        raise InvalidTask(f"task {name!r}: the mapping that the function returned {wrong}; {LEGAL}")
    return made


def _parts(name: str, values: Mapping[str, Any]) -> Parts:
    loaders = _kind(name, "loaders", values["loaders"], tuple, list)
    if len(loaders) not in (2, 3):
        raise InvalidTask(
            f"task {name!r}: 'loaders' is {describe(loaders)}; legal are (train, validation) and "
            "(train, validation, test)"
        )
    loss = values["loss"]
    metric = values.get("metric", default_metric)
    for key, value in (("loss", loss), ("metric", metric)):
        if not callable(value):
            raise InvalidTask(
                f"task {name!r}: {key!r} is {describe(value)}; legal is a function of (output, "
                "target)"
            )
    layout = values.get("layout")
    return Parts(
        model=_kind(name, "model", values["model"], nn.Module),
        loaders=tuple(loaders),
        loss=loss,
        metric=metric,
        metric_name=str(getattr(values.get("metric"), "__name__", Parts.metric_name)),
        sites=tuple(_kind(name, "sites", values.get("sites", ()), tuple, list)),
        layout=None if layout is None else tuple(_kind(name, "layout", layout, tuple, list)),
        epochs=_kind(name, "epochs", values.get("epochs", Parts.epochs), int),
        budget=_kind(name, "budget", values.get("budget"), int, type(None)),
    )


def _kind(name: str, key: str, value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        legal = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise InvalidTask(
            f"task {name!r}: {key!r} is {describe(value)}; it must be of the type {legal}"
        )
    return value


def _try_once(name: str, parts: Parts) -> None:
    """Put one batch through model, loss and metric, so that a misfit shows before the run."""
    _refuse_unready(name, parts)
    data = LoaderData(parts.loaders, seed=0, where=name)
    x, y = data.train.next_batch()
    with torch.enable_grad(), seeded(0):
        with told(name, f"the model, on inputs of shape {list(x.shape)},"):
            output = parts.model(x)
        with told(name, f"the loss, on targets of shape {list(y.shape)},"):
            loss = parts.loss(output, y)
        with told(name, f"the metric, on targets of shape {list(y.shape)},"):
            metric = parts.metric(output.detach() if isinstance(output, Tensor) else output, y)
    if not isinstance(loss, Tensor) or loss.dim():
        raise InvalidTask(
            f"task {name!r}: the loss is {_shown(loss)}; legal is a 0-d tensor, a mean"
        )
    if not loss.requires_grad:
        raise InvalidTask(
            f"task {name!r}: the loss does not depend on any parameter that trains, so nothing could "
            "be learned; return a loss with its graph (no .detach(), .item() or torch.no_grad()) and "
            "leave parameters unfrozen"
        )
    if not isinstance(metric, float) or not 0.0 <= metric <= 1.0:
        raise InvalidTask(
            f"task {name!r}: the metric is {_shown(metric)}; legal is a float from 0 to 1, where "
            "higher is better"
        )


def _refuse_unready(name: str, parts: Parts) -> None:
    from kasmina.sites import Site

    odd = next((site for site in parts.sites if not isinstance(site, Site)), None)
    if odd is not None:
        raise InvalidTask(
            f"task {name!r}: 'sites' holds {describe(odd)}; legal are kasmina.Site, like "
            "kasmina.Site('blocks.*')"
        )
    lazy = [n for n, p in parts.model.named_parameters() if is_lazy(p)]
    if lazy:
        raise InvalidTask(
            f"task {name!r}: the model has parameters that are not initialised yet: "
            f"{', '.join(lazy[:3])}; run it once on a batch before you return it"
        )


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return str(value) if isinstance(value, float) else describe(value)


def default_metric(output: Tensor, target: Tensor) -> float:
    """Accuracy for class indices, else the share of the target's variance that is explained.

    Args:
        output: logits [B, ..., classes] or [B, classes, ...], or values of the target's shape.
        target: class indices [B, ...], or values.

    Returns:
        A score in [0, 1]; an output that explains less than the target's mean scores 0.

    Raises:
        ValueError: the shapes fit neither.
    """
    if not target.is_floating_point() and output.shape[:-1] == target.shape:
        return accuracy(output, target)
    if not target.is_floating_point() and output.dim() == target.dim() + 1:
        return accuracy(output.movedim(1, -1), target)
    if target.is_floating_point() and output.shape == target.shape:
        error = (output.detach() - target).double().square().mean()
        return float((1.0 - error / target.double().var(correction=0)).clamp(0.0, 1.0).nan_to_num())
    raise ValueError(
        f"no metric is known for outputs {list(output.shape)} and targets {list(target.shape)} "
        f"of {target.dtype}: return a mapping with a 'metric' of your own"
    )


def _every_linear(name: str, model: nn.Module) -> tuple[Site, ...]:
    """A parallel site at every linear map but the last one, whose outputs are the answer."""
    from kasmina.sites import Site

    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if len(linear) < 2:
        raise InvalidTask(
            f"task {name!r}: the model has {len(linear)} linear maps, and sites are placed at all "
            "but the last: return a mapping with 'sites' that says where it may grow"
        )
    return tuple(Site(path, placement="parallel", seeds=4, blueprint="mlp") for path in linear[:-1])
