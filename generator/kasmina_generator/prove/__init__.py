"""Proof of a machine: every promise of its spec, in every state, at every epoch, for all values.

`prove` returns what was proved, by what, and what was not; `check` only the findings.
"""

from kasmina_generator.prove.proof import Proof, check, prove

__all__ = ["Proof", "check", "prove"]
