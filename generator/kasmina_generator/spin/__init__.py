"""SPIN as an independent oracle: the Promela model is searched, and a trail is read back."""

from kasmina_generator.spin.oracle import Answer, Report, ask
from kasmina_generator.spin.program import SpinError

__all__ = ["Answer", "Report", "SpinError", "ask"]
