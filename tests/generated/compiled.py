"""Compiles the kernels of a package for a GPU that need not be there, and says what came out.

    python -m tests.generated.compiled DIRECTORY

prints one line of JSON a kernel. Run where TRITON_INTERPRET is not set.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_POINTERS = {"float32": "*fp32", "int32": "*i32", "int16": "*i16", "int8": "*i8", "bool": "*i1"}
_OWN = {"state_at": "int8", "epochs_at": "int16", "tick_at": "bool", "edge_at": "int8"}
_KERNELS = {"step": ["_step_rows"], "capacity": ["_arbitrate"]}
_CONSTANTS = {
    "TILE": 512, "CHUNK": 128, "BLOCK": 128, "ASKERS": 1024, "RECORD": True, "ARBITRATED": True,
}  # fmt: skip
_NUMBERS = ("n", "segment", "askers", "row_bits")


def main(directory: Path) -> None:
    """Print what each kernel of the package in a directory compiles to."""
    sys.path.insert(0, str(directory.parent))
    package = directory.name
    for module, names in _KERNELS.items():
        if (directory / "kernels" / f"{module}.py").exists():
            found = importlib.import_module(f"{package}.kernels.{module}")
            launch = importlib.import_module(f"{package}.kernels.launch")
            options = launch.TOGETHER if module == "capacity" else launch.OPTIONS
            for name in names:
                for fused in (False, True):
                    told = compiled(package, getattr(found, name), {**options}, fused)
                    sys.stdout.write(json.dumps(told) + "\n")


def compiled(package: str, kernel: Any, options: dict[str, Any], fused: bool) -> dict[str, Any]:
    """Return the arithmetic of a kernel in PTX, with the package's options or with fusing forced."""
    dtypes = known_dtypes(package)
    constants = {name: _CONSTANTS[name] for name in kernel.arg_names if name in _CONSTANTS}
    signature = {name: _POINTERS.get(dtypes.get(name, ""), "*i32") for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    signature |= {name: "i32" for name in _NUMBERS if name in kernel.arg_names}
    if fused:
        options["enable_fp_fusion"] = True
    source = ASTSource(kernel, signature, constants)
    ptx = compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    return {
        "kernel": kernel.__name__,
        "fused": fused,
        "fma": len(re.findall(r"\bfma\.", ptx)),
        "divisions": sorted(set(re.findall(r"\bdiv\.[a-z.]*f32", ptx))),
        "flushes": len(re.findall(r"\.ftz", ptx)),
    }


def known_dtypes(package: str) -> dict[str, str]:
    """Return the dtype behind each pointer argument; int32 where nothing is said."""
    lifecycle = importlib.import_module(f"{package}.lifecycle")
    fields = {f"field_{n}_at": rule.dtype for n, rule in lifecycle.CONTEXT_FIELDS.items()}
    limits = {f"limit_{n}_at": rule.dtype for n, rule in lifecycle.LIMIT_FIELDS.items()}
    try:
        columns = importlib.import_module(f"{package}.state").COLUMNS
    except ModuleNotFoundError:
        columns = ()
    named = {f"{c.role}_at" if c.role else f"column_{c.name}_at": c.dtype for c in columns}
    return fields | limits | named | _OWN


if __name__ == "__main__":
    main(Path(sys.argv[1]))
