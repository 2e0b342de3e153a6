"""`foreshore doctor` on a machine that works, and what it says of builds that do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foreshore import native

FORESHORE = [sys.executable, "-m", "foreshore.cli"]


def run(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FORESHORE_HOME": str(home), "FORESHORE_CONFIG": "", "NO_COLOR": "1", **more}
    command = [*FORESHORE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home, timeout=300)


def test_a_working_machine_passes_by_a_real_decode(tmp_path: Path) -> None:
    done = run(tmp_path, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"]
    checks = {check["name"]: check for check in report["checks"]}
    assert set(checks) == {"python", "cpu", "memory", "home", "compiler", "extras", "config", "engine"}
    assert "q4_k_m" in checks["engine"]["text"]
    assert "tok/s" in checks["engine"]["text"]
    known = "import importlib.metadata as m; print(*m.metadata('foreshore').get_all('Provides-Extra'))"
    extras = subprocess.run([sys.executable, "-P", "-c", known], capture_output=True, text=True, cwd=tmp_path)
    told = checks["extras"]["text"].replace(":", ",").replace(";", ",").split(", ")
    assert set(extras.stdout.split()) <= set(told)


def test_a_broken_config_is_an_error_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "foreshore.yaml").write_text("targets:\n  edge: {kind: local, modell: x}\n")
    done = run(tmp_path, "doctor", "--json")
    assert done.returncode == 5
    (config,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "config"]
    assert config["status"] == "error"
    assert "foreshore.yaml:2" in config["text"]
    assert "modell" in config["text"]


def test_a_key_that_is_not_set_is_a_warning_with_its_name(tmp_path: Path) -> None:
    config = (
        "targets:\n  cloud: {kind: openai, model: m, base_url: http://127.0.0.1:9, key_env: FORESHORE_NO_SUCH_KEY}\n"
    )
    (tmp_path / "foreshore.yaml").write_text(config)
    done = run(tmp_path, "doctor", "--json")
    assert done.returncode == 0
    (check,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "config"]
    assert (check["status"], check["remedy"]) == ("warning", "set FORESHORE_NO_SUCH_KEY before foreshore serve")


def test_an_engine_that_crashes_is_reported_with_its_remedy(tmp_path: Path) -> None:
    """A worker that dies of SIGILL at its first decode, as a build with the wrong kernels does."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if any('foreshore.edge' in word for word in sys.orig_argv):\n"
        "    import llama_cpp.llama_cpp as native\n"
        "    native.llama_decode = lambda *_: os.kill(os.getpid(), signal.SIGILL)\n"
    )
    done = run(tmp_path, "doctor", "--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 5, done.stdout
    (engine,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "engine"]
    assert engine["status"] == "error"
    assert "SIGILL" in engine["text"]
    assert "CMAKE_ARGS=" in engine["remedy"]


def test_an_engine_that_cannot_be_loaded_is_reported_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise RuntimeError('Failed to load libllama.so')\n")
    done = run(tmp_path, "doctor", "--json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 5, done.stderr
    (engine,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "engine"]
    assert (engine["status"], "libllama.so" in engine["text"]) == ("error", True)
    assert "CMAKE_ARGS=" in engine["remedy"]


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx2"}, "-DGGML_NATIVE=ON"),
        ({"avx2", "avx512f"}, "-DGGML_NATIVE=ON"),
        ({"avx512f", "avx512_vnni", "amx_tile"}, "-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON"),
        ({"amx_tile"}, "-DGGML_NATIVE=OFF"),
    ],
)
def test_a_cpu_with_amx_gets_a_build_without_it(features: set[str], expected: str) -> None:
    assert native.build(frozenset(features)).cmake_args == expected


def test_different_cpus_do_not_share_a_compiled_engine() -> None:
    assert native.build(frozenset({"avx2"})).key != native.build(frozenset({"avx2", "avx512f"})).key
