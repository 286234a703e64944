"""The golden checkpoints of format 1, and the program that wrote them.

Format 1 is our reconstruction: five states and four columns, as in `lifecycle_v1.yaml` and
`state_v1.yaml`. Run as `python -m tests.runtime.checkpoint.golden` to write them again; the bytes
must not change.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parent / "v1"
DIGEST = "cc375df58ac00879dc350c0f005e0784a07d8523ad63604587c15d564d4f3c81"


def _write(number: int, priority: str, tensors: dict[str, np.ndarray]) -> None:
    name = GOLDEN / f"checkpoint_{number:06d}"
    about = {
        "version": 1,
        "timestamp": f"2025-01-24T10:11:{number:02d}.345Z",
        "torch_version": "2.1.0",
        "device": "cpu",
        "priority": priority,
        "spec": "lifecycle_v1",
        "spec_digest": DIGEST,
    }
    save_file(tensors, name.with_suffix(".safetensors"))
    name.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n")


def main() -> None:
    """Write them."""
    GOLDEN.mkdir(exist_ok=True)
    columns: dict[str, np.ndarray] = {
        "state": np.array([0, 1, 2, 3, 4, 0], np.int8),
        "blueprint": np.array([-1, 0, 1, 0, 1, -1], np.int16),
        "epochs": np.array([0, 3, 17, 120, 32767, 9], np.int16),
        "strategy": np.array([0, 0, 1, 0, 1, 0], np.int8),
    }
    _write(7, "normal", columns)
    weights = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
    aged = {**columns, "epochs": columns["epochs"] // 2}
    _write(12, "high", {**aged, "host.0.weight": weights, "host.0.bias": weights[0]})


if __name__ == "__main__":
    main()
