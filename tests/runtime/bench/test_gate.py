"""The gate's benchmark: what is tried, and how it is counted."""

from __future__ import annotations

from collections import Counter
from itertools import product

import torch

from kasmina.bench import gate
from kasmina.bench.gate import Found, Graft
from kasmina.blueprints import SiteShape, blueprint_kind


def found(kind: str, end: str, estimate: float, true: float) -> Found:
    """A graft with an estimate and a control that is sure to 0.1 nats."""
    gains = {
        "paired_control": (true, true - 0.1, true + 0.1),
        "held_out_integral": (estimate, estimate - 1, estimate + 1),
    }
    return Found(Graft("digits", kind, 0, 2, True), end, gains)


def test_a_third_of_the_grafts_is_noise_and_all_kinds_and_hosts_are_tried() -> None:
    """As the target asks."""
    grafts = list(gate._compared(gate.COMPARED))
    assert len(grafts) >= 100
    assert sum(each.kind == "noise" for each in grafts) == len(grafts) / 3
    tried = Counter((each.host, each.kind) for each in grafts if each.kind != "noise")
    assert set(tried) == set(product(gate.HOSTS, gate.KINDS))
    assert len(set(tried.values())) == 1, "every kind as often as any other, in every host"
    assert sum(each.kind == "noise" for each in gate._judged(gate.JUDGED)) == 200


def test_signs_count_where_the_control_is_sure() -> None:
    """A control whose interval holds 0 tells no sign."""
    grafts = [
        found("mlp", "FOSSILIZED", 0.5, 0.6),
        found("mlp", "CULLED", -0.3, -0.2),
        found("mlp", "CULLED", -0.1, 0.3),
        found("noise", "CULLED", 0.1, -0.05),
    ]
    rows = {row.name: row for row in gate._estimates(grafts)}
    sign = rows["held_out_integral: sign right where clear"]
    assert round(sign.value, 1) == 66.7
    assert sign.baselines == {"grafts with a clear gain or loss": 3.0}
    assert sign.met is False


def test_what_is_kept_is_counted_by_kind() -> None:
    """Up to 2% of the noise and 90% of what helps may be kept."""
    grafts = [found("noise", end, 0, 0) for end in ["CULLED"] * 49 + ["FOSSILIZED"]]
    grafts += [found("gated", end, 1, 1) for end in ["FOSSILIZED"] * 8 + ["CULLED"] * 2]
    noise, gated = gate._kept(grafts)
    assert (noise.value, noise.met, gated.value, gated.met) == (2.0, True, 80.0, False)


def test_noise_cannot_be_told_from_noise() -> None:
    """Inputs that differ by a thousandth give outputs that have nothing to do with each other."""
    kind = blueprint_kind("noise")(SiteShape("parallel", 40, 10), 20)
    draw = torch.Generator().manual_seed(0)
    params = {name: value.unsqueeze(0) for name, value in kind.init(draw).items()}
    x = torch.randn(2000, 40, generator=draw)
    near = x + 0.01 * torch.randn(x.shape, generator=draw)
    pairs = torch.stack([kind.forward(params, each).flatten() for each in (x, near)])
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.05


def test_one_graft_of_each_sort() -> None:
    """Real runs: noise is culled, and what helps an MLP of four hidden units is kept."""
    noise = gate._one(Graft("digits", "noise", 1, 2, always_twin=False))
    gated = gate._one(Graft("digits", "gated", 1, 2, always_twin=True))
    assert noise.end == "CULLED"
    assert gated.end == "FINE_TUNING"
    assert gated.gains["paired_control"][1] > 0
    assert set(noise.gains) >= {"held_out_integral", "path_integral", "removal_cost"}
