"""Targets as bounds on mixes: each is kept, and where they contradict each other the nearest that is feasible is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.edge.memory import estimate
from foreshore.edge.options import EngineOptions
from foreshore.errors import UsageError
from foreshore.quantize.assemble import assemble, file_bytes
from foreshore.quantize.search.bounds import Bounds, memory_table
from foreshore.quantize.search.decode_times import DecodeTimes
from foreshore.quantize.search.fit_targets import parse_fit
from foreshore.quantize.search.knapsack import Options, total_bytes, total_memory, total_seconds
from foreshore.quantize.search.measurements import Measurements
from foreshore.quantize.search.survey import Survey, candidates
from tests.tiny_model import write_decoder

TYPES = ("q4_0", "q4_k", "q6_k")
SECONDS = {"q4_0": 0.5, "q4_k": 0.8, "q6_k": 0.7}  # a token, of a parent that takes 1


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> GgufInfo:
    return inspect(write_decoder(tmp_path_factory.mktemp("base") / "base.gguf", layers=1, width=256))


@pytest.fixture(scope="module")
def survey(base: GgufInfo) -> Survey:
    found = candidates(base, [t.name for t in base.tensors], (), TYPES)
    times = DecodeTimes(base=base, record=Measurements(None, {}))
    seconds = times.table(found.types, SECONDS, 1.0)
    return found.with_memory(memory_table(base, found.types)).with_seconds(seconds)


def bounds(survey: Survey, fit: str) -> tuple[Bounds, Options]:
    costs = {
        name: {kind: 8.0 ** -(2 + i) if kind in TYPES else 0.0 for i, kind in enumerate(some)}
        for name, some in survey.types.items()
    }
    options = survey.options(costs)
    return Bounds.of(parse_fit(fit), survey.base, options, EngineOptions()), options


def test_all_targets_hold_together(survey: Survey) -> None:
    parent = estimate(survey.base.path, EngineOptions()).total
    limits, options = bounds(survey, f"size<=600kB,memory<={parent - 2_000_000},decode>=1.4")
    choice = limits.solve(options)
    assert limits.size(choice) <= 600_000
    assert limits.fixed_memory + total_memory(choice) <= parent - 2_000_000
    assert total_seconds(choice) <= 1 / 1.4


def test_only_what_a_choice_misses_is_given_up(survey: Survey) -> None:
    parent = estimate(survey.base.path, EngineOptions()).total
    fit = f"size<=600kB,kl<=0.01,memory<={parent - 2_000_000},decode>=1.1"
    limits, options = bounds(survey, fit)
    assert limits.relaxed(limits.solve(options)) == parse_fit(fit)
    whole = {name: some[-1] for name, some in options.items()}
    given_up = limits.relaxed(whole)
    assert given_up.size == limits.size(whole)
    assert given_up.memory == limits.held(whole)
    assert given_up.decode == pytest.approx(0.995)
    assert limits.slower(2).relaxed(whole).decode == pytest.approx(0.4975, rel=1e-2), "as slow as it was measured"
    assert given_up.kl == 0.01


@pytest.mark.parametrize("kind", TYPES)
def test_memory_is_the_runtimes_estimate(survey: Survey, tmp_path: Path, kind: str) -> None:
    types = dict.fromkeys(survey.types, kind)
    made = assemble(survey.base, types, tmp_path / "mix.gguf", stand_in=True)
    limits, options = bounds(survey, "memory<=1GB")
    held = sum(next(o.memory for o in options[name] if o.type == kind) for name in types)
    assert limits.fixed_memory + held == estimate(made.path, EngineOptions()).total


def test_a_uniform_mix_takes_what_its_type_took(survey: Survey) -> None:
    for kind, seconds in (SECONDS | {"f32": 1.0}).items():
        assert sum(row[kind] for row in survey.seconds.values()) == pytest.approx(seconds)


def test_a_type_that_few_tensors_can_have_is_charged_to_those_alone(base: GgufInfo, survey: Survey) -> None:
    some = {name: (("q4_k", "f32") if "ffn" in name else ("f32",)) for name in survey.types}
    table = DecodeTimes(base=base, record=Measurements(None, {})).table(some, {"q4_k": 0.7}, 1.0)
    mix = sum(row["q4_k" if "q4_k" in row else "f32"] for row in table.values())
    assert mix == pytest.approx(0.7)
    assert all(table[name] == {"f32": pytest.approx(survey.seconds[name]["f32"])} for name in some if "ffn" not in name)


def test_an_embedding_that_is_only_read_takes_no_time(survey: Survey) -> None:
    assert set(survey.seconds["token_embd.weight"].values()) == {0.0}
    assert survey.seconds["output.weight"]["f32"] > 0


def test_the_smallest_type_is_not_taken_where_another_is_faster(survey: Survey) -> None:
    limits, options = bounds(survey, "decode>=1.995")
    assert {o.type for name, o in limits.solve(options).items() if survey.seconds[name]["f32"]} == {"q4_0"}


@pytest.mark.parametrize(
    "fit", ["size<=100kB", "memory<=2MB", "decode>=9", "size<=460kB,decode>=1.42", "size<=100kB,decode>=9"]
)
def test_what_cannot_be_had_is_named_and_its_hint_can_be_had(survey: Survey, fit: str) -> None:
    limits, options = bounds(survey.only(("q4_k", "q6_k")), fit)
    with pytest.raises(UsageError) as caught:
        limits.solve(options)
    hint = str(caught.value.hint)
    quoted = re.findall(r'"([^"]+)"', hint)
    for nearest in quoted or hint.removeprefix("it can have ").split(" or "):
        feasible, options = bounds(survey.only(("q4_k", "q6_k")), nearest)
        feasible.solve(options)
    assert bool(quoted) == ("contradict" in caught.value.message)


def test_without_a_bound_on_size_the_parent_is_the_limit(survey: Survey) -> None:
    limits, options = bounds(survey, "kl<=0.1")
    assert limits.size(limits.solve(options)) == file_bytes(survey.base, {})
    assert total_bytes(limits.solve(options)) == limits.bytes
