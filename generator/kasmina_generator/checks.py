"""Structural checks."""

from __future__ import annotations

from kasmina_generator.finding import Finding
from kasmina_generator.model import Spec


def check_spec(spec: Spec) -> list[Finding]:
    """Return what is wrong with the structure of a machine, in the order of the file."""
    return []
