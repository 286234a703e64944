"""Compiles inline kernels for a GPU that need not be there; the interpreter lets pass what that refuses.

    python -m tests.generated.compiled_inline

prints one line a kernel: module, shared memory in bytes, length of the PTX. Run where
TRITON_INTERPRET is not set.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_POINTERS = {
    "codes_at": "*i8", "kinds_at": "*i16", "rows_at": "*i32", "alpha_at": "*fp32",
    "nonfinite_at": "*i64", "partial_at": "*fp32", "sample_at": "*fp32", "measures_at": "*fp32",
    "order_at": "*i32", "count_at": "*i32",
}  # fmt: skip
_SIZES = {
    "C": 16, "G": 2, "BM": 16, "BN": 32, "EVEN": True, "STAGES": 2,
    "CG": 4, "CBM": 32, "CBN": 64, "CARRYING": True, "CSTAGES": 3,
    "COPIED": True, "FOLLOWED": True, "EARLY": True,
}  # fmt: skip
_UNITS = {"H": 16, "HB": 16, "BH": 32, "UPCAST": False}
_BLOCKS = {"H": 20, "HB": 16, "BH": 32, "UPCAST": False}
# Uneven narrow chunks in float32, of which a compiler once refused to place what it loads.
_NARROW = {
    "C": 3, "G": 21, "BM": 64, "BN": 64, "CG": 21, "CBM": 64, "EVEN": False, "STAGES": 3,
    "H": 8, "HB": 3, "BH": 64, "UPCAST": False, "DTYPE": "*fp32", "WARPS": 8,
}  # fmt: skip
KERNELS: list[tuple[str, str, dict[str, Any]]] = [
    ("inline_gated_forward", "_forward_rows", {**_UNITS, "REPLACE": True, "MEASURED": True}),
    ("inline_low_rank_forward", "_forward_rows", {**_BLOCKS, "REPLACE": False, "MEASURED": False, "CARRYING": False}),
    ("inline_affine_forward", "_forward_rows", {"REPLACE": True, "MEASURED": True}),
    ("inline_gated_backward", "_backward_rows", {**_UNITS, "REPLACE": True}),
    ("inline_mlp_gelu_backward", "_backward_rows", {**_BLOCKS, "REPLACE": False}),
    ("inline_affine_backward", "_backward_rows", {"REPLACE": False}),
    ("inline_mlp_relu_backward", "_add_rows", {**_UNITS, "LANES": 256, "AT_ONCE": 16}),
    ("inline_mlp_relu_forward", "_forward_rows", {**_NARROW, "REPLACE": False, "MEASURED": True}),
    ("sample", "_sample_rows", {"STAGES": 1}),
    ("sample", "_gather_measures", {"BP": 32, "FIRST": 16}),
]  # fmt: skip


def compiled(module: str, name: str, constants: dict[str, Any]) -> str:
    """Compile one kernel, for values in bfloat16 and 4 warps if nothing else is said."""
    kernel = getattr(importlib.import_module(f"kasmina_generated.kernels.{module}"), name)
    known = {**_SIZES, **constants}
    of, warps = known.pop("DTYPE", "*bf16"), known.pop("WARPS", 4)
    signature = {
        name: "constexpr" if name in known else _dtype(name, of) for name in kernel.arg_names
    }
    values = {name: known[name] for name in kernel.arg_names if name in known}
    source = ASTSource(kernel, signature, values)
    done = compile_kernel(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    return f"{module} {done.metadata.shared} {len(done.asm['ptx'])}"


def _dtype(name: str, of: str) -> str:
    if not name.endswith("_at"):
        return "i32"
    gradient = name.startswith("g_") and name != "g_at"
    return _POINTERS.get(name, "*fp32" if gradient else of)


if __name__ == "__main__":
    for row in KERNELS:
        sys.stdout.write(compiled(*row) + "\n")
