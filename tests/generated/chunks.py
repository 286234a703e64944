"""Cases of the inline kernels, and what they have to give: a plain loop over the chunks in float64.

Legend: N rows, F features, S chunks, C the widest chunk's width, H hidden units, K rows of a pool.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kasmina.blueprints import Blueprint, SiteShape, blueprint_kind
from kasmina.kernels.mixing import blend, guard
from kasmina.lifecycle import Lifecycle
from kasmina_generated.kernels.catalogue import TEXTS
from kasmina_generated.kernels.sample import gather
from kasmina_generated.kernels.tiling import Tiles, new_measures

KIND = 1  # number of the kind at its site; the others have 0 and 2
UNTOUCHED = 7.0
FAR = 1_000_000  # a row of another kind's pool, far behind this one's
CODES = 11
KERNELS = {
    text: [
        getattr(importlib.import_module(f"kasmina_generated.kernels.inline_{text}_{name}"), name)
        for name in ("forward", "backward")
    ]
    for text in TEXTS
}
# Sums of some hundred float32 terms; lower dtypes round weights, x, hidden units, B and result.
TOLERANCE = {
    torch.float32: 64 * 2.0**-23,
    torch.float16: 4 * 2.0**-10,
    torch.bfloat16: 4 * 2.0**-7,
}
CANCELLED = 8.0  # size of sums over rows before they cancel
SMALL = Tiles(rows=16, columns=16, programs=20)  # several strips, splits and steps of little data


@dataclass(frozen=True)
class Case:
    """Sizes and choices; all numbers are drawn from `seed`."""

    n: int
    chunks: int
    features: int
    hidden: int = 8
    dtype: torch.dtype = torch.float32
    replace: bool = False
    listed: bool = False  # in place, and only the chunks of a list
    strided: bool = False
    broken: bool = False  # with NaN and infinities in x and in the parameters
    mixed: bool = True  # at least one chunk is, and one is not
    tiles: Tiles = field(default_factory=Tiles)
    seed: int = 0

    @property
    def width(self) -> int:
        """Columns of the widest chunk."""
        return -(-self.features // self.chunks)

    def slices(self) -> Iterator[slice]:
        """Yield the columns of each chunk."""
        narrow, wider = divmod(self.features, self.chunks)
        start = 0
        for chunk in range(self.chunks):
            stop = start + narrow + (chunk < wider)
            yield slice(start, stop)
            start = stop


class Inputs(NamedTuple):
    """What both passes read."""

    x: Tensor
    g: Tensor
    codes: Tensor
    kinds: Tensor
    rows: Tensor
    alpha: Tensor
    parameters: tuple[Tensor, ...]
    mixed: Tensor  # bool [S], what the kernels have to find out
    joint: Tensor


class Results(NamedTuple):
    """What both passes write."""

    out: Tensor
    nonfinite: Tensor
    sample: Tensor
    gx: Tensor
    gradients: tuple[Tensor, ...]
    alpha_gradient: Tensor


def kind_of(text: str, case: Case) -> Blueprint:
    """Return the kind of a text, for the widest chunk."""
    shape = SiteShape("inline", case.width, case.width)
    return blueprint_kind(TEXTS[text].kind)(shape, case.hidden, **TEXTS[text].options)


def inputs_of(kind: Blueprint, case: Case) -> Inputs:
    """Draw the inputs of a case: all states, codes of none, all kinds, rows, and ends of alpha."""
    random = torch.Generator().manual_seed(case.seed)
    s, pool = case.chunks, case.chunks + 2

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    codes = torch.randint(-1, CODES + 1, (s,), generator=random)
    codes[codes == CODES] = 99
    kinds = torch.randint(0, 3, (s,), generator=random)
    kinds[torch.rand(s, generator=random) < 0.5] = KIND
    rows = torch.randperm(pool, generator=random)[:s]
    rows[1:][torch.rand(s - 1, generator=random) < 0.1] = -1
    if case.mixed:  # the first is mixed and jointly trained, the last sleeps
        codes[0], kinds[0], codes[1:][-1:] = 3, KIND, 0
    rows[(kinds != KIND) & (rows >= 0)] = FAR
    alpha = torch.tensor([0.0, 1.0, 0.3, 0.7])[torch.randint(0, 4, (s,), generator=random)]
    x, g = (normal(case.features, case.n).T for _ in "xg")
    if not case.strided:
        x, g = x.contiguous(), g.contiguous()
    shapes = kind.shapes().values()
    parameters = [normal(pool, *shape) / shape[-1] ** 0.5 for shape in shapes]
    if case.broken and case.n:
        _break(x, parameters, random)
    known = (codes >= 0) & (codes < CODES)
    mixed = known & _has("plane", ("blend", "full", "withdraw"), codes) & (rows >= 0)
    mixed &= kinds == KIND
    return Inputs(
        x=x.to(case.dtype),
        g=g.to(case.dtype),
        codes=codes.to(torch.int8),
        kinds=kinds.to(torch.int16),
        rows=rows.to(torch.int32),
        alpha=alpha,
        parameters=tuple(p.to(case.dtype).contiguous() for p in parameters),
        mixed=mixed,
        joint=mixed & _has("trains", ("joint",), codes),
    )


def _has(attribute: str, values: tuple[str, ...], codes: Tensor) -> Tensor:
    lifecycle = Lifecycle.default()
    found = lifecycle.attribute_of(attribute, codes.clamp(0, CODES - 1))
    wanted = torch.tensor([lifecycle.attribute_code(attribute, value) for value in values])
    return torch.isin(found, wanted)


def _break(x: Tensor, parameters: list[Tensor], random: torch.Generator) -> None:
    """Put NaN and infinities into some rows and columns, and into some rows of the pool."""
    bad = torch.tensor([float("nan"), float("inf"), -float("inf")])
    for tensor in (x, *parameters):
        flat = tensor.view(-1) if tensor.is_contiguous() else tensor.T.reshape(-1)
        places = torch.randint(len(flat), (2,), generator=random)
        for place in places.tolist():
            index = torch.unravel_index(torch.tensor(place), tensor.shape)
            tensor[index] = bad[torch.randint(3, (), generator=random)]


def run(text: str, case: Case, inputs: Inputs) -> Results:
    """Run both kernels; what they have to write is full of NaN, what they must leave of sevens."""
    forward, backward = KERNELS[text]
    x, g = inputs.x.clone(), inputs.g.clone()
    seeds = (inputs.codes, inputs.kinds, inputs.rows, inputs.alpha, inputs.parameters)
    nan = float("nan")
    out, gx = (x, g.clone()) if case.listed else (torch.full_like(x, nan), torch.full_like(g, nan))
    order = torch.argsort(~inputs.mixed, stable=True).int()
    count = inputs.mixed.sum().int().view(1)
    nonfinite = torch.ones(case.chunks, dtype=torch.int64)
    sample = torch.full((case.chunks, 4), UNTOUCHED)
    gradients = tuple(torch.full(p.shape, UNTOUCHED) for p in inputs.parameters)
    alpha_gradient = torch.full((case.chunks,), UNTOUCHED)
    how: dict[str, Any] = {"replace": case.replace, "tiles": case.tiles}
    how["carried"] = None if case.listed else case.tiles
    if not case.listed:
        _fill_others(inputs, case, (x, out), (g, gx))
    measures = None if case.listed else new_measures(x)
    if measures is not None:
        measures.fill_(nan)
        measures[-1] = 0  # of chunks that nobody measures
    forward(x, out, *seeds, KIND, nonfinite, measures, order, count, **how)
    if measures is not None:
        gather(out, measures, sample)
    backward(g, inputs.x, gx, *seeds, gradients, alpha_gradient, KIND, order, count, **how)
    return Results(out, nonfinite, sample, gx, gradients, alpha_gradient)


def _fill_others(inputs: Inputs, case: Case, *pairs: tuple[Tensor, Tensor]) -> None:
    """Do for mixed chunks of other kinds what their launches would: here, nothing."""
    for chunk, columns in enumerate(case.slices()):
        if _others(inputs)[chunk]:
            for source, to in pairs:
                to[:, columns] = source[:, columns]


def _others(inputs: Inputs) -> Tensor:
    """Bool [S]: the chunks that are mixed with other kinds."""
    others = _has("plane", ("blend", "full", "withdraw"), inputs.codes.long())
    others &= (inputs.codes >= 0) & (inputs.codes < CODES) & (inputs.rows >= 0)
    return others & (inputs.kinds != KIND)


def wanted(kind: Blueprint, case: Case, inputs: Inputs) -> Results:
    """Return what a loop over the chunks gives, in float64 with the kind's own forward."""
    out, gx = inputs.x.double(), inputs.g.double()
    nonfinite = torch.ones(case.chunks, dtype=torch.int64)
    gradients = tuple(torch.zeros(p.shape).double() for p in inputs.parameters)
    alpha_gradient = torch.full((case.chunks,), UNTOUCHED if case.listed else 0.0).double()
    for chunk, columns in enumerate(case.slices()):
        if inputs.mixed[chunk]:
            row = int(inputs.rows[chunk])
            found = _chunk(kind, case, inputs, columns, row, inputs.alpha[chunk])
            out[:, columns], gx[:, columns] = found.out, found.gx
            nonfinite[chunk] += found.nonfinite
            alpha_gradient[chunk] = found.alpha
            for gradient, value in zip(gradients, found.parameters, strict=True):
                if inputs.joint[chunk]:
                    gradient[row] = value
    sample = measured(case, out.to(case.dtype), inputs)
    return Results(out, nonfinite, sample, gx, gradients, alpha_gradient)


