"""From a YAML spec of a state machine to checked, generated code.

`read_spec` reads strictly, `check_spec` proves structure. Nothing here knows which machine it is.
"""

from kasmina_generator.finding import Finding, SpecErrors
from kasmina_generator.reader import read_spec
from kasmina_generator.verify import check_spec

__all__ = ["Finding", "SpecErrors", "check_spec", "read_spec"]
