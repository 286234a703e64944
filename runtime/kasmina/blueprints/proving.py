"""What a kind of a user's own must give, tried once where it shall grow, before anything is built.

Else a mistake in it would show epochs later, when the first seed germinates or the model is folded.

Legend: S seeds, N rows, `...` positions of a channel-first site.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kasmina.blueprints.pool import BlueprintPool
from kasmina.blueprints.registry import Blueprint
from kasmina.blueprints.shape import BlueprintError, SiteShape

_SEEDS, _EXAMPLES = 2, 3


def prove(kind: Blueprint, device: torch.device) -> None:
    """Try `kind` on a few rows of noise; the random streams stay where they are.

    Raises:
        BlueprintError: says which of its methods gave what, and what is legal.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        _prove_shapes(kind)
        stream = torch.Generator(device).manual_seed(0)
        rows = [_prove_init(kind, stream) for _ in range(_SEEDS)]
        _prove_rest(kind)
        if kind.shape.channels_first and kind.shape.layout is None:
            return  # positions are not known
        params = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        x = _noise(kind.shape, stream)
        made = _prove_forward(kind, params, x)
        _prove_output(kind, params, x, made)
        _prove_export(kind, params, x, made)


def _prove_shapes(kind: Blueprint) -> None:
    with _trying(kind, "shapes"):
        shapes = kind.shapes()
    legal = isinstance(shapes, Mapping) and bool(shapes)
    for name, shape in shapes.items() if legal else ():
        word = isinstance(name, str) and name.isidentifier()
        sizes = isinstance(shape, tuple) and all(type(n) is int and n > 0 for n in shape)
        legal = legal and word and sizes
    if not legal:
        raise _refused(
            kind, "shapes", f"gave {shapes!r:.200}", "{'weight': (3, 4)}, words and sizes from 1 on"
        )
    for name in shapes:
        if hasattr(BlueprintPool, name) or name in ("kind", "grown", "occupied"):
            taken = f"gave a parameter {name!r}, as something of its pool is called already"
            raise _refused(kind, "shapes", taken, "another name")


def _prove_init(kind: Blueprint, stream: torch.Generator) -> dict[str, Tensor]:
    with _trying(kind, "init"):
        fresh = kind.init(stream)
    wanted = kind.shapes()
    if not isinstance(fresh, Mapping) or set(fresh) != set(wanted):
        told = str(sorted(fresh)) if isinstance(fresh, Mapping) else type(fresh).__name__
        raise _refused(kind, "init", f"gave {told}", f"a tensor for each of {', '.join(wanted)}")
    for name, shape in wanted.items():
        value = fresh[name]
        fits = isinstance(value, Tensor) and value.shape == shape and value.is_floating_point()
        if not fits or not value.isfinite().all():
            told = "what is not finite" if fits else _form(value)
            raise _refused(kind, "init", f"gave {told} as {name!r}", f"finite floats {list(shape)}")
    return {name: fresh[name].detach() for name in wanted}


def _prove_rest(kind: Blueprint) -> None:
    with _trying(kind, "output"):
        names = kind.output()
    known = kind.shapes()
    if isinstance(names, str) or not names or not all(name in known for name in names):
        raise _refused(kind, "output", f"gave {names!r}", f"a tuple of {', '.join(known)}")
    with _trying(kind, "flops"):
        flops = kind.flops()
    if not isinstance(flops, int) or flops < 0:
        raise _refused(kind, "flops", f"gave {flops!r}", "a whole number from 0 on")


def _noise(shape: SiteShape, stream: torch.Generator) -> Tensor:
    positions = shape.layout[1:] if shape.channels_first and shape.layout else ()
    rows = _EXAMPLES * (shape.tokens or 1)
    lead = (_SEEDS, rows) if shape.placement == "inline" else (rows,)
    return torch.randn(*lead, shape.d_in, *positions, generator=stream, device=stream.device)


def _prove_forward(kind: Blueprint, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    version = x._version
    with torch.enable_grad(), _trying(kind, "forward"):
        made = kind.forward(leaves, x)
    wanted = _written(kind.shape, x)
    if not isinstance(made, Tensor) or made.shape != wanted or not made.is_floating_point():
        what = f"made {_form(made)} of x {list(x.shape)}"
        raise _refused(kind, "forward", what, f"floats {list(wanted)}, {_SEEDS} seeds first")
    if not made.requires_grad:
        raise _refused(kind, "forward", "gave no gradient", "torch's operations on its parameters")
    if x._version != version:
        raise _refused(kind, "forward", "wrote into x", "an output of its own")
    return made.detach()


def _prove_output(kind: Blueprint, params: Mapping[str, Tensor], x: Tensor, made: Tensor) -> None:
    """Else a seed that is folded in mid-ramp, by parameters times alpha, would be another one."""
    names = kind.output()
    with torch.no_grad(), _trying(kind, "forward"):
        half = kind.forward({n: p / 2 if n in names else p for n, p in params.items()}, x)
    if not torch.allclose(half, made / 2, rtol=1e-3, atol=1e-4):
        made_of = f"is not linear in {tuple(names)!r}, as output() says that it is"
        raise _refused(kind, "forward", made_of, "half of it where these are halved")


def _written(shape: SiteShape, x: Tensor) -> tuple[int, ...]:
    if shape.placement == "inline":
        return tuple(x.shape)
    known = shape.channels_first and shape.out_layout is not None
    positions = shape.out_layout[1:] if known and shape.out_layout else x.shape[2:]
    return (_SEEDS, len(x), shape.d_out, *positions)


def _prove_export(kind: Blueprint, params: Mapping[str, Tensor], x: Tensor, made: Tensor) -> None:
    with torch.no_grad(), _trying(kind, "export"):
        try:
            plain = kind.export({name: value[0] for name, value in params.items()})
        except NotImplementedError:  # a kind that is never folded says so
            return
        if not isinstance(plain, nn.Module):
            raise _refused(kind, "export", f"gave {_form(plain)}", "an nn.Module")
        found = plain.eval()(x[0] if kind.shape.placement == "inline" else x)
    same = isinstance(found, Tensor) and found.shape == made.shape[1:]
    if not same or not torch.allclose(found.to(made), made[0], rtol=1e-3, atol=1e-4):
        told = "other values" if same else _form(found)
        wanted = f"what forward computes of one seed, {list(made.shape[1:])}"
        raise _refused(kind, "export", f"gave a module that computes {told}", wanted)


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__


@contextmanager
def _trying(kind: Blueprint, method: str) -> Iterator[None]:
    try:
        yield
    except BlueprintError:
        raise
    except Exception as error:
        raise _refused(
            kind, method, f"raised {type(error).__name__}: {error}", "what Blueprint's table says"
        ) from error


def _refused(kind: Blueprint, method: str, what: str, legal: str) -> BlueprintError:
    place = kind.shape
    return BlueprintError(
        f"blueprint {kind.name!r}: {type(kind).__qualname__}.{method} {what}, where a seed reads "
        f"{place.d_in} and writes {place.d_out} features ({place.placement}); legal: {legal}"
    )
