"""How the native engine must be compiled for this CPU. Standard library only: set-up runs it before any install.

ggml's AMX kernels crash (SIGILL or SIGSEGV in `ggml_backend_amx_mul_mat`) on virtual machines whose CPU announces AMX.
A native build picks AMX up by itself, so where the CPU announces it the instruction sets are named one by one instead.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LLAMA_CPP_PYTHON", "Build", "build", "cpu_features", "cpu_name"]

LLAMA_CPP_PYTHON = "0.3.36"

# A feature as the Linux kernel names it, and ggml's switch for it. AVX2, FMA, F16C and BMI2 are on unless switched off.
_AVX512 = {
    "avx512f": "GGML_AVX512",
    "avx512_vnni": "GGML_AVX512_VNNI",
    "avx512vbmi": "GGML_AVX512_VBMI",
    "avx512_bf16": "GGML_AVX512_BF16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """`cmake_args` for llama-cpp-python, why, and a `key` that differs wherever the binary would."""

    cmake_args: str
    reason: str
    key: str


def build(features: frozenset[str] | None = None) -> Build:
    """The build for a CPU with `features` (default: this one)."""
    found = cpu_features() if features is None else features
    if "amx_tile" in found:
        on = [switch for feature, switch in _AVX512.items() if feature in found]
        args = " ".join(["-DGGML_NATIVE=OFF", *(f"-D{switch}=ON" for switch in on)])
        reason = "the CPU announces AMX, where ggml's AMX kernels crash on virtual machines: built without them"
    else:
        args, reason = "-DGGML_NATIVE=ON", "built for exactly this CPU"
    what = [LLAMA_CPP_PYTHON, args, platform.system(), platform.machine(), *sorted(found)]
    return Build(cmake_args=args, reason=reason, key=hashlib.sha256("\n".join(what).encode()).hexdigest()[:16])


def cpu_features() -> frozenset[str]:
    """The CPU's features by their Linux names; empty where the system does not list them."""
    return frozenset(_cpuinfo("flags").split()) or frozenset(_cpuinfo("Features").split())


def cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


if __name__ == "__main__":
    chosen = build()
    sys.stdout.write(f"{chosen.cmake_args}\n")
    sys.stderr.write(f"{chosen.reason}\n")
