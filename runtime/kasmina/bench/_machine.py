"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("kasmina", "torch", "numpy", "transitions", "triton")


def device_name() -> str:
    """The processor and its cores, and the GPU where there is one."""
    import torch

    name = f"{_processor()}, {os.cpu_count()} cores"
    return f"{name}; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on Linux
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def versions() -> dict[str, str]:
    """Python, and those of our packages that are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
