"""Makes arithmetic the same on every x86-64 processor with AVX2, by fixed instruction sets.

PyTorch, oneDNN, MKL, NumPy and OpenBLAS choose their code by the processor, and different code
rounds differently. Each reads an environment variable when it is loaded. So a stage restarts itself
with these variables before it imports any of them.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLES = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",
    "OPENBLAS_NUM_THREADS": "1",
}
"""By library: PyTorch's own operations, its convolutions, its products of matrices; NumPy's
functions, and the products of NumPy and SciPy, whose sums depend on the number of threads, too."""


def possible() -> bool:
    """Whether this processor has the instruction sets: x86-64 with AVX2 and FMA."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    cpuinfo = Path("/proc/cpuinfo")  # Linux only; elsewhere AVX2 is assumed
    flags = (
        cpuinfo.read_text(encoding="utf-8", errors="replace").split() if cpuinfo.exists() else []
    )
    return not flags or {"avx2", "fma"} <= set(flags)


def holds(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this environment fixes the instruction sets, on a processor that has them."""
    return possible() and all(environment.get(name) == text for name, text in VARIABLES.items())


def start_again() -> None:
    """Start this process again with `VARIABLES`, if they are not set; then this does not return."""
    if not holds():
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, **VARIABLES})  # noqa: S606
