"""What a search does with whole mixes beyond their KL: decodes with them, and refines them."""

from __future__ import annotations

from pathlib import Path

import pytest

from foreshore.edge.gguf import inspect
from foreshore.quantize.assemble import assemble
from foreshore.quantize.quality import compare
from foreshore.quantize.reference import Reference
from foreshore.quantize.search.fit_targets import FitTargets, parse_fit
from foreshore.quantize.search.search import search
from tests.quantize.test_search import FEW, TEXT
from tests.tiny_model import write_decoder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("base") / "base.gguf", layers=1, width=256)


def test_the_speed_is_measured_and_reached(base: Path) -> None:
    found = search(base, parse_fit("decode>=1,size<=1GB"), corpus=TEXT, workers=1, types=("q8_0",), trials=1)
    assert found.decode is not None
    assert found.decode >= 1


def test_mixes_are_refined(base: Path, tmp_path: Path) -> None:
    found = search(
        base, FitTargets(size=450_000), corpus=TEXT, cache=tmp_path, workers=1, types=FEW, trials=4, refine=True
    )
    assert found.moments is not None
    plain = assemble(inspect(base), found.types, tmp_path / "plain.gguf").path
    refined = assemble(inspect(base), found.types, tmp_path / "refined.gguf", moments=found.moments).path
    reference = Reference.build(base, TEXT, tmp_path / "references")
    ours, theirs = (compare(reference, file).kl.sum() for file in (refined, plain))
    assert ours < 0.9 * theirs
    assert refined.stat().st_size == plain.stat().st_size
