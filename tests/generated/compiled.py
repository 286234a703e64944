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
_OWN = {
    "state_at": "int8", "epochs_at": "int16", "events_at": "int32", "tick_at": "bool",
    "asks_at": "bool", "inside_at": "bool", "new_state_at": "int8", "new_epochs_at": "int16",
    "refused_at": "bool", "before_at": "int8", "recycles_at": "bool",
}  # fmt: skip
_KERNELS = {
    "step": ["_decide_rows"],
    "capacity": ["_arbitrate"],
    "record": ["_record_rows"],
}


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
    signature = {
        name: "constexpr" if name == "BLOCK" else _POINTERS.get(dtypes.get(name, ""), "*i32")
        for name in kernel.arg_names
    } | {name: "i32" for name in ("n", "programs") if name in kernel.arg_names}
    if fused:
        options["enable_fp_fusion"] = True
    source = ASTSource(kernel, signature, {"BLOCK": 1024})
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
    return fields | limits | {f"{c.role}_at": c.dtype for c in columns if c.role} | _OWN


if __name__ == "__main__":
    main(Path(sys.argv[1]))
