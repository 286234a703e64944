"""Moved to `kasmina.kernels.mixing`."""

from kasmina.kernels.mixing import add, blend, guard

__all__ = ["add", "blend", "guard"]
