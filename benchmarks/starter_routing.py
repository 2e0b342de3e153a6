"""Routing between the starters, end to end: how much of what the cloud is better at comes back at 30 % cloud calls.

    python -m benchmarks.starter_routing [--json] [--quick] [--count N]

`starter-s` (q4_k_m) answers on the edge, `starter-l` (q8_0) behind HTTP in a process of its own. Both answer questions
of every kind and level. On one split of them the edge variant's confidence is measured, as `foreshore models measure`
does it, the cascade's threshold is read off its card, and the prompt estimator is trained; on another, which shares no
prompt with it, every row is judged. `gap_recovered_at_30` goes through the gateway: a rule with `strategy: cascade`.
The share of the gap is (accuracy - edge only) / (cloud only - edge only): 0 is the edge alone, 1 the cloud alone, and
more is possible where the edge is right and the cloud is wrong. All other rows are worked out from the same answers;
they send the 30 % of highest score to the cloud. Intervals are percentiles of a bootstrap over questions.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from benchmarks.command import check_names, parser, run_as_command, show
from benchmarks.row import Row, Target, failed
from benchmarks.starter_traffic import EDGE, Item, Said, cloud, gateway, items
from foreshore.card import Card, ConfidenceCard, Interval
from foreshore.cli.console import err, exit_on_error
from foreshore.manifest import Manifest
from foreshore.quality import Label, train
from foreshore.quality.confidence_fit import auroc, ece, interval
from foreshore.quantize import build
from foreshore.quantize.accuracy import Answered, answered
from foreshore.quantize.confidences import confidence_card, prompt_of
from foreshore.store import Store

__all__ = ["TARGETS", "Judged", "main", "recovered", "routers"]

SHARE = 0.3  # of requests that may go to the cloud
FULL, QUICK = 24, 5  # questions of each kind and level, in each split
OTHERS = ("q2_k", "q3_k_m", "q6_k")  # variants of the edge model whose curves are shown beside it
RESAMPLES = 2000
TARGETS = {
    "gap_recovered_at_30": Target(bound=0.75, side=">=", what="share of the gap that a cascade recovers, live"),
    "confidence_auroc": Target(bound=0.75, side=">=", what="confidence in the edge's answers, right above wrong"),
}

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The test split: who is right, question by question."""

    items: Sequence[Item]
    edge: Flags
    cloud: Flags
    confidence: Numbers  # in the edge's answers

    @property
    def gap(self) -> float:
        return float(self.cloud.mean() - self.edge.mean())


