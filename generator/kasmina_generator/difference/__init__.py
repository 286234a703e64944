"""What differs between two specs, in four classes, guards by proof."""

from kasmina_generator.difference.records import CLASSES, Change, Class, Comparison, Witness
from kasmina_generator.difference.rules import RULES, compare

__all__ = ["CLASSES", "RULES", "Change", "Class", "Comparison", "Witness", "compare"]
