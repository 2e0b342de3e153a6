"""Learning an estimator: for each target a ridge regression, whose scores are calibrated on rows it did not see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshore.errors import UsageError
from foreshore.quality import ridge
from foreshore.quality.calibration import platt
from foreshore.quality.design import EMBEDDING, WORDS, Design
from foreshore.quality.encoder import Embeds
from foreshore.quality.estimator import Estimator
from foreshore.quality.features import blocks, features
from foreshore.quality.labels import Label, fraction, targets
from foreshore.quality.reach import Reach
from foreshore.quality.weights import Weights

__all__ = ["FEWEST", "FOLDS", "MOST", "train"]

FOLDS = 5
FEWEST = 20  # right answers of a target, and wrong ones
MOST_TARGETS = 200
ALONE = 5000.0  # penalty on counts that speak alone, in variances of the noise: large, for what must hold elsewhere
MOST = 50_000  # prompts that are learnt from: about 250 MB

Numbers = NDArray[np.float64]
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """`right` and `weight` (prompts, targets); a weight of 0 is no label."""

    texts: Sequence[tuple[str, str | None]]  # prompt and answer
    targets: tuple[str, ...]
    right: Numbers
    weight: Numbers


def train(
    labels: Iterable[Label],
    *,
    answers: bool = False,
    encoder: Embeds | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Estimator:
    """Learns from all of `labels`: split those off first that are to judge it (`held_out`).

    With `answers` it learns to judge after the first target's answer, which every label must have. With `encoder` it
    learns twice: from the prompts' vectors too, and without, for when the encoder does not answer. What is learnt
    does not depend on the order of the labels. Of a prompt labelled more than once for a target, the weighted mean
    counts. Raises `UsageError` where a target has fewer than 20 right or 20 wrong labels.
    """
    table = _table(list(labels), answers)
    _check(table)
    progress("reading")
    vectors = None if encoder is None else encoder([prompt for prompt, _ in table.texts])
    design = Design((features(prompt, answer) for prompt, answer in table.texts), blocks(answers), vectors)
    folds = np.array([int(fraction(prompt) * 2**32) % FOLDS for prompt, _ in table.texts])
    plain = _fitted(table, design, folds, progress, without=(EMBEDDING,))
    reach = Reach.learnt(design.counts)
    alone = ridge.fit_few(reach.cut(design.counts), table.right, table.weight, folds, ALONE)
    general, general_bias = _calibrated(table, alone)
    return Estimator(
        targets=table.targets,
        plain=plain,
        encoder=None if encoder is None else encoder.identity,
        embedded=None if encoder is None else _fitted(table, design, folds, progress),
        general=general,
        general_bias=general_bias,
        topics=design.topics,
        reach=reach,
        answers=answers,
        labels=dict(zip(table.targets, (table.weight > 0).sum(axis=0).tolist(), strict=True)),
    )


def _fitted(
    table: _Table, design: Design, folds: NDArray[np.intp], progress: Callable[[str], None], without: Sequence[str] = ()
) -> Weights:
    """Of all blocks but those in `without`, at the scales that predict left-out prompts best."""
    progress("choosing penalties")
    shared = _most_shared(table)
    design.scales = ridge.choose_scales(design, table.right[:, shared], table.weight[:, shared[0]], without)
    progress("learning")
    weights, bias = _calibrated(table, ridge.fit(design, table.right, table.weight, folds))
    plain = weights * design.size[:, None]  # centring and sizes are in the weights, so that a prediction is one product
    kept = np.ones(len(plain), bool)
    for block in without:
        kept[design.parts.get(block, slice(0))] = False
    return Weights(
        words=plain[:WORDS],
        dense=plain[WORDS:][kept[WORDS:]],
        bias=bias - design.centre @ plain,
        scales={block: scale for block, scale in design.scales.items() if block not in without},
    )


def _calibrated(table: _Table, found: ridge.Fitted) -> tuple[Matrix, Matrix]:
    """Weights (columns, targets) and bias (targets,) that give log-odds."""
    lines = [platt(*_known(table, found.held, target)) for target in range(len(table.targets))]
    slope, offset = np.array(lines, np.float32).T
    return found.weights * slope, found.bias * slope + offset


def _known(table: _Table, held: NDArray[np.float32], target: int) -> tuple[Numbers, Numbers, Numbers]:
    """Scores, outcomes and weights of the prompts that have a label for `target`."""
    at = np.flatnonzero(table.weight[:, target])
    return held[at, target].astype(np.float64), table.right[at, target], table.weight[at, target]


def _table(labels: Sequence[Label], answers: bool) -> _Table:
    if not labels:
        raise UsageError("there are no labels to learn from")
    if answers and (without := sum(label.answer is None for label in labels)):
        raise UsageError(f"{without} of {len(labels)} labels have no answer", hint="leave out `answers`, or give them")
    names = {name: column for column, name in enumerate(sorted(targets(labels)))}
    if len(names) > MOST_TARGETS:
        hint = "a comparison gives names of targets, not their answers"
        raise UsageError(
            f"there are {len(names)} targets, more than {MOST_TARGETS}; are these names of targets?", hint=hint
        )
    rows: dict[tuple[str, str | None], int] = {}
    for label in labels:
        rows.setdefault((label.prompt, label.answer if answers else None), len(rows))
    right, weight = np.zeros((len(rows), len(names))), np.zeros((len(rows), len(names)))
    for label in labels:
        place = rows[label.prompt, label.answer if answers else None], names[label.target]
        right[place] += label.weight * label.correct
        weight[place] += label.weight
    right /= np.where(weight > 0, weight, 1)
    texts = list(rows)
    order = sorted(range(len(texts)), key=lambda i: (fraction(texts[i][0]), texts[i][1] or ""))[:MOST]
    return _Table(
        texts=[texts[i] for i in order], targets=tuple(names), right=right[order], weight=_moderate(weight[order])
    )


def _moderate(weight: Numbers) -> Numbers:
    """Weights of mean 1 for each target: only how they differ is learnt from, and penalties mean the same."""
    counts = np.maximum((weight > 0).sum(axis=0), 1)
    means = weight.sum(axis=0) / counts
    return weight / np.where(means > 0, means, 1)


def _check(table: _Table) -> None:
    known = table.weight > 0
    good, bad = (known & (table.right >= 0.5)).sum(axis=0), (known & (table.right < 0.5)).sum(axis=0)
    few = [
        f"{name!r} has {g} right and {b} wrong"
        for name, g, b in zip(table.targets, good, bad, strict=True)
        if min(g, b) < FEWEST
    ]
    if few:
        hint = f"each target needs at least {FEWEST} prompts that it answers rightly and {FEWEST} wrongly"
        raise UsageError(f"too few labels to learn from: {'; '.join(few)}", hint=hint)


def _most_shared(table: _Table) -> list[int]:
    """The targets that share the same prompts and have the most labels: penalties are chosen on these, and hold for
    all targets, so that what two targets have in common cancels in their difference."""
    groups: dict[bytes, list[int]] = {}
    for target in range(len(table.targets)):
        groups.setdefault(table.weight[:, target].tobytes(), []).append(target)
    return max(groups.values(), key=lambda group: len(group) * np.count_nonzero(table.weight[:, group[0]]))
