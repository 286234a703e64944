"""Controllers: who decides where and when a network grows."""

from kasmina.control.tamiyo import TamiyoController

__all__ = ["TamiyoController"]
