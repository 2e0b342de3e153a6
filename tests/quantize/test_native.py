"""llama.cpp's quantizer with an importance matrix: the types that it then takes, and what it notes of the matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foreshore.edge.gguf import inspect
from foreshore.quantize.imatrix import Imatrix
from foreshore.quantize.native import plan, quantize
from tests.tiny_model import write_decoder

NAMED = "quantize.imatrix"


def noted(folder: Path, imatrix: Path | None) -> dict[str, object]:
    base = inspect(write_decoder(folder / "base.gguf", layers=1, width=256))
    made = quantize(base, folder / "made.gguf", "q4_0", plan(base, "q4_0", imatrix=imatrix), imatrix=imatrix)
    return {key: value for key, value in made.metadata.items() if key.startswith(NAMED)}


def write_matrix(path: Path, **known: object) -> Path:
    sums = {"blk.0.attn_q.weight": np.ones((1, 256), np.float32)}
    counts = {name: np.full(1, 8, np.int64) for name in sums}
    Imatrix(sums=sums, counts=counts, **{"chunks": 0, "context": 512, **known}).save(path)  # type: ignore[arg-type]
    return path


def test_a_file_tells_which_matrix_it_was_made_with(tmp_path: Path) -> None:
    matrix = write_matrix(tmp_path / "chats.gguf", chunks=7, datasets=("a.txt", "b.txt"))
    expected = {"file": "chats.gguf", "dataset": "a.txt", "entries_count": 1, "chunks_count": 7}
    assert noted(tmp_path, matrix) == {f"{NAMED}.{key}": value for key, value in expected.items()}


def test_what_is_not_known_of_a_matrix_is_not_noted(tmp_path: Path) -> None:
    assert noted(tmp_path, None) == {}
    long = write_matrix(tmp_path / f"{'é' * 90}.gguf")
    assert noted(tmp_path, long) == {f"{NAMED}.file": "é" * 63, f"{NAMED}.entries_count": 1}


def test_types_that_depend_on_the_matrix_are_planned_with_it(tmp_path: Path) -> None:
    base = inspect(write_decoder(tmp_path / "base.gguf", layers=8, width=256))
    matrix = write_matrix(tmp_path / "chats.gguf")
    without, with_it = plan(base, "iq4_xs"), plan(base, "iq4_xs", imatrix=matrix)
    assert without.types != with_it.types, "llama.cpp spends less on the first layers where it has a matrix"
    for planned in (without, with_it):
        made = quantize(base, tmp_path / "made.gguf", "iq4_xs", planned, imatrix=matrix)
        assert {t.name: t.type for t in made.tensors} == with_it.types