class _Found(NamedTuple):
    out: Tensor
    nonfinite: int
    gx: Tensor
    parameters: list[Tensor]
    alpha: Tensor


def _chunk(
    kind: Blueprint, case: Case, inputs: Inputs, columns: slice, row: int, alpha: Tensor
) -> _Found:
    """One chunk, padded with zeros to the widest."""
    width = columns.stop - columns.start
    x = inputs.x[:, columns].double().requires_grad_()
    leaves = [p[row].double().requires_grad_() for p in inputs.parameters]
    weight = alpha.double().view(1).requires_grad_()
    padded = torch.nn.functional.pad(guard(x), (0, case.width - width))
    named = dict(zip(kind.shapes(), (guard(leaf).unsqueeze(0) for leaf in leaves), strict=True))
    made = kind.forward(named, padded.unsqueeze(0))[:, :, :width]
    overflows = ~made.detach().to(case.dtype).isfinite()
    made = made.masked_fill(overflows, float("nan"))
    mixed, counts = blend(x.unsqueeze(0), made, weight, case.replace)
    torch.autograd.backward(mixed[0], inputs.g[:, columns].double())
    gradients = [leaf.grad for leaf in (x, weight, *leaves)]
    gx, to_alpha, *parameters = (g if g is not None else torch.zeros(()) for g in gradients)
    return _Found(mixed[0].detach(), int(counts), gx, parameters, to_alpha[0])


