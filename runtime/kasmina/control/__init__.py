"""Controllers: who decides where and when a network grows."""

from kasmina.control.random_growth import RandomController
from kasmina.control.tamiyo import TamiyoController

__all__ = ["RandomController", "TamiyoController"]
