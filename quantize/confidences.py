"""What a variant's answers to tasks say of its confidence: the card for its manifest, and the answers as labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from foreshore.card import ConfidenceCard, Interval, Threshold
from foreshore.errors import UsageError
from foreshore.quality.confidence import Confidence
from foreshore.quantize.accuracy import Answered, Task, tasks_sha256
from foreshore.wilson import wilson

__all__ = ["confidence_card", "prompt_of"]

STEPS = 20  # thresholds: that keep every twentieth part of the answers more


def confidence_card(tasks: Sequence[Task], answered: Sequence[Answered]) -> tuple[ConfidenceCard, str]:
    """The card, and the text of `labels.jsonl`: by line a task's prompt and kind, and the answer, whether it was right
    and the confidence in it by a model that did not learn from it (null where none could be learnt).

    An answer without a token inspires no confidence, 0.
    """
    spoken = [a for a in answered if a.features is not None]
    card = ConfidenceCard(
        tasks_sha256=tasks_sha256(tasks), count=len(answered), correct=sum(a.right for a in answered), labels_sha256=""
    )
    confidences: list[float | None] = [None] * len(answered)
    try:
        learnt, judged = Confidence.learn(
            [a.features for a in spoken if a.features is not None], [a.right for a in spoken]
        )
    except UsageError:  # hardly any right, or hardly any wrong
        pass
    else:
        left = iter(judged)
        confidences = [0.0 if a.features is None else next(left) for a in answered]
        assert learnt.evidence is not None
        card = replace(
            card,
            auroc=learnt.evidence.auroc,
            ece=learnt.evidence.ece,
            thresholds=tuple(_thresholds([c or 0.0 for c in confidences], [a.right for a in answered])),
            model=learnt.to_json(),
        )
    labels = "".join(_line(*row) for row in zip(tasks, answered, confidences, strict=True))
    return replace(card, labels_sha256=hashlib.sha256(labels.encode()).hexdigest()), labels


def _thresholds(confidences: Sequence[float], right: Sequence[bool]) -> Iterator[Threshold]:
    """Those that keep all answers, and less and less of them; equal ones once."""
    ordered, seen = sorted(confidences, reverse=True), set[float]()
    for step in range(STEPS, 0, -1):
        limit = ordered[max(0, len(ordered) * step // STEPS - 1)]
        if limit in seen:
            continue
        seen.add(limit)
        kept = [ok for ok, confidence in zip(right, confidences, strict=True) if confidence >= limit]
        low, high = wilson(sum(kept), len(kept))
        accuracy = Interval(value=sum(kept) / len(kept), low=low, high=high)
        yield Threshold(confidence=limit, local_share=len(kept) / len(right), accuracy=accuracy)


def _line(task: Task, answer: Answered, confidence: float | None) -> str:
    known = {"prompt": prompt_of(task), "kind": task.segment, "correct": answer.right}
    return json.dumps({**known, "confidence": confidence, "answer": answer.text}, ensure_ascii=False) + "\n"


def prompt_of(task: Task) -> str:
    """The text that a router decides by: the last user message."""
    if task.prompt is not None:
        return task.prompt
    said = [m.get("content") for m in task.messages if m.get("role") == "user"]
    content = said[-1] if said else ""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")
