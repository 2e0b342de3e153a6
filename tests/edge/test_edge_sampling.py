"""Drawing tokens: always the one that llama.cpp's whole chain draws, whatever is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from foreshore.edge import EngineOptions, Runtime
from foreshore.edge.sampling.candidates import Candidates, Logits
from foreshore.edge.sampling.chain import Chain, Stage
from foreshore.edge.sampling.narrow import best
from foreshore.edge.sampling.sampling import Sampler, logprobs, resolve, validate, warm
from foreshore.edge.sampling.uniform import Uniform
from foreshore.edge.vocab import Vocab
from foreshore.errors import BadRequest, UpstreamError
from foreshore.types import Sampling
from tests.edge.bare_vocab import Plain, bare_vocab, quiet

SIZES = (300, 5000, 33_000, 152_000)


@pytest.fixture(scope="module", params=SIZES)
def vocab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocab]:
    quiet()
    with bare_vocab(tmp_path_factory.mktemp("vocab"), request.param) as found:
        yield found


@pytest.fixture(scope="module")
def middle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocab]:
    quiet()
    with bare_vocab(tmp_path_factory.mktemp("vocab"), 5000) as found:
        yield found


def like_a_model(rng: np.random.Generator, size: int) -> Logits:
    """Logits without ties: a wide heap, and some tens far above it."""
    row = rng.normal(0, 2, size).astype(np.float32)
    row[rng.choice(size, 60, replace=False)] += rng.gamma(3, 3, 60).astype(np.float32)
    return row


EXACT: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "top_k": 5, "top_p": 0.4, "min_p": 0.2},
    {"temperature": 0, "repeat_penalty": 1.8, "presence_penalty": 2.0, "logit_bias": {3: 40.0, 7: 39.5}},
    {"temperature": 0, "typical_p": 0.3},
    {"top_k": 1},
    {"top_k": 40, "top_p": 0.95, "temperature": 0.8},
    {"top_k": 40, "typical_p": 0.7, "temperature": 1.2},
    {"top_k": 100, "top_p": 0.9, "min_p": 0.02, "temperature": 1.5, "min_keep": 3},
    {"top_k": 20, "xtc_probability": 0.7, "xtc_threshold": 0.05},
    {"top_k": 30, "dynatemp_range": 0.6, "dynatemp_exponent": 1.4, "temperature": 1.1},
    {"top_k": 4000},
    {"top_k": 10**9, "temperature": 0.5},
    {"min_p": 0.05, "temperature": 0.9},
    {"min_p": 0.3, "min_keep": 7, "temperature": 2.0},
    {"min_p": 0.02, "adaptive_target": 0.3, "adaptive_decay": 0.5},
    {"min_p": 0.1, "xtc_probability": 0.5},
    {"typical_p": 0.6},
    {"xtc_probability": 0.9, "xtc_threshold": 0.02},
    {"dynatemp_range": 0.4},
    {"mirostat": 1, "mirostat_tau": 3.0},
    {"mirostat": 2, "mirostat_eta": 0.3, "temperature": 0.9},
    {"top_k": 40, "repeat_penalty": 1.3, "frequency_penalty": 0.4, "repeat_last_n": 20},
    {"top_k": 40, "repeat_penalty": 0.8},
    {"top_k": 40, "dry_multiplier": 0.9, "dry_allowed_length": 1},
    {"top_k": 40, "dry_multiplier": 0.9, "repeat_penalty": 1.1, "logit_bias": {1: 30.0, 4: -100.0}},
    {"min_p": 0.1, "presence_penalty": 1.5, "logit_bias": {9: 25.0}},
    {"top_k": 50, "samplers": ("top_k", "penalties", "temperature"), "repeat_penalty": 1.4},
    {"min_p": 0.05, "top_k": 9, "samplers": ("min_p", "top_k", "temperature")},
    {"top_k": 12, "samplers": ("temperature", "top_k")},
    {"top_k": 12, "samplers": ("top_k",)},
    {"top_k": 30, "samplers": ("top_k", "infill", "temperature")},
]
# These need sums over the whole vocabulary, which llama.cpp makes in float32 one by one, and we more exactly.
NEARLY: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.6},
    {"temperature": 1.7, "repeat_penalty": 1.2},
    {"top_p": 0.9},
    {"top_p": 0.5, "temperature": 1.4, "min_keep": 4},
    {"top_p": 0.95, "min_p": 0.02, "frequency_penalty": 0.5},
    {"top_n_sigma": 1.5},
    {"top_n_sigma": 2.0, "top_k": 10, "temperature": 1.3},
]


def draws(sampler: Sampler | Plain, rows: list[Logits]) -> list[int]:
    try:
        return [sampler.draw(row) for row in rows]
    finally:
        sampler.close()


@pytest.mark.parametrize("asked", EXACT, ids=str)
def test_the_token_is_that_of_the_whole_chain(vocab: Vocab, asked: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    rows = [like_a_model(rng, vocab.size) for _ in range(3)] * 2
    history = rng.integers(0, 40, 100).tolist() * 2
    for seed in range(2):
        validate(Sampling(seed=seed, **asked), vocab.size)
        sampling = resolve(Sampling(seed=seed, **asked), {})
        wanted = draws(Plain(sampling, vocab, history), rows)
        assert draws(Sampler(sampling, vocab, history), rows) == wanted


@pytest.mark.parametrize("asked", NEARLY, ids=str)
def test_where_sums_are_rounded_the_token_is_nearly_always_that_of_the_whole_chain(
    vocab: Vocab, asked: dict[str, Any]
) -> None:
    rng = np.random.default_rng(2)
    rows = [like_a_model(rng, vocab.size) for _ in range(4)] * 3
    sampling = resolve(Sampling(seed=5, **asked), {})
    pairs = list(zip(draws(Sampler(sampling, vocab), rows), draws(Plain(sampling, vocab), rows), strict=True))
    # A history that differs by one token may go on differing, so the first difference is what counts.
    assert all(ours == theirs for ours, theirs in pairs), asked


@pytest.mark.parametrize("asked", [*EXACT[5:], *NEARLY], ids=str)
def test_of_equal_logits_another_may_be_drawn_but_never_another_logit(middle: Vocab, asked: dict[str, Any]) -> None:
    """Coarse logits, so that nearly all are tied. Penalties would part tied tokens by who was drawn before."""
    rng = np.random.default_rng(3)
    rows = [np.round(like_a_model(rng, middle.size)) for _ in range(4)]
    sampling = resolve(Sampling(seed=7, **asked), {})
    for row in rows:
        (ours,), (theirs,) = draws(Sampler(sampling, middle), [row]), draws(Plain(sampling, middle), [row])
        assert row[ours] == row[theirs]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 63, 64, 65, 1000, 5003]), st.data())
def test_the_best_are_all_found(seed: int, size: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, size))
    levels = data.draw(st.sampled_from([2, 50, 10**9]))
    row = np.random.default_rng(seed).integers(0, levels, size).astype(np.float32)
    row[row == 0] = -np.inf
    ids = best(row, k)
    kth = np.sort(row)[-k]
    assert set(np.flatnonzero((row >= kth) & (row > -np.inf))) <= set(ids)
    assert (np.diff(ids) > 0).all()
    assert np.isfinite(row[ids]).all()


def test_random_numbers_are_those_of_the_native_sampler(middle: Vocab) -> None:
    """Two tokens of equal weight: the draw says whether the native number was above a half."""
    sampling = resolve(Sampling(seed=11, top_k=2), {})
    row = np.full(middle.size, -np.inf, np.float32)
    row[[3, 8]] = 1.0
    uniform = Uniform(11)
    wanted = [3 if uniform.draw() <= 0.5 else 8 for _ in range(200)]
    assert draws(Plain(resolve(Sampling(seed=11), {}), middle), [row] * 200) == wanted
    assert len(set(draws(Sampler(sampling, middle), [row] * 50))) == 2


@pytest.mark.parametrize("asked", [{"temperature": 0}, {}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.1}], ids=str)
@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_logits_that_are_no_numbers_are_an_error_and_not_a_crash(
    vocab: Vocab, asked: dict[str, Any], value: float
) -> None:
    row = np.full(vocab.size, value, np.float32)
    sampler = Sampler(resolve(Sampling(seed=1, **asked), {}), vocab)
    with pytest.raises(UpstreamError, match="not numbers"):
        sampler.draw(row)
    sampler.close()


def test_penalties_look_back_on_the_prompt_and_no_further_than_asked(middle: Vocab) -> None:
    row = np.zeros(middle.size, np.float32)
    row[[10, 20, 30]] = (3.0, 2.0, 1.5)
    asked = resolve(Sampling(temperature=0, presence_penalty=2.0, repeat_last_n=4), {})
    assert draws(Sampler(asked, middle), [row]) == [10]
    assert draws(Sampler(asked, middle, [10]), [row]) == [20]
    assert draws(Sampler(asked, middle, [10, 1, 1, 1, 1]), [row]) == [10]
    primed = Sampler(asked, middle)
    primed.prime([10, 20])
    assert draws(primed, [row] * 5) == [30, 10, 10, 10, 20]  # at last the window has moved past 20


def test_dry_keeps_a_repetition_from_going_on(middle: Vocab) -> None:
    row = np.zeros(middle.size, np.float32)
    row[[500, 501]] = (5.0, 1.0)
    history = [400, 401, 402, 500, 400, 401, 402]
    strong: dict[str, Any] = {"temperature": 0.0, "dry_multiplier": 10.0}
    assert draws(Sampler(resolve(Sampling(**strong), {}), middle, history), [row]) == [501]
    broken = resolve(Sampling(**strong, dry_sequence_breakers=(middle.text(402),)), {})
    warm(broken, middle)
    assert draws(Sampler(broken, middle, history), [row]) == [500]


@pytest.mark.parametrize("asked", [*EXACT, *NEARLY], ids=str)
def test_what_is_forbidden_is_never_drawn(vocab: Vocab, asked: dict[str, Any]) -> None:
    """Three tokens are possible, as often under a grammar."""
    row = np.full(vocab.size, -np.inf, np.float32)
    row[[10, 200, vocab.size - 1]] = (1.0, 0.5, 0.8)
    sampler = Sampler(resolve(Sampling(seed=2, **asked), {}), vocab, [10, 200] * 20)
    assert {sampler.draw(row) for _ in range(30)} <= {10, 200, vocab.size - 1}
    sampler.close()


def test_every_sampler_can_be_asked_for(tiny: Path) -> None:
    with Runtime(tiny, options=EngineOptions(threads=1)) as runtime:
        for asked in (*EXACT, *NEARLY):
            texts = [runtime.chat("hello", max_tokens=4, seed=5, **asked).text for _ in range(2)]
            assert texts[0] == texts[1], asked
        with pytest.raises(BadRequest, match="mirostat") as caught:
            runtime.chat("hello", mirostat=2, top_k=3)
    assert caught.value.param == "top_k"


def test_a_row_is_left_as_it_was(middle: Vocab) -> None:
    row = like_a_model(np.random.default_rng(4), middle.size)
    before = row.copy()
    row.setflags(write=False)
    for asked in [*EXACT, *NEARLY, {"grammar": 'root ::= [a-z]+ "."'}]:
        draws(Sampler(resolve(Sampling(seed=3, **asked), {}), middle, [1, 2, 3]), [row] * 2)
    assert (row == before).all()


def test_log_probabilities_are_those_of_the_whole_vocabulary(vocab: Vocab) -> None:
    row = like_a_model(np.random.default_rng(5), vocab.size)
    exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    found = logprobs(row, 7, 5, vocab)
    order = np.argsort(-row)[:5]
    assert found.logprob == pytest.approx(exact[7], abs=1e-5)
    assert [e.logprob for e in found.top] == pytest.approx(exact[order].tolist(), abs=1e-5)
    assert [e.bytes for e in found.top] == [vocab.piece(int(t)) for t in order]
    assert logprobs(row, 7, 0, vocab).top == ()


GRAMMARS = [
    'root ::= "ab" [c-z]+',
    "root ::= [^a-y]*",
    'root ::= "é" | "z"',
    'root ::= ("a" | "b")* "."',
    "root ::= .*",
]


@pytest.mark.parametrize("text", GRAMMARS)
@pytest.mark.parametrize("asked", [{"temperature": 0}, {"top_k": 12}, {}, {"top_p": 0.9}, {"min_p": 0.2}], ids=str)
def test_under_a_grammar_the_token_is_that_of_the_chain_over_all_allowed(
    middle: Vocab, text: str, asked: dict[str, Any]
) -> None:
    rng = np.random.default_rng(6)
    for seed in range(4):
        row = like_a_model(rng, middle.size)
        sampling = resolve(Sampling(seed=seed, grammar=text, **asked), {})
        plain, sampler = Plain(sampling, middle), Sampler(sampling, middle)
        free = plain.draw(row)
        open_ = allowed(middle, text)
        masked = np.where(open_, row, np.float32(-np.inf))
        wanted = free if open_[free] else plain.draw(masked)
        assert sampler.draw(row) == wanted
        sampler.close()
        plain.close()


def allowed(vocab: Vocab, text: str) -> NDArray[np.bool_]:
    """What the grammar lets come first, asked of the whole vocabulary at once."""
    chain = Chain(
        [Stage(name="g", make=lambda: native.llama_sampler_init_grammar(vocab.handle, text.encode(), b"root"))]
    )
    candidates = Candidates()
    chain.apply(candidates.fill(np.arange(vocab.size), np.zeros(vocab.size, np.float32)))
    found: NDArray[np.bool_] = np.isfinite(candidates.logits(vocab.size))
    chain.close()
    return found


def test_a_chain_that_cannot_be_made_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[Any] = []
    free = native.llama_sampler_free

    def counted(chain: Any) -> None:
        freed.append(chain)
        free(chain)

    monkeypatch.setattr(native, "llama_sampler_free", counted)

    def fail() -> None:
        raise BadRequest("no such grammar")

    greedy = Stage(name="greedy", make=native.llama_sampler_init_greedy)
    with pytest.raises(BadRequest, match="no such grammar"):
        Chain([greedy, Stage(name="grammar", make=fail)])
    assert len(freed) == 1


def test_a_grammar_that_names_tokens_is_asked_about_all_of_them(tmp_path: Path) -> None:
    with bare_vocab(tmp_path, 3000, controls=("<|end|>", "<|tool|>")) as vocab:
        tool = vocab.tokenize("<|tool|>", special=True)[0]
        sampling = resolve(Sampling(temperature=0, grammar='root ::= <|tool|> "x"'), {})
        row = like_a_model(np.random.default_rng(7), vocab.size)
        (x,) = vocab.tokenize("x", special=False)
        assert draws(Sampler(sampling, vocab), [row] * 2) == [tool, x]


def test_a_grammar_that_no_token_can_follow_is_an_error(middle: Vocab) -> None:
    sampler = Sampler(resolve(Sampling(temperature=0, grammar='root ::= "a"'), {}), middle)
    row = like_a_model(np.random.default_rng(8), middle.size)
    (a,) = middle.tokenize("a", special=False)
    assert sampler.draw(row) == a
    assert middle.is_end(sampler.draw(row))
    sampler.close()


@pytest.mark.parametrize("text", ["root ::= (", "nothing", "root ::= other", "(" * 100, "x" * 200_000])
def test_what_is_no_grammar_is_refused(middle: Vocab, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Sampler(resolve(Sampling(grammar=text), {}), middle)
    assert caught.value.param == "grammar"


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("temperature", {"temperature": -1}),
    ("temperature", {"temperature": float("nan")}),
    ("top_k", {"top_k": 1.5}),
    ("top_p", {"top_p": True}),
    ("typical_p", {"typical_p": 1.1}),
    ("typical_p", {"typical_p": None}),
    ("top_n_sigma", {"top_n_sigma": float("inf")}),
    ("xtc_probability", {"xtc_probability": 2}),
    ("xtc_threshold", {"xtc_threshold": "0.1"}),
    ("dynatemp_range", {"dynatemp_range": -0.5}),
    ("dynatemp_range", {"dynatemp_range": 0.5, "temperature": 0}),
    ("dynatemp_exponent", {"dynatemp_exponent": -1}),
    ("mirostat", {"mirostat": 3}),
    ("mirostat", {"mirostat": 2, "temperature": 0}),
    ("mirostat_tau", {"mirostat_tau": -1}),
    ("mirostat_eta", {"mirostat_eta": 2}),
    ("top_k", {"mirostat": 2, "top_k": 40}),
    ("xtc_probability", {"mirostat": 1, "xtc_probability": 0.5}),
    ("repeat_penalty", {"mirostat": 1, "repeat_penalty": 1.1}),
    ("samplers", {"mirostat": 1, "samplers": ("top_k",)}),
    ("dry_base", {"dry_base": 0.5}),
    ("dry_allowed_length", {"dry_allowed_length": -1}),
    ("dry_penalty_last_n", {"dry_penalty_last_n": 2**31 - 1}),
    ("repeat_last_n", {"repeat_last_n": -1}),
    ("dry_sequence_breakers", {"dry_sequence_breakers": "abc"}),
    ("dry_sequence_breakers", {"dry_sequence_breakers": ("",)}),
    ("dry_sequence_breakers", {"dry_sequence_breakers": ("x" * 41,)}),
    ("dry_sequence_breakers", {"dry_sequence_breakers": ("a",) * 17}),
    ("dry_sequence_breakers", {"dry_sequence_breakers": ("\ud800\0",)}),
    ("adaptive_target", {"adaptive_target": 1.5}),
    ("adaptive_target", {"adaptive_target": 0.5, "temperature": 0}),
    ("adaptive_target", {"samplers": ("adaptive_p",)}),
    ("adaptive_decay", {"adaptive_decay": 1.0}),
    ("min_keep", {"min_keep": -1}),
    ("samplers", {"samplers": "top_k"}),
    ("samplers", {"samplers": ("top_q",)}),
    ("samplers", {"samplers": (1,)}),
    ("samplers", {"samplers": ("typ_p", "typical_p")}),
    ("top_k", {"top_k": 5, "samplers": ("top_p",)}),
    ("dry_multiplier", {"dry_multiplier": 0.5, "samplers": ()}),
    ("logit_bias", {"logit_bias": {5000: 1.0}}),
    ("logit_bias", {"logit_bias": {1: 101}}),
]


@pytest.mark.parametrize(("param", "asked"), REFUSED, ids=str)
def test_a_value_that_makes_no_sense_is_refused_by_name(param: str, asked: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        validate(Sampling(**asked), 5000)
    assert caught.value.param == param


def test_mirostat_runs_without_the_narrowing_that_a_model_has_by_default() -> None:
    model = {"top_k": 20.0, "top_p": 0.8, "min_p": 0.1, "temperature": 0.6}
    sampling = resolve(Sampling(mirostat=2), model)
    assert (sampling.top_k, sampling.top_p, sampling.min_p, sampling.temperature) == (0, 1.0, 0.0, 0.6)
    assert resolve(Sampling(), model).top_k == 20