def measured(case: Case, result: Tensor, inputs: Inputs) -> Tensor:
    """Return sum, sum of squares, maximum and non-finite elements of each chunk."""
    found = torch.full((case.chunks, 4), UNTOUCHED).double()
    others = _others(inputs)
    for chunk, columns in enumerate(case.slices()):
        v = result[:, columns].double()
        if not case.listed and others[chunk]:  # nobody has measured it
            found[chunk] = torch.tensor([0.0, 0.0, -torch.inf, 0.0])
        elif not case.listed:
            most = v.max() if v.numel() else torch.tensor(-torch.inf)
            lost = (~v.isfinite()).sum()
            found[chunk] = torch.stack([v.sum(), v.square().sum(), most, lost.double()])
    return found


def differences(
    found: Results, want: Results, names: Mapping[str, Any], dtype: torch.dtype
) -> list[str]:
    """Return what is not the same, by name; finite numbers up to rounding, all others exactly."""
    pairs = {
        "out": (found.out, want.out),
        "sample": (found.sample, want.sample),
        "gx": (found.gx, want.gx),
        "alpha": (found.alpha_gradient, want.alpha_gradient),
        **dict(zip(names, zip(found.gradients, want.gradients, strict=True), strict=True)),
    }
    told = [
        f"{name}: {fault}"
        for name, pair in pairs.items()
        if (fault := _fault(*pair, dtype, 1.0 if name in ("out", "gx") else CANCELLED))
    ]
    if not torch.equal(found.nonfinite, want.nonfinite):
        told.append(f"nonfinite: {found.nonfinite.tolist()}, not {want.nonfinite.tolist()}")
    return told


def _fault(found: Tensor, want: Tensor, dtype: torch.dtype, least: float) -> str:
    """Say what differs; the tolerance is of the largest number, which the sums are made of.

    `least`: what they are made of at least, where the largest number may have cancelled.
    """
    found, want = found.double(), want.double()
    finite = want.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return f"finite at {int(found.isfinite().sum())} places, not at {int(finite.sum())}"
    special = torch.equal(found[~finite].nan_to_num(0.5), want[~finite].nan_to_num(0.5))
    if not special:
        return "other infinities"
    if not finite.any():
        return ""
    error = float((found - want)[finite].abs().max())
    limit = TOLERANCE[dtype] * max(least, float(want[finite].abs().max()))
    return "" if error <= limit else f"off by {error:.2e}, more than {limit:.2e}"
