"""A search that is killed, interrupted, in a hurry, or not alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from foreshore.edge.gguf import inspect
from foreshore.quantize.assemble import file_bytes
from foreshore.quantize.native import plan
from foreshore.quantize.search.fit_targets import FitTargets
from foreshore.quantize.search.meter import MODULE, Meter
from foreshore.quantize.search.search import Found, search
from tests.quantize.test_search import FEW, TEXT
from tests.tiny_model import write_decoder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("base") / "base.gguf", layers=1, width=256)


class Counted(Meter):
    """Counts what is measured."""

    mixes = 0

    def divergences(self, mix: Any, windows: int) -> list[float]:
        type(self).mixes += bool(mix)
        return super().divergences(mix, windows)


SEARCH = """
import os, signal, sys
from pathlib import Path
from foreshore.quantize.search.search import search
from foreshore.quantize.search.fit_targets import parse_fit
from tests.quantize.test_search import FEW, TEXT

def tell(done, total):
    if done > float(sys.argv[3]) * total:
        os.kill(os.getpid(), signal.SIGKILL)

found = search(Path(sys.argv[1]), parse_fit("size<=450kB"), corpus=TEXT, cache=Path(sys.argv[2]), workers=1, types=FEW,
               trials=8, progress=tell)
print(sorted(found.types.items()), found.measured)
"""


def start(base: Path, cache: Path, until: float) -> subprocess.Popen[bytes]:
    """A search in a process of its own, which ends itself after that share of the steps."""
    command = [sys.executable, "-c", SEARCH, str(base), str(cache), str(until)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)


def test_a_killed_search_goes_on_where_it_was(base: Path, tmp_path: Path) -> None:
    def again(cache: Path) -> tuple[Found, int]:
        Counted.mixes = 0
        settings: dict[str, Any] = {"workers": 1, "types": FEW, "trials": 8, "make": Counted}
        found = search(base, FitTargets(size=450_000), corpus=TEXT, cache=cache, **settings)
        return found, Counted.mixes

    with start(base, tmp_path / "killed", 0.5) as process:
        assert process.wait() == -signal.SIGKILL
    resumed, mixes = again(tmp_path / "killed")
    whole, all_mixes = again(tmp_path / "whole")
    assert resumed.types == whole.types
    assert resumed.measured == pytest.approx(whole.measured)
    assert mixes < 0.7 * all_mixes


def test_two_at_once_do_not_harm_each_other(base: Path, tmp_path: Path) -> None:
    both = [start(base, tmp_path, 1) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert said[0] == said[1] != b""
    for file in tmp_path.glob("*.jsonl"):
        assert all(len(json.loads(line)) == 2 for line in file.read_text().splitlines() if line)
    assert not [p for p in (tmp_path / "tensors").iterdir() if p.name.startswith(".")]


def test_an_interrupted_search_leaves_no_process(base: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(base, FitTargets(size=450_000), corpus=TEXT, workers=2, types=FEW, trials=8, progress=interrupt)
    assert not [p for p in psutil.Process().children() if MODULE in p.cmdline()]


@pytest.mark.parametrize("ftype", ["q4_k_m", "q5_k_m"])
def test_without_time_it_is_as_good_as_the_uniform_type_of_that_size(base: Path, ftype: str) -> None:
    uniform = plan(inspect(base), ftype).types
    limit = file_bytes(inspect(base), uniform)
    found = search(base, FitTargets(size=limit), corpus=TEXT, budget_s=1e-3, workers=1)
    assert not found.complete
    assert found.bytes <= limit
    assert len(found.trials) == 1
    assert found.types == {name: uniform[name] for name in found.types}
