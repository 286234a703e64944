"""What the templates of the kernels fill in, as text that is ready to stand.

Names in the texts: of a map `up`, `w_up` and `b_up` are its weight and bias as loaded, `v_up` what
it gives, `g_up` the gradient that reaches that. Of an element by element kind, `v_x` is the input,
`v_scale` a parameter, and `g_x`, `g_scale` their gradients. `g` is the gradient of the formula.
"""

from __future__ import annotations

from dataclasses import dataclass

from kasmina_generator.emit.layout import hexadecimal
from kasmina_generator.kernels.formula import Call, Pulled, Variable, gradients, parts
from kasmina_generator.kernels.functions import Definition, definitions
from kasmina_generator.kernels.model import INPUT, OUT, Map, Placement, Variant
from kasmina_generator.kernels.triton_text import triton_text


@dataclass(frozen=True, slots=True)
class MapVariables:
    """One inner map: `name`, whether it has a bias, and its gradient as source."""

    map: Map
    name: str
    bias: bool
    gradient: str


@dataclass(frozen=True, slots=True)
class ParameterVariables:
    """One parameter of an element by element kind, and its gradient as source."""

    name: str
    gradient: str


@dataclass(frozen=True, slots=True)
class Variables:
    """All that a template reads."""

    variant: Variant
    text: str  # the name of the text: mlp_relu
    elementwise: bool
    maps: list[MapVariables]  # empty where it is element by element
    elements: list[ParameterVariables]  # empty where it has maps
    out_bias: bool  # whether `out` has one; False where it is element by element
    parameters: list[str]  # names of all stacked parameters, in their order
    loaded: list[str]  # weights and biases of the maps, as loaded: w_up, b_up
    values: list[str]  # what the formula is of: v_up, or v_x and the parameters
    slopes: list[str]  # their gradients, that of x aside: g_up
    pointers: list[str]  # arguments that point to the parameters of the maps and to the last weight
    computed: bool  # False where the formula is just what one map gives
    value: str  # the formula as source, of `v_...`
    input_gradient: str  # what `x` gets of `g`, where it is element by element
    value_functions: list[Definition]  # what `value` calls
    functions: list[Definition]  # what `value` and the gradients call


@dataclass(frozen=True, slots=True)
class StateVariables:
    """The states in which a chunk is mixed in, and in which its parameters get gradients."""

    mixing: str  # bits over the codes of states, as source
    joint: str
    codes: int  # how many codes the bits tell apart; a larger one is never mixed


def states_of(mixing: int, joint: int) -> StateVariables:
    """Return what the templates fill in for the states."""
    codes = max(mixing.bit_length(), joint.bit_length())
    return StateVariables(hexadecimal(mixing), hexadecimal(joint), codes)


def variables_of(variant: Variant, placement: Placement) -> Variables:
    """Return what the templates fill in for one text."""
    found = gradients(variant.formula)
    pulls = {name: triton_text(tree, _value_name, "g") for name, tree in found.items()}
    values = {part.function for part in parts(variant.formula) if isinstance(part, Call)}
    inside = {p.function for tree in found.values() for p in parts(tree) if isinstance(p, Call)}
    pulled = {p.function for tree in found.values() for p in parts(tree) if isinstance(p, Pulled)}
    read = [m.name for m in variant.kind.maps]
    parameters, elementwise = list(variant.parameters(placement.out)), variant.elementwise
    return Variables(
        variant=variant,
        text=variant.name,
        elementwise=elementwise,
        maps=[MapVariables(m, m.name, m.bias, pulls[m.name]) for m in variant.kind.maps],
        elements=[ParameterVariables(n, pulls[n]) for n in parameters if elementwise],
        out_bias=placement.out == "bias" and not elementwise,
        parameters=parameters,
        loaded=[
            f"{p}_{m.name}" for m in variant.kind.maps for p in ("w", "b") if p == "w" or m.bias
        ],
        values=[_value_name(name) for name in ([INPUT, *parameters] if elementwise else read)],
        slopes=[f"g_{name}" for name in (parameters if elementwise else read)],
        pointers=[f"{name}_at" for name in parameters if name != f"{OUT}_bias"],
        computed=not isinstance(variant.formula, Variable),
        value=triton_text(variant.formula, _value_name),
        input_gradient=pulls[INPUT] if elementwise else "",
        value_functions=definitions(values, set()),
        functions=definitions(values | inside, pulled),
    )


def _value_name(name: str) -> str:
    return f"v_{name}"
