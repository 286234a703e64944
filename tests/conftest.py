"""Where there is no GPU, kernels run in Triton's interpreter; Triton asks when it is imported."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have counted: `record_property("counted", "20 kill points survived")`."""
    passed: list[pytest.TestReport] = terminalreporter.stats.get("passed", [])
    found = [
        (r.nodeid, text) for r in passed for name, text in r.user_properties if name == "counted"
    ]
    if found:
        terminalreporter.section("counted")
    for where, text in found:
        terminalreporter.write_line(f"{where}: {text}")