def recovered(edge: Flags, cloud: Flags, routed: Flags | Numbers, seed: int = 0) -> Interval:
    """(routed - edge) / (cloud - edge) of the shares of right answers, by question, and its 95 % interval."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(edge), size=(RESAMPLES, len(edge)))
    base, best, found = (part[drawn].mean(axis=1) for part in (edge, cloud, routed))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (found - base) / (best - base)
    low, high = np.nanquantile(ratios, (0.025, 0.975))
    value = float((routed.mean() - edge.mean()) / (cloud.mean() - edge.mean()))
    return Interval(value=value, low=float(low), high=float(high))


def measure(per_level: int, others: Sequence[str] = ()) -> tuple[dict[str, Row], dict[str, Any]]:
    """The rows with targets; beside them all routers, and the curves of the edge variant and of `others`."""
    taken: set[str] = set()
    test, learnt = items(per_level, 0, taken), items(per_level, 1, taken)
    with _home() as folder, cloud(folder) as url, Progress(console=err, transient=True) as bars:
        card = _calibrate(learnt)
        threshold = _threshold_of(card.card)
        bar = bars.add_task("asking", total=len(learnt) + 3 * len(test))

        def step() -> None:
            bars.advance(bar)

        rule = f"rules: [{{name: unsure, prefer: [edge, cloud], strategy: cascade, confidence: {threshold!r}}}]"
        with gateway(folder, url, rule) as served:
            edge, strong = served.ask(test, "edge", step), served.ask(test, "cloud", step)
            live = served.ask(test, "auto", step)
            taught = served.ask(learnt, "cloud", step)
        variants = [_curve("q4_k_m", card.card), *_curves(learnt, others)]
    judged = Judged(
        items=test,
        edge=_right(edge),
        cloud=_right(strong),
        confidence=np.array([0.0 if said.confidence is None else said.confidence for said in live]),
    )
    labels = [Label(prompt_of(i.task), "cloud", s.right) for i, s in zip(learnt, taught, strict=True)]
    labels += [Label(prompt_of(i.task), "edge", right) for i, right in zip(learnt, card.right, strict=True)]
    return _rows(judged, live, threshold, card.card), {
        "routers": routers(judged, labels),
        "kinds": _kinds(judged, live),
        "variants": variants,
        "questions": {"learnt": len(learnt), "judged": len(test)},
        "tokens": {
            "edge": int(sum(s.tokens for s in edge)),
            "cloud": int(sum(s.tokens for s in strong)),
            "cascade": int(sum(s.tokens for s in live)),
        },
    }


# --- what is learnt ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calibrated:
    card: ConfidenceCard
    right: Sequence[bool]  # of the questions that were learnt from


@contextmanager
def _home() -> Iterator[Path]:
    """A store of its own with both starters in it, for this process and those it starts."""
    before = os.environ.get("FORESHORE_HOME")
    with tempfile.TemporaryDirectory(prefix="foreshore-bench-") as name:
        os.environ["FORESHORE_HOME"] = name
        try:
            build("starter-s", ["q4_k_m"])
            build("starter-l", ["q8_0"])
            yield Path(name)
        finally:
            del os.environ["FORESHORE_HOME"]
            if before is not None:
                os.environ["FORESHORE_HOME"] = before


def _calibrate(learnt: Sequence[Item]) -> _Calibrated:
    """Measure the edge variant's confidence, and put the card into its manifest."""
    store, tasks = Store(), [item.task for item in learnt]
    said: Sequence[Answered] = answered(store.path(store.get(EDGE)), tasks)
    card, labels = confidence_card(tasks, said)

    def filled(manifest: Manifest) -> Manifest:
        return replace(manifest, card=Card(confidence=card))

    store.update(EDGE, filled, labels=labels)
    return _Calibrated(card=card, right=[a.right for a in said])


