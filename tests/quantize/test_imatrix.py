"""The file format of importance matrices: llama-imatrix's, to the byte; and what is refused."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.edge.gguf import inspect
from foreshore.errors import ModelError, NotFound, SetupError, UsageError
from foreshore.quantize.imatrix import Imatrix, check_fits, read_imatrix
from tests.quantize.tiny_experts import write_experts

DATA = Path(__file__).parent / "data"
FILES = ("decoder.imatrix", "experts.imatrix")


@pytest.fixture
def ours() -> Imatrix:
    return Imatrix(
        sums={"blk.0.b": np.array([[8.0, 2.0], [0.0, 0.0]], np.float32), "blk.0.a": np.array([[3.0]], np.float32)},
        counts={"blk.0.b": np.array([4, 0]), "blk.0.a": np.array([2])},
        chunks=1,
        context=2,
        datasets=("sha256:00", "läufer.txt"),
    )


@pytest.mark.parametrize("name", FILES)
def test_what_llama_imatrix_wrote_is_written_again_byte_by_byte(name: str, tmp_path: Path) -> None:
    Imatrix.load(DATA / name).save(tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (DATA / name).read_bytes()
    assert os.listdir(tmp_path) == ["again.gguf"]


def test_means_are_of_the_tokens_that_each_matrix_saw(ours: Imatrix, tmp_path: Path) -> None:
    ours.save(tmp_path / "new" / "m.gguf")
    found = Imatrix.load(tmp_path / "new" / "m.gguf")
    assert (found.chunks, found.context, found.datasets) == (1, 2, ("sha256:00", "läufer.txt"))
    assert list(found.sums) == ["blk.0.a", "blk.0.b"]
    means = read_imatrix(tmp_path / "new" / "m.gguf")
    assert means["blk.0.a"].tolist() == [1.5]
    assert means["blk.0.b"].tolist() == [2.0, 0.5, 1.0, 1.0], "an expert that was never asked has ones"


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(0, 10**6)), min_size=1, max_size=5))
def test_any_matrix_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, int, int]]
) -> None:
    rng = np.random.default_rng(len(shapes))
    sums = {f"w{i}": rng.gamma(1, 1e3, (n, m)).astype(np.float32) for i, (n, m, _) in enumerate(shapes)}
    counts = {f"w{i}": np.full(n, count) for i, (n, _, count) in enumerate(shapes)}
    path = tmp_path_factory.mktemp("imatrix") / "m.gguf"
    Imatrix(sums=sums, counts=counts, chunks=3, context=512).save(path)
    found = Imatrix.load(path)
    assert {n: s.tolist() for n, s in found.sums.items()} == {n: s.tolist() for n, s in sums.items()}
    assert {n: c.tolist() for n, c in found.counts.items()} == {n: c.tolist() for n, c in counts.items()}


def written(path: Path, add: Callable[[gguf.GGUFWriter], object], kind: str = "imatrix") -> Path:
    writer = gguf.GGUFWriter(path, "")
    writer.add_type(kind)
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def pair(sums: list[float], counts: list[float]) -> Callable[[gguf.GGUFWriter], object]:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("blk.0.w.in_sum2", np.array(sums, np.float32))
        writer.add_tensor("blk.0.w.counts", np.array(counts, np.float32))

    return add


@pytest.mark.parametrize(
    ("add", "said"),
    [
        (lambda w: w.add_tensor("blk.0.w.counts", np.ones(1, np.float32)), "is not an importance matrix"),
        (lambda w: w.add_tensor("blk.0.w.in_sum2", np.ones(1, np.float32)), "but no counts"),
        (pair([1, 2, 3], [1, 1]), "3 sums for 'blk.0.w' and 2 counts"),
        (pair([1, np.nan], [1]), "not finite for 'blk.0.w'"),
        (pair([1, 2], [np.inf]), "not finite"),
        (pair([1, -2], [1]), "negative values for 'blk.0.w'"),
        (lambda w: (w.add_tensor("a.in_sum2", np.ones(1, np.float16)), pair([1], [1])(w)), "in f16, not f32"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, add: Callable[[gguf.GGUFWriter], object], said: str) -> None:
    def both(writer: gguf.GGUFWriter) -> None:
        add(writer)
        if "f16" in said:
            writer.add_tensor("a.counts", np.ones(1, np.float32))

    with pytest.raises(ModelError, match=said):
        read_imatrix(written(tmp_path / "m.gguf", both))


def test_what_is_no_importance_matrix_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not an importance matrix"):
        read_imatrix(tiny)
    with pytest.raises(ModelError, match="not an importance matrix"):
        read_imatrix(written(tmp_path / "m.gguf", pair([1], [1]), kind="adapter"))
    with pytest.raises(NotFound):
        read_imatrix(tmp_path / "none.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((DATA / FILES[0]).read_bytes()[:-64])
    with pytest.raises(ModelError, match=r"cut\.gguf"):
        read_imatrix(cut)


def test_a_matrix_fits_the_model_that_it_was_collected_from(tiny: Path, tmp_path: Path) -> None:
    check_fits(read_imatrix(DATA / "decoder.imatrix"), inspect(tiny))
    check_fits(read_imatrix(DATA / "experts.imatrix"), inspect(write_experts(tmp_path / "moe.gguf")))


def test_a_matrix_of_another_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    means = read_imatrix(DATA / "decoder.imatrix")
    with pytest.raises(ModelError, match=r"another model than 'tiny\.gguf'.*'blk\.0\.ffn_down_exps\.weight'"):
        check_fits(read_imatrix(DATA / "experts.imatrix"), inspect(tiny))
    wider = means | {"blk.1.ffn_down.weight": np.ones(64, np.float32)}
    with pytest.raises(ModelError, match=r"64 values for 'blk\.1\.ffn_down\.weight', which takes 128"):
        check_fits(wider, inspect(tiny))
    shorter = {name: row for name, row in means.items() if not name.startswith("blk.1.")}
    with pytest.raises(ModelError, match=r"nothing for 1 of the model's 2 layers, such as layer 1"):
        check_fits(shorter, inspect(tiny))
    experts = read_imatrix(DATA / "experts.imatrix")
    fewer = write_experts(tmp_path / "moe.gguf", experts=4)
    with pytest.raises(ModelError, match=r"192 values for 'blk\.0\.ffn_down_exps\.weight', which takes 128"):
        check_fits(experts, inspect(fewer))
    check_fits({n: r for n, r in means.items() if n != "output.weight"}, inspect(tiny))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, ours: Imatrix) -> None:
    target = tmp_path / "m.gguf"
    ours.save(target)
    before = target.read_bytes()
    source = (
        "import sys; from foreshore.quantize.imatrix import Imatrix; from foreshore.errors import SetupError\n"
        "try: Imatrix.load(sys.argv[1]).save(sys.argv[2])\n"
        "except SetupError as error: print('SetupError', error.message)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, str(DATA / "decoder.imatrix"), str(target)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.stdout.startswith("SetupError cannot write to"), done.stderr
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, ours: Imatrix) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="file"):
        ours.save(tmp_path / "file" / "m.gguf")
    with pytest.raises(UsageError, match="is a folder"):
        ours.save(tmp_path)


def test_two_that_save_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    source = (
        "import sys; from foreshore.quantize.imatrix import Imatrix\n"
        "m = Imatrix.load(sys.argv[1])\n"
        "for _ in range(50): m.save(sys.argv[2])"
    )
    target = tmp_path / "m.gguf"
    command = [sys.executable, "-c", source, str(DATA / "decoder.imatrix"), str(target)]
    savers = [subprocess.Popen(command) for _ in range(2)]
    assert [saver.wait(60) for saver in savers] == [0, 0]
    assert target.read_bytes() == (DATA / "decoder.imatrix").read_bytes()
    assert os.listdir(tmp_path) == ["m.gguf"]
