"""Variants compared with their parent through the real engine, against full logits."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foreshore.edge.gguf import inspect
from foreshore.errors import ModelError, UsageError
from foreshore.quantize.native import plan, quantize
from foreshore.quantize.quality import compare, difference, measure_divergence, measure_similarity, ratio
from foreshore.quantize.reference import Reference
from foreshore.quantize.texts import Corpus
from tests.quantize import llama_check
from tests.tiny_model import write_decoder

WORDS = "the cat sat on a mat and saw how many birds flew over our old house by the sea before noon".split()

# Said by llama-perplexity of the sources that llama-cpp-python 0.3.36 carries, of the model that `write_decoder` writes
# and its q4_0, with `-f imatrix.txt -c 128 -b 128` and `--kl-divergence-base`, then `--kl-divergence`; with its errors.
# It leaves out what does not fill a window. (Its PPL(base) is of log-probabilities cut off at -16, so PPL is from the
# first run.)
LLAMA_PERPLEXITY: dict[str, Any] = {
    "tokens": 14 * 63,
    "PPL": 74000.7869,
    "PPL(Q)": 95490.951965,
    "Mean KLD": (0.519218, None, 0.014682),
    "Same top p": (0.56576, None, 0.01670),
}


def text(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quality")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Short documents that share a batch, one of a single token, and two that take several windows."""
    short = [text(5 + 3 * i, i) for i in range(14)]
    return Corpus.of([*short[:7], "a", text(150, 98), *short[7:], text(120, 99)])


@pytest.fixture(scope="module")
def variants(tiny: Path, folder: Path) -> dict[str, Path]:
    info = inspect(tiny)
    return {
        kind: quantize(info, folder / f"{kind}.gguf", kind, plan(info, kind)).path for kind in ("q4_0", "q5_0", "q8_0")
    }


@pytest.fixture(scope="module")
def reference(tiny: Path, corpus: Corpus, folder: Path) -> Reference:
    return Reference.build(tiny, corpus, folder / "references", context=256, threads=1)


def windows(path: Path, corpus: Corpus, context: int) -> list[list[list[int]]]:
    """Token ids of each document's windows; those of a single token have nothing to predict."""
    with llama_check.opened(path) as llama:
        documents = [llama_check.tokens(llama, document, special=False) for document in corpus.documents]
    cut = [[d[i : i + context] for i in range(0, len(d), context) if len(d[i : i + context]) > 1] for d in documents]
    return [document for document in cut if document]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


def log_probabilities(path: Path, cut: list[list[list[int]]]) -> list[NDArray[np.float64]]:
    """Of every position that has a token after it, (tokens, V) for each document."""
    with llama_check.opened(path, logits_all=True) as llama:

        def logits(window: list[int]) -> NDArray[np.float32]:
            llama.reset()
            llama.eval(window)
            return np.array(llama.scores[: len(window) - 1], dtype=np.float32)

        return [np.concatenate([log_softmax(logits(window)) for window in document]) for document in cut]


def test_figures_are_those_of_the_full_logits(
    tiny: Path, variants: dict[str, Path], reference: Reference, corpus: Corpus
) -> None:
    cut = windows(tiny, corpus, 256)
    parent, variant = log_probabilities(tiny, cut), log_probabilities(variants["q4_0"], cut)
    came = [np.concatenate([window[1:] for window in document]) for document in cut]
    found = compare(reference, variants["q4_0"], threads=1)
    assert list(found.tokens) == [len(tokens) for tokens in came]
    exact = [(np.exp(p) * (p - q)).sum(axis=1) for p, q in zip(parent, variant, strict=True)]
    every = np.concatenate(exact)
    # The estimate draws one token of each tail: of this many tokens its mean is within some percent.
    figures = found.divergence()
    assert figures.kl_mean.value == pytest.approx(every.mean(), rel=0.05)
    assert figures.kl_mean.low < every.mean() < figures.kl_mean.high
    assert np.corrcoef(found.values["kl"], every)[0, 1] > 0.6
    rows = np.arange(len(every))
    tokens, p, q = np.concatenate(came), np.concatenate(parent), np.concatenate(variant)
    assert figures.perplexity.value == pytest.approx(np.exp(-q[rows, tokens].mean()), rel=1e-3)
    assert figures.parent_perplexity.value == pytest.approx(np.exp(-p[rows, tokens].mean()), rel=1e-3)
    over = figures.perplexity_ratio
    assert over is not None
    assert over.value == pytest.approx(figures.perplexity.value / figures.parent_perplexity.value, rel=1e-6)
    alone = figures.perplexity
    assert over.high / over.low < alone.high / alone.low, "documents differ in how hard they are"
    assert figures.same_top.value == pytest.approx((p.argmax(axis=1) == q.argmax(axis=1)).mean(), abs=0.01)
    assert (figures.documents, figures.tokens) == (len(cut), len(every))
    assert figures.text_sha256 == corpus.sha256


