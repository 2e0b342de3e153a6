"""Make `.venv` ready: `python3 scripts/setup.py [EXTRA ...]`. Standard library only.

Compiles the native engine once for this CPU (about 5 minutes on 2 cores) and keeps the wheel in the user's cache,
because pip's own cache does not know which compiler switches a wheel was built with.
Run again it does nothing, unless pyproject.toml, constraints.txt or the wanted extras changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("VENV") or ROOT / ".venv")
PYTHON = VENV / "bin" / "python"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foreshore" / "wheels"
MINIMUM = (3, 11)


def say(text: str) -> None:
    print(f"[setup] {text}", file=sys.stderr, flush=True)


def stop(problem: str, remedy: str) -> None:
    say(f"error: {problem}")
    say(f"hint: {remedy}")
    raise SystemExit(1)


def native() -> object:
    spec = importlib.util.spec_from_file_location("native", ROOT / "src" / "foreshore" / "native.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["native"] = module
    spec.loader.exec_module(module)
    return module


def check_machine() -> None:
    if sys.version_info < MINIMUM:
        stop(f"Python {sys.version.split()[0]} is too old", "Foreshore needs 3.11 or later: make PYTHON=python3.11 ...")
    if importlib.util.find_spec("ensurepip") is None:
        stop("this Python cannot make virtual environments", "apt-get install python3-venv")


def check_compiler() -> None:
    if not any(shutil.which(os.environ.get("CXX", name)) for name in ("c++", "g++", "clang++")):
        stop("no C++ compiler found", "apt-get install g++ (or set CXX)")
    free = shutil.disk_usage(CACHE).free
    if free < 3 << 30:
        stop(
            f"{free >> 20} MiB free under {CACHE}, the build takes up to 3 GiB",
            "free some space, or set XDG_CACHE_HOME",
        )


def venv_works() -> bool:
    try:
        return subprocess.run([str(PYTHON), "-m", "pip", "--version"], capture_output=True).returncode == 0
    except OSError:  # not there, or half of it
        return False


def make_venv() -> None:
    if venv_works():
        return
    say(f"creating {VENV}")
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)]).returncode != 0:
        stop(f"cannot create {VENV}", "apt-get install python3-venv, and check the free space")


def pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command).returncode != 0:
        stop(
            "pip failed (its words are above)", "check the network and the free space, then run the same command again"
        )


@dataclass(frozen=True)
class Engine:
    """The native engine this machine should have, and the folder of its wheel."""

    version: str
    cmake_args: str
    reason: str
    folder: Path


def wanted_engine() -> Engine:
    module = native()
    chosen = module.build()  # type: ignore[attr-defined]
    extra = os.environ.get("CMAKE_ARGS", "")  # of the user: another binary, so another place
    mark = f"-{hashlib.sha256(extra.encode()).hexdigest()[:8]}" if extra else ""
    return Engine(
        version=module.LLAMA_CPP_PYTHON,  # type: ignore[attr-defined]
        cmake_args=f"{chosen.cmake_args} {extra}".strip(),
        reason=chosen.reason,
        folder=CACHE / (chosen.key + mark),
    )


def build_engine(engine: Engine) -> None:
    """Compile the wheel, unless an earlier set-up has."""
    if list(engine.folder.glob("llama_cpp_python-*.whl")):
        say(f"native engine: the wheel built earlier ({engine.reason})")
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    check_compiler()
    say(f"native engine: compiling llama-cpp-python {engine.version} (about 5 minutes on 2 cores); {engine.reason}")
    unfinished = engine.folder.with_suffix(f".{os.getpid()}")
    compile_wheel(engine.version, engine.cmake_args, unfinished)
    try:
        unfinished.rename(engine.folder)
    except OSError:  # another set-up was faster
        shutil.rmtree(unfinished)


def compile_wheel(version: str, cmake_args: str, folder: Path) -> None:
    log_path = folder.with_suffix(".log")
    command = [str(PYTHON), "-m", "pip", "wheel", "-v", "--no-deps", "--no-cache-dir", "-w", str(folder)]
    environment = {**os.environ, "CMAKE_ARGS": cmake_args}
    process = subprocess.Popen(
        [*command, f"llama-cpp-python=={version}"],
        env=environment,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    began = shown = time.monotonic()
    with log_path.open("w") as log:
        for line in process.stdout:
            log.write(line)
            step = re.search(r"\[(\d+)/(\d+)\] ", line)
            if step and time.monotonic() - shown > 10:
                shown = time.monotonic()
                say(f"  compiled {step[1]} of {step[2]} files, {shown - began:.0f} s")
    if process.wait() != 0:
        shutil.rmtree(folder, ignore_errors=True)
        sys.stderr.write("".join(log_path.read_text().splitlines(keepends=True)[-30:]))
        stop("the native engine did not compile", f"the compiler's words are above, all of them in {log_path}")
    log_path.unlink()


def fingerprint(extras: list[str], engine: Engine) -> str:
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"".join([*parts, ",".join(extras).encode(), str(engine.folder).encode()])).hexdigest()


def install(extras: list[str], engine: Engine) -> None:
    target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    say(f"installing foreshore{'[' + ','.join(extras) + ']' if extras else ''} and what it needs")
    pip(
        "install",
        "--quiet",
        "--constraint",
        str(ROOT / "constraints.txt"),
        "--find-links",
        str(engine.folder),
        "--only-binary=llama-cpp-python",
        "--editable",
        target,
    )


def main() -> None:
    check_machine()
    make_venv()
    extras, engine, stamp = sorted(sys.argv[1:]), wanted_engine(), VENV / "foreshore-setup"
    mark = fingerprint(extras, engine)
    if stamp.exists() and mark in stamp.read_text().split():
        return
    build_engine(engine)
    install(extras, engine)
    with stamp.open("a") as file:
        file.write(mark + "\n")


if __name__ == "__main__":
    main()
