"""Measuring on a Ray cluster: a real one of this machine, with the model under its path and without."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foreshore.errors import ModelError, SetupError
from foreshore.quantize.search.fit_targets import FitTargets
from foreshore.quantize.search.meter import MeterJob
from foreshore.quantize.search.ray_meters import Host, RayCluster, ray_cluster
from foreshore.quantize.search.search import search
from tests.quantize.test_search import FEW, TEXT
from tests.tiny_model import write_decoder

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("base") / "base.gguf", layers=1, width=256)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORESHORE_HOME", str(tmp_path_factory.mktemp("home")))
        with ray_cluster("local") as cluster:
            yield cluster


def test_a_cluster_that_is_not_there_is_named() -> None:
    with pytest.raises(SetupError, match="no Ray cluster answers"), ray_cluster("127.0.0.1:1"):
        pass


def test_a_search_there_finds_what_one_here_finds(base: Path, cluster: RayCluster) -> None:
    job: dict[str, Any] = {"corpus": TEXT, "types": FEW, "workers": 1, "trials": 4}
    there = search(base, FitTargets(size=400_000), make=cluster.make, **job)
    here = search(base, FitTargets(size=400_000), **job)
    assert there.types == here.types
    assert there.measured == pytest.approx(here.measured, rel=1e-3)


def test_errors_there_are_told_here(tiny_encoder: Path, cluster: RayCluster) -> None:
    with pytest.raises(ModelError, match="predicts no next token"):
        cluster.make(MeterJob(model=tiny_encoder, corpus=TEXT))


def test_a_file_that_a_node_does_not_see_goes_there_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path / "home"))
    host, content = Host(), bytes(range(256)) * 40
    digest, elsewhere = hashlib.sha256(content).hexdigest(), tmp_path / "model.gguf"
    host.describe()
    assert host.find(str(elsewhere), digest, len(content)) is None
    elsewhere.write_bytes(content[::-1])
    assert host.find(str(elsewhere), digest, len(content)) is None
    for start in range(0, len(content), 1000):
        host.append(digest, content[start : start + 1000])
    kept = Path(host.keep(digest))
    assert kept.read_bytes() == content
    assert host.find(str(elsewhere), digest, len(content)) == str(kept)
    elsewhere.write_bytes(content)
    assert host.find(str(elsewhere), digest, len(content)) == str(elsewhere)