def test_a_model_differs_from_itself_by_nothing(tiny: Path, reference: Reference) -> None:
    figures = measure_divergence(reference, tiny, threads=1)
    assert figures.kl_mean.value < 1e-5
    assert figures.same_top.value == 1.0
    assert figures.perplexity.value == pytest.approx(figures.parent_perplexity.value)


def test_finer_types_are_nearer_and_pairing_proves_it(variants: dict[str, Path], reference: Reference) -> None:
    coarse, middle, fine = (compare(reference, variants[kind], threads=1) for kind in ("q4_0", "q5_0", "q8_0"))
    assert ratio(middle, coarse).high < 1
    assert difference(fine, middle).high < 0
    assert ratio(coarse, coarse).value == 1
    assert fine.divergence().kl_p99.value < coarse.divergence().kl_p99.value


def test_llama_perplexity_says_the_same(tiny: Path, variants: dict[str, Path], folder: Path) -> None:
    whole = Corpus.of([(Path(__file__).parent / "data" / "imatrix.txt").read_text(encoding="utf-8")])
    found = Reference.build(tiny, whole, folder / "references", context=128, skip=64, threads=1)
    values = compare(found, variants["q4_0"], threads=1).values[: LLAMA_PERPLEXITY["tokens"]]
    assert len(values) == LLAMA_PERPLEXITY["tokens"]
    assert values["kl"].mean() == pytest.approx(*LLAMA_PERPLEXITY["Mean KLD"])
    assert values["same"].mean() == pytest.approx(*LLAMA_PERPLEXITY["Same top p"])
    assert -values["log_p"].mean() == pytest.approx(np.log(LLAMA_PERPLEXITY["PPL(Q)"]), rel=1e-4)
    assert -values["parent_log_p"].mean() == pytest.approx(np.log(LLAMA_PERPLEXITY["PPL"]), rel=1e-4)


def test_skipped_tokens_are_read_but_not_scored(
    tiny: Path, variants: dict[str, Path], reference: Reference, corpus: Corpus, folder: Path
) -> None:
    later = Reference.build(tiny, corpus, folder / "references", context=256, skip=20, threads=1)
    assert later.tokens == sum(max(0, length - 1 - 20) for _, length in reference.windows)
    every, some = compare(reference, variants["q4_0"], threads=1), compare(later, variants["q4_0"], threads=1)
    positions = np.concatenate([np.arange(length - 1) for _, length in reference.windows])
    np.testing.assert_allclose(some.values["log_p"], every.values["log_p"][positions >= 20], atol=2e-3)
    with pytest.raises(UsageError, match="different references"):
        ratio(every, some)


def test_a_reference_is_made_once(tiny: Path, reference: Reference, corpus: Corpus, folder: Path) -> None:
    seen: list[int] = []
    again = Reference.build(
        tiny, corpus, folder / "references", context=256, threads=1, progress=lambda done, total: seen.append(done)
    )
    assert again == reference
    assert not seen, "nothing was read"
    assert not (reference.folder / "documents.json").exists()


