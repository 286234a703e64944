"""What a run has come to: as JSON, as a table, and the network that grew."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich.table import Table

from kasmina.observe.folder import write_atomically

if TYPE_CHECKING:
    from rich.console import Console

    from kasmina.growth import RunResult
    from kasmina.observe.folder import RunFolder


def summary(result: RunResult) -> dict[str, Any]:
    """Return what `--json` prints; a figure that is not known is null."""
    plain = {
        field.name: getattr(result, field.name) for field in fields(result) if field.name != "model"
    }
    plain["comparisons"] = [
        {field.name: _known(getattr(each, field.name)) for field in fields(each)}
        for each in result.comparisons
    ]
    return {name: _known(value) for name, value in plain.items()}


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_network(result: RunResult, folder: RunFolder) -> None:
    """Write the network that grew, as a plain one without seeds."""
    from safetensors.torch import save

    from kasmina.sites import fold

    state = fold(result.model).state_dict()
    apart = {name: value.contiguous().clone() for name, value in state.items()}  # tied ones share
    write_atomically(folder.model, save(apart))


def tell(console: Console, result: RunResult, folder: RunFolder) -> None:
    """Print it."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("", "parameters", "test", "train GFLOP", "wall"):
        table.add_column(heading, justify="left" if not heading else "right")
    grown = ("grown", result.params_final, result.test_metric, result.train_flops, result.wall_s)
    others = [
        (each.name, each.parameters, each.test_metric, each.train_flops, each.wall_s)
        for each in result.comparisons
    ]
    for name, parameters, metric, flops, wall in (grown, *others):
        table.add_row(
            name, f"{parameters:,}", f"{metric:.2%}", f"{flops / 1e9:.2f}", f"{wall:.1f} s"
        )
    console.print()
    console.print(table)
    seeds = ", ".join(f"{count} {name}" for name, count in result.states.items())
    console.print(f"\ngrew from {result.params_start:,} parameters; seeds: {seeds}")
    console.print(f"report: {folder.report}", soft_wrap=True)
    if result.status != "finished":
        console.print(f"{result.status}: the figures are those of the network as it stands")
    if isinstance(result.test_metric, float) and math.isnan(result.test_metric):
        console.print("the task has no test split, so nothing was measured on one")
