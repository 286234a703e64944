"""Blueprints: the kinds of small modules that a seed can grow, and the pools that hold them."""

from kasmina.blueprints.attention import Attention, SqueezeExcite
from kasmina.blueprints.causal import CausalConv
from kasmina.blueprints.convolution import Conv, Separable
from kasmina.blueprints.dense import AffineMap, Gated, LowRank, Mlp
from kasmina.blueprints.options import Legal, OneOf, Whole
from kasmina.blueprints.pool import BlueprintPool, PoolFull
from kasmina.blueprints.proving import prove
from kasmina.blueprints.registry import (
    Blueprint,
    blueprint,
    blueprint_kind,
    check_options,
    known_blueprints,
)
from kasmina.blueprints.shape import BlueprintError, Cost, Placement, SiteShape

__all__ = [
    "AffineMap",
    "Attention",
    "Blueprint",
    "BlueprintError",
    "BlueprintPool",
    "CausalConv",
    "Conv",
    "Cost",
    "Gated",
    "Legal",
    "LowRank",
    "Mlp",
    "OneOf",
    "Placement",
    "PoolFull",
    "Separable",
    "SiteShape",
    "SqueezeExcite",
    "Whole",
    "blueprint",
    "blueprint_kind",
    "check_options",
    "known_blueprints",
    "prove",
]
