"""Which mixes a search tries: llama.cpp's own first, always within the bounds, and none twice."""

from __future__ import annotations

from math import inf

import pytest

from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.edge.options import EngineOptions
from foreshore.quantize.assemble import file_bytes
from foreshore.quantize.native import plan, quantizer
from foreshore.quantize.search.bounds import Bounds
from foreshore.quantize.search.fit_targets import FitTargets
from foreshore.quantize.search.meter import Mix
from foreshore.quantize.search.proposals import Proposals
from foreshore.quantize.search.survey import Survey, candidates
from foreshore.quantize.search.uniform import FTYPES, uniform_mixes
from tests.tiny_model import write_decoder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> GgufInfo:
    return inspect(write_decoder(tmp_path_factory.mktemp("base") / "base.gguf", layers=1, width=256))


@pytest.fixture(scope="module")
def survey(base: GgufInfo) -> Survey:
    found = candidates(base, {t.name for t in base.tensors}, ())
    return found.with_errors((pair, 4.0 ** -len(pair[1])) for pair in found.pairs() if pair[1] == "q8_0")


@pytest.fixture(scope="module")
def own(survey: Survey) -> dict[str, Mix]:
    with quantizer() as planner:
        return uniform_mixes(survey, None, planner)


def proposals(survey: Survey, targets: FitTargets, own: dict[str, Mix]) -> Proposals:
    bounds = Bounds.of(targets, survey.base, survey.options(), EngineOptions())
    return Proposals(survey, bounds, survey.costs(), own.values())


def proposed(some: Proposals, count: int) -> list[Mix]:
    """As many as there are; each is then said to cost what was foretold of it."""
    found: list[Mix] = []
    for _ in range(count):
        if choice := some.next():
            found.append({name: option.type for name, option in choice.items()})
            some.observe(found[-1], some.predict(found[-1]))
    return found


def test_own_mixes_are_those_that_llama_cpp_makes(base: GgufInfo, survey: Survey, own: dict[str, Mix]) -> None:
    assert {"q8_0", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"} <= set(own) <= set(FTYPES)
    assert not [name for name in own if name.startswith("iq2")], "without an importance matrix those are garbage"
    planned = plan(base, "q4_k_m").types
    assert own["q4_k_m"] == {name: planned[name] for name in survey.types}
    with quantizer() as planner:
        alone = uniform_mixes(survey.only({"q4_k", "q8_0"}), None, planner)
    assert set(alone) == {"q8_0"}, "no other has all its types on offer"


@pytest.mark.parametrize("ftype", ["q3_k_m", "q4_k_m", "q5_k_m"])
def test_the_first_is_the_best_own_mix_that_fits(
    base: GgufInfo, survey: Survey, own: dict[str, Mix], ftype: str
) -> None:
    limit = file_bytes(base, own[ftype])
    some = proposals(survey, FitTargets(size=limit), own)
    found = proposed(some, 12)
    assert found[0] == own[ftype]
    assert some.predict(found[1]) <= some.predict(found[0]), "the second is the knapsack's"
    assert max(file_bytes(base, mix) for mix in found) <= limit
    assert len({tuple(mix.items()) for mix in found}) == len(found)


def test_of_what_loses_little_enough_the_first_is_the_smallest_own_one(
    base: GgufInfo, survey: Survey, own: dict[str, Mix]
) -> None:
    free = proposals(survey, FitTargets(size=base.size), own)
    wanted = free.predict(own["q5_k_s"])
    first = proposed(proposals(survey, FitTargets(kl=wanted), own), 1)[0]
    enough = [mix for mix in own.values() if free.predict(mix) <= wanted]
    assert file_bytes(base, first) == min(file_bytes(base, mix) for mix in enough)


def test_own_mixes_are_tried_no_further_once_a_far_better_one_is_known(
    base: GgufInfo, survey: Survey, own: dict[str, Mix]
) -> None:
    some = proposals(survey, FitTargets(size=file_bytes(base, own["q4_k_m"])), own)
    first, solved = proposed(some, 2)
    some.observe(solved, some.predict(solved) / 100)
    known = [dict(mix) for mix in own.values()]
    assert first in known
    assert not [mix for mix in proposed(some, 6) if mix in known]


def test_what_computes_no_numbers_is_not_the_one_to_stay_near(survey: Survey, own: dict[str, Mix]) -> None:
    some = proposals(survey, FitTargets(size=survey.base.size // 6), own)
    some.observe(own["q2_k"], inf)
    assert len(proposed(some, 5)) == 5