def test_a_damaged_reference_is_made_again(tiny: Path, reference: Reference, corpus: Corpus, folder: Path) -> None:
    copied = folder / "copied" / reference.folder.name
    shutil.copytree(reference.folder, copied)
    with (copied / "records.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ModelError, match="damaged"):
        Reference.open(copied)
    made = Reference.build(tiny, corpus, folder / "copied", context=256, threads=1)
    assert (made.folder / "records.bin").read_bytes() == (reference.folder / "records.bin").read_bytes()


def test_the_store_is_a_fiftieth_of_the_logits_even_of_a_small_vocabulary(reference: Reference) -> None:
    assert sum(f.stat().st_size for f in reference.folder.glob("*.bin")) == reference.nbytes
    scored = reference.nbytes - 4 * (sum(length for _, length in reference.windows) - reference.tokens)
    assert scored <= reference.logits_nbytes / 50


def test_progress_ends_at_the_number_of_tokens(tiny: Path, corpus: Corpus, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    made = Reference.build(tiny, corpus, tmp_path, threads=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (made.tokens, made.tokens)


def test_control_tokens_count_as_such_where_the_corpus_says_so(tiny: Path, tmp_path: Path) -> None:
    chats = ["<|im_start|>user\nhello<|im_end|>\n"] * 8
    special = Reference.build(tiny, Corpus.of(chats, special=True), tmp_path, threads=1)
    plain = Reference.build(tiny, Corpus.of(chats), tmp_path, threads=1)
    assert special.tokens < plain.tokens


def test_another_vocabulary_is_refused(reference: Reference, tmp_path: Path) -> None:
    path = write_decoder(tmp_path / "other.gguf")
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"<|endoftext|>", b"<|andoftext|>", 1))
    with pytest.raises(ModelError, match="another vocabulary"):
        compare(reference, path, threads=1)


def test_weights_that_are_not_numbers_are_noticed(tiny: Path, reference: Reference, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    shutil.copy(tiny, broken)
    (tensor,) = [t for t in inspect(tiny).tensors if t.name == "blk.0.ffn_down.weight"]
    with broken.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(np.full(64, np.nan, np.float32).tobytes())
    with pytest.raises(ModelError, match="not finite"):
        compare(reference, broken, threads=1)


def test_what_cannot_be_compared_is_refused(
    tiny: Path, tiny_encoder: Path, corpus: Corpus, reference: Reference, variants: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no next-token distributions"):
        Reference.build(tiny_encoder, corpus, tmp_path)
    with pytest.raises(UsageError, match="no token to predict"):
        Reference.build(tiny, Corpus.of(["a", "b"]), tmp_path, threads=1)
    with pytest.raises(UsageError, match="leaves no token"):
        Reference.build(tiny, corpus, tmp_path, context=16, skip=15)
    few = Reference.build(tiny, Corpus.of([text(20, 1), text(20, 2)]), tmp_path, threads=1)
    with pytest.raises(UsageError, match="2 documents, too few"):
        measure_divergence(few, variants["q4_0"], threads=1)
    with pytest.raises(ModelError, match="is not a reference"):
        Reference.open(tmp_path)


def test_a_killed_build_leaves_nothing_in_the_way(tiny: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from foreshore.quantize.reference import Reference; from foreshore.quantize.texts import Corpus\n"
        "corpus = Corpus.of(['the cat sat ' * 100 + str(i) for i in range(8)])\n"
        "stop = (lambda done, total: os.kill(os.getpid(), signal.SIGKILL)) if sys.argv[3] == 'kill' else print\n"
        "print(Reference.build(Path(sys.argv[1]), corpus, Path(sys.argv[2]), threads=1, progress=stop).tokens)\n"
    )
    command = [sys.executable, "-c", script, str(tiny), str(tmp_path)]
    assert subprocess.run([*command, "kill"], capture_output=True, check=False).returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("*/head.json")), "it is there whole, or not at all"
    made = subprocess.run([*command, "go on"], capture_output=True, check=True, text=True)
    assert int(made.stdout.split()[-1]) > 800
    assert len(list(tmp_path.glob("*/head.json"))) == 1


ENCODED = Corpus.of([text(4 + n, n) for n in range(12)])


def test_an_encoder_is_compared_by_its_vectors(tiny_encoder: Path, folder: Path) -> None:
    info = inspect(tiny_encoder)
    small = {k: quantize(info, folder / f"encoder-{k}.gguf", k, plan(info, k)).path for k in ("q8_0", "q4_0")}
    seen: list[tuple[int, int]] = []
    fine = measure_similarity(
        tiny_encoder, small["q8_0"], ENCODED, threads=1, progress=lambda done, total: seen.append((done, total))
    )
    coarse = measure_similarity(tiny_encoder, small["q4_0"], ENCODED, threads=1)
    cosines = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in (
            [llama_check.embedding(path, document) for path in (tiny_encoder, small["q4_0"])]
            for document in ENCODED.documents
        )
    ]
    assert coarse.cosine_mean.value == pytest.approx(np.mean(cosines), abs=5e-4)
    assert coarse.cosine_min == pytest.approx(min(cosines), abs=5e-4)
    assert coarse.cosine_mean.low < coarse.cosine_mean.value < coarse.cosine_mean.high < fine.cosine_mean.value < 1
    assert (fine.documents, fine.text_sha256) == (12, ENCODED.sha256)
    assert fine.parent_sha256 == hashlib.sha256(tiny_encoder.read_bytes()).hexdigest()
    assert seen == [(n, 24) for n in range(1, 25)]


def test_long_and_few_documents_of_an_encoder(tiny_encoder: Path) -> None:
    """The encoder reads 64 tokens."""
    long = Corpus.of([f"{name} " + "the cat sat " * 100 for name in "abcdefgh"])
    same = measure_similarity(tiny_encoder, tiny_encoder, long, threads=1)
    assert same.cosine_mean.value == pytest.approx(1)
    with pytest.raises(UsageError, match="too few"):
        measure_similarity(tiny_encoder, tiny_encoder, Corpus.of(["one", "two"]), threads=1)
