"""Every form in which a spec can be shown, by its name."""

from __future__ import annotations

from collections.abc import Callable

from kasmina_generator.emit.diagram import dot, mermaid
from kasmina_generator.emit.promela import stretches
from kasmina_generator.emit.render import promela
from kasmina_generator.emit.scxml import scxml
from kasmina_generator.emit.svg import svg
from kasmina_generator.emit.tree import as_json
from kasmina_generator.kernels.report import as_text
from kasmina_generator.model import Spec


def _promela(spec: Spec) -> str:
    return promela(spec, stretches(spec))


EXPORTS: dict[str, Callable[[Spec], str]] = {
    "mermaid": mermaid,
    "dot": dot,
    "svg": svg,
    "scxml": scxml,
    "promela": _promela,
    "kernels": as_text,
    "json": as_json,
}
