"""What `foreshore doctor` checks: one function a check, which says what it found and, where it is wrong, the remedy."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from foreshore import native
from foreshore.disk import existing
from foreshore.errors import ForeshoreError, WorkerDied
from foreshore.home import home

__all__ = ["CHECKS", "Finding", "check_all"]

Status = Literal["ok", "warning", "error"]
MINIMUM_PYTHON = (3, 11)
SPARE_MEMORY = 1 << 30
PROBE_TYPES = ("q4_k_m", "q8_0")  # repacked and plain kernels: the two families that have crashed
PROBE_PROMPT = "Count the words: " + "river table garden window " * 12  # long enough for the matrix kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    name: str
    status: Status
    text: str
    remedy: str = ""


def check_all() -> Iterator[Finding]:
    """Every check in turn. A check that fails by itself is reported as an error, never raised."""
    for name, check in CHECKS.items():
        try:
            yield check(name)
        except ForeshoreError as error:
            yield Finding(name=name, status="error", text=error.message, remedy=error.hint or "")
        except Exception as error:  # whatever is wrong with this machine, the other checks still say their part
            yield Finding(name=name, status="error", text=f"the check itself failed: {error!r}")


def _python(name: str) -> Finding:
    text = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    if sys.version_info < MINIMUM_PYTHON:
        return Finding(name=name, status="error", text=text, remedy="Foreshore needs Python 3.11 or later")
    return Finding(name=name, status="ok", text=text)


def _cpu(name: str) -> Finding:
    cores, threads = psutil.cpu_count(logical=False) or 1, psutil.cpu_count() or 1
    sets = [s for s in ("avx2", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve") if s in native.cpu_features()]
    return Finding(
        name=name, status="ok", text=f"{native.cpu_name()}, {cores} cores, {threads} threads; {' '.join(sets) or '-'}"
    )


def _memory(name: str) -> Finding:
    memory, folder = psutil.virtual_memory(), existing(home())
    disk = shutil.disk_usage(folder).free
    text = f"{memory.available >> 20} of {memory.total >> 20} MiB free; {disk >> 20} MiB of disk free under {folder}"
    if memory.available < SPARE_MEMORY or disk < SPARE_MEMORY:
        remedy = "less than 1 GiB: only the smallest models fit; free some, or set FORESHORE_HOME to a larger disk"
        return Finding(name=name, status="warning", text=text, remedy=remedy)
    return Finding(name=name, status="ok", text=text)


def _home(name: str) -> Finding:
    folder = home()
    if not os.access(existing(folder), os.W_OK):
        return Finding(name=name, status="error", text=f"{folder} is not writable", remedy="set FORESHORE_HOME")
    return Finding(name=name, status="ok", text=f"{folder}{'' if folder.exists() else ' (made at first use)'}")


def _compiler(name: str) -> Finding:
    """The switches the engine should have, and whether it can be compiled again if need be."""
    chosen = native.build()
    compiler = next((found for c in ("c++", "g++", "clang++") if (found := shutil.which(c))), None)
    text = f"{compiler or 'no C++ compiler'}; for this CPU: {chosen.cmake_args} ({chosen.reason})"
    if compiler is None:
        remedy = "only needed to compile the engine again: apt-get install g++"
        return Finding(name=name, status="warning", text=text, remedy=remedy)
    return Finding(name=name, status="ok", text=text)


def _engine(name: str) -> Finding:
    """A real decode by the starter model, in a worker process: a build that crashes kills that one, not this."""
    unloadable = _import_failure()
    if unloadable:
        text = f"llama-cpp-python cannot be loaded: {unloadable}"
        return Finding(name=name, status="error", text=text, remedy=rebuild_command())
    from foreshore.quantize import build
    from foreshore.store import Store

    rates, system = [], ""
    with tempfile.TemporaryDirectory(prefix="foreshore-doctor-") as folder:
        store = Store(Path(folder))
        for manifest in build("starter-s", types=list(PROBE_TYPES), store=store):
            try:
                rate, system = _decode(store.path(manifest))
            except WorkerDied as error:
                text = f"decoding a {manifest.variant} variant killed the worker: {error.message}"
                return Finding(name=name, status="error", text=text, remedy=rebuild_command())
            rates.append(f"{manifest.variant} {rate:.0f} tok/s")
    text = f"llama-cpp-python {metadata.version('llama-cpp-python')} decodes: {', '.join(rates)}"
    if re.search(r"AMX_INT8 = 1", system):
        text += "; it is compiled with AMX, whose kernels crash on some virtual machines"
        return Finding(name=name, status="warning", text=text, remedy=rebuild_command())
    return Finding(name=name, status="ok", text=text)


def _import_failure() -> str:
    """Why the native library cannot be loaded, tried in a process of its own; "" where it can."""
    tried = subprocess.run([sys.executable, "-P", "-c", "import llama_cpp"], capture_output=True, text=True)
    last = (tried.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return "" if tried.returncode == 0 else f"exit status {tried.returncode}, {last!r}"


def _decode(model: Path) -> tuple[float, str]:
    """Tokens per second of a short answer, and what the native build says of itself."""
    from foreshore.edge import Runtime

    with Runtime(model) as runtime:
        answer = runtime.chat(PROBE_PROMPT, max_tokens=16, temperature=0.0)
        system = runtime.info.system if runtime.info else ""
    assert answer.timings is not None
    return answer.timings.decode_tokens_per_s, system


def rebuild_command() -> str:
    """The command that compiles the engine again, rightly for this CPU."""
    chosen = native.build()
    return (
        f'compile it for this CPU: CMAKE_ARGS="{chosen.cmake_args}" {sys.executable} -m pip install '
        f"--force-reinstall --no-deps --no-cache-dir --no-binary=llama-cpp-python "
        f"llama-cpp-python=={native.LLAMA_CPP_PYTHON}"
    )


def _extras(name: str) -> Finding:
    """Which optional parts are installed. None is needed, so none missing is an error."""
    wanted: dict[str, list[str]] = {}
    for line in metadata.requires("foreshore") or []:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if extra and not line.startswith("foreshore"):
            wanted.setdefault(extra[1], []).append(re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0])
    there = [e for e, packages in wanted.items() if all(map(_installed, packages))]
    absent = [e for e in wanted if e not in there]
    text = f"installed: {', '.join(sorted(there)) or 'none'}; not installed: {', '.join(sorted(absent)) or 'none'}"
    return Finding(name=name, status="ok", text=text)


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _config(name: str) -> Finding:
    from foreshore.config import find_config, load_config
    from foreshore.router.policy import Policy

    path = find_config()
    config = load_config(path)
    Policy(config)
    where = str(path) if path else "no foreshore.yaml here: the starter model on this machine"
    unset = sorted({k for t in config.targets.values() if (k := t.key_env) and not os.environ.get(k)})
    if unset:
        remedy = f"set {', '.join(unset)} before foreshore serve"
        return Finding(name=name, status="warning", text=f"{where}; a key is not set", remedy=remedy)
    return Finding(name=name, status="ok", text=f"{where}; targets: {', '.join(config.targets)}")


CHECKS: dict[str, Callable[[str], Finding]] = {
    "python": _python,
    "cpu": _cpu,
    "memory": _memory,
    "home": _home,
    "compiler": _compiler,
    "extras": _extras,
    "config": _config,
    "engine": _engine,
}