def _curves(learnt: Sequence[Item], types: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the confidence of other variants of the edge model is worth, on the questions that were learnt from."""
    store, tasks = Store(), [item.task for item in learnt]
    for manifest in build("starter-s", types) if types else ():
        yield _curve(manifest.variant, confidence_card(tasks, answered(store.path(manifest), tasks))[0])


def _curve(variant: str, card: ConfidenceCard) -> dict[str, Any]:
    """`handed_off`: the share of answers that must go on so that so many of those that are kept are right."""
    kept = {
        wanted: max((t.local_share for t in card.thresholds if t.accuracy.value >= wanted), default=0.0)
        for wanted in (0.9, 0.95, 0.99)
    }
    return {
        "variant": variant,
        "accuracy": round(card.correct / card.count, 4),
        "auroc": None if card.auroc is None else round(card.auroc.value, 4),
        "ece": None if card.ece is None else round(card.ece.value, 4),
        "handed_off": {str(wanted): round(1 - share, 4) for wanted, share in kept.items()},
        "threshold_at_70_local": round(_threshold_of(card), 4),
    }


def _threshold_of(card: ConfidenceCard) -> float:
    """That of the card which keeps at least 1 - SHARE of the answers, and no more than it must."""
    kept = [t for t in card.thresholds if t.local_share >= 1 - SHARE]
    return min(kept, key=lambda t: t.local_share).confidence


# --- what is judged ---------------------------------------------------------------------------------------------


def _rows(judged: Judged, live: Sequence[Said], threshold: float, card: ConfidenceCard) -> dict[str, Row]:
    went = np.array(["cloud" in said.asked for said in live])
    right = _right(live)
    over = max(0, int(went.sum()) - int(SHARE * len(live)))
    if over:  # more than 30 % went: the surest of them are taken back
        back = sorted(np.flatnonzero(went), key=lambda i: -judged.confidence[i])[:over]
        right[back] = judged.edge[back]
    found = recovered(judged.edge, judged.cloud, right)
    details = {
        "accuracy": _share(right), "edge_only": _share(judged.edge), "cloud_only": _share(judged.cloud),
        "cloud_share": round(float(went.mean()), 4), "taken_back": over, "threshold": round(threshold, 4),
    }  # fmt: skip
    area = interval(auroc, judged.confidence, judged.edge, 0)
    hard = np.array([item.difficulty != "easy" for item in judged.items])
    told = {
        "ece": round(ece(judged.confidence, judged.edge), 4),
        "auroc_medium_and_hard": round(auroc(judged.confidence[hard], judged.edge[hard]), 4),
        "auroc_easy": round(auroc(judged.confidence[~hard], judged.edge[~hard]), 4),
        "auroc_when_learnt": None if card.auroc is None else round(card.auroc.value, 4),
    }
    return {
        "gap_recovered_at_30": _row("gap_recovered_at_30", found, details),
        "confidence_auroc": _row("confidence_auroc", area, told),
    }


def _row(key: str, found: Interval, details: Mapping[str, Any]) -> Row:
    return Row(key=key, value=found.value, low=found.low, high=found.high, details=dict(details))


def routers(judged: Judged, labels: Sequence[Label]) -> list[dict[str, Any]]:
    """Each sends the questions of highest score; ties fall by chance."""
    estimator = train(labels)
    told = [estimator.predict(prompt_of(item.task)) for item in judged.items]
    edge, strong = (np.array([t[name] for t in told]) for name in ("edge", "cloud"))
    lengths = np.array([float(len(prompt_of(item.task))) for item in judged.items])
    gains = judged.cloud.astype(float) - judged.edge.astype(float)
    scores: dict[str, Numbers] = {
        "length, longer": lengths,
        "length, shorter": -lengths,
        "prompt estimator": strong - edge,
        "cascade by confidence": -judged.confidence,
        "prompt estimator and confidence": strong - judged.confidence,
        "oracle": gains,
    }
    by_chance = SHARE * judged.cloud + (1 - SHARE) * judged.edge
    routed = {"random, on average": by_chance, **{name: _sent(judged, score) for name, score in scores.items()}}
    return [_router(name, judged, right) for name, right in routed.items()]


def _sent(judged: Judged, score: Numbers) -> Numbers:
    """Who is right where the questions of highest score go to the cloud."""
    ties = np.random.default_rng(0).random(len(score))
    sent = np.zeros(len(score), bool)
    sent[np.lexsort((ties, -score))[: int(SHARE * len(score))]] = True
    return np.where(sent, judged.cloud, judged.edge).astype(float)


def _router(name: str, judged: Judged, routed: Numbers) -> dict[str, Any]:
    found = recovered(judged.edge, judged.cloud, routed)
    numbers = {key: round(getattr(found, key), 4) for key in ("value", "low", "high")}
    return {"router": name, "gap_recovered": numbers, "accuracy": _share(routed), "cloud_share": SHARE}


def _kinds(judged: Judged, live: Sequence[Said]) -> list[dict[str, Any]]:
    """By difficulty: how often each is right, and what the cascade sent."""
    found = []
    for name in ("easy", "medium", "hard"):
        own = np.array([item.difficulty == name for item in judged.items])
        went = np.array(["cloud" in said.asked for said in live])[own]
        accuracies = {"edge": judged.edge[own], "cloud": judged.cloud[own], "cascade": _right(live)[own]}
        shares = {key: _share(flags) for key, flags in accuracies.items()}
        found.append({"difficulty": name, "questions": int(own.sum()), **shares, "sent": _share(went)})
    return found


def _right(said: Sequence[Said]) -> Flags:
    return np.array([one.right for one in said])


def _share(flags: Flags | Numbers) -> float:
    return round(float(flags.mean()), 4)


def main(argv: list[str] | None = None) -> None:
    options = parser("Routing between the starters, end to end.", f"{QUICK} questions of each kind and level")
    options.add_argument("--count", type=int, help=f"questions of each kind and level; default: {FULL}")
    given = options.parse_args(argv)
    with exit_on_error():
        check_names("row", given.only, TARGETS)
        try:
            count = given.count or (QUICK if given.quick else FULL)
            rows, beside = measure(count, () if given.quick else OTHERS)
        except Exception as error:  # so that --json prints an object, as every benchmark's does
            rows, beside = {key: failed(key, error) for key in TARGETS}, {}
    wanted = [rows[key] for key in given.only or TARGETS]
    show(wanted, TARGETS, as_json=given.json, **beside)
    if not given.json:
        for row in beside.get("routers", ()):
            found = row["gap_recovered"]
            err.print(f"{row['router']:34} {found['value']:7.3f} ({found['low']:.3f} to {found['high']:.3f})")


if __name__ == "__main__":
    run_as_command(main)
