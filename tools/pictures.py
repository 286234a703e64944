"""Draw the pictures of docs/performance.md: curves and rooflines.

    .venv/bin/kasmina bench curves --json > curves.json
    .venv/bin/python -m tools.pictures curves.json [--name cpu]       # or gpu_bench.json
    .venv/bin/python -m tools.pictures docs/figures/h200.json

needs matplotlib, which the dev environment has. A file of rows gives `docs/images/NAME_<axis>.svg`
for each axis of `kasmina bench curves`, and `NAME_roofline.svg` where rows tell FLOP and bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
AXES = {"seeds": "log", "share, %": "linear", "width": "log"}
PEAK = 790.0  # TFLOP/s of bf16 products on random data, where no row measured it
Row = dict[str, Any]


def curves(rows: list[Row], name: str) -> None:
    """A picture an axis: microseconds of each direction, and of a copy of the tensor."""
    for axis, scale in AXES.items():
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            at = row["baselines"].get(axis)
            if at is not None:
                direction = "backward" if ", backward, " in row["name"] else "forward"
                lines.setdefault(direction, []).append((at, row["value"]))
                if direction == "forward":
                    copied = (at, row["baselines"]["copy_, us"])
                    lines.setdefault("copy_ of the tensor", []).append(copied)
        if lines:
            _curve(lines, axis, scale, IMAGES / f"{name}_{axis.partition(',')[0]}.svg")


def _curve(lines: dict[str, list[tuple[float, float]]], axis: str, scale: str, to: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for label, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", ms=3, label=label)
    _label(axes, {"share, %": "active seeds, %", "width": "features of a chunk"}.get(axis, axis))
    axes.set_xscale(scale)
    if scale == "log":
        axes.set_xticks(measured := sorted({at for at, _ in next(iter(lines.values()))}))
        axes.set_xticklabels([f"{at:g}" for at in measured])
        axes.xaxis.set_minor_locator(NullLocator())
    _save(figure, to)


def roofline(points: dict[str, tuple[float, float]], copy: float, peak: float, to: Path) -> None:
    """TFLOP/s over FLOP a byte, below the two ceilings.

    Args:
        points: by label FLOP a byte and TFLOP/s.
        copy: TB/s of a copy.
        peak: TFLOP/s of a matrix product.
        to: the picture.
    """
    figure, axes = plt.subplots(figsize=(9, 3.8))
    span = [0.5, 2000.0]
    axes.plot(span, [min(copy * x, peak) for x in span], alpha=0)
    bend = peak / copy
    axes.plot([span[0], bend, span[1]], [copy * span[0], peak, peak], color="black", lw=1)
    axes.text(span[0] * 1.2, copy * span[0] * 6, f"copy: {copy:.2f} TB/s", fontsize=8)
    axes.text(span[1], peak * 0.55, f"bf16 products: {peak:.0f} TFLOP/s", fontsize=8, ha="right")
    for label, (x, y) in points.items():
        axes.plot(x, y, "o" if "forward" in label else "s", ms=5, label=label)
    _label(axes, "FLOP a byte that must move")
    axes.set_ylabel("TFLOP/s")
    axes.set_xscale("log")
    _save(figure, to)


def of_rows(rows: list[Row], name: str) -> None:
    """A roofline of the rows that tell FLOP and bytes."""
    points = {}
    for row in rows:
        beside = row["baselines"]
        if "GFLOP" in beside:
            flop, us = beside["GFLOP"] * 1e9, beside["ours, us"]
            points[row["name"]] = (flop / (beside["MB"] * 1e6), flop / us / 1e6)
    if not points:
        return
    roofs = {row["unit"]: row["value"] for row in rows if row["name"].startswith("roof")}
    copy = next(r["baselines"]["copy bandwidth, TB/s"] for r in rows if "GFLOP" in r["baselines"])
    to = IMAGES / f"{name}_roofline.svg"
    roofline(points, roofs.get("TB/s", copy), roofs.get("TFLOP/s", PEAK), to)


def _label(axes: Axes, x: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel("us")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


def _save(figure: Any, to: Path) -> None:
    few = len(figure.axes[0].get_legend_handles_labels()[0]) <= len(AXES)
    beside = {} if few else {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    figure.axes[0].legend(fontsize=7, **beside)
    figure.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(to, metadata={"Date": None})
    plt.close(figure)
    sys.stdout.write(f"{to}\n")


def main() -> int:
    """Draw what the file has."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--name", default="h200", help="first word of the pictures' names")
    given = parser.parse_args()
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "kasmina"  # the same figures give the same bytes
    held = json.loads(given.file.read_text())
    curves(held["rows"], given.name)
    of_rows(held["rows"], given.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
