"""How well and how fast the privacy detectors find structured personal data.

    python -m benchmarks.privacy --data synth_500.json [--json]

The data is microsoft/presidio-research's `data/synth_dataset_v2.json` (MIT) or a part of it: labelled synthetic
sentences. A labelled span is found when a detector's span overlaps it; a detector's span that overlaps no label of its
kind is a false alarm. Time is per request of about 500 tokens (2,000 characters), all detectors on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from foreshore.router.content import text_of
from foreshore.router.privacy import DETECTORS, detect, find
from foreshore.types import Request

KINDS = {"email": "EMAIL_ADDRESS", "card": "CREDIT_CARD", "phone": "PHONE_NUMBER", "iban": "IBAN_CODE"}
CHARACTERS = 2000  # about 500 tokens of English
ROUNDS = 2000


def quality(rows: list[dict[str, Any]], detector: str) -> dict[str, Any]:
    """Precision and recall of `detector` over labelled `rows`."""
    hits = misses = false_alarms = 0
    for row in rows:
        labels = [s for s in row["spans"] if s["entity_type"] == KINDS[detector]]
        spans = find(row["full_text"], detector)
        found = [any(_overlap(s, label) for s in spans) for label in labels]
        hits, misses = hits + sum(found), misses + len(found) - sum(found)
        false_alarms += sum(not any(_overlap(s, label) for label in labels) for s in spans)
    return {
        "labelled": hits + misses,
        "recall": hits / (hits + misses) if hits + misses else None,
        "precision": hits / (hits + false_alarms) if hits + false_alarms else None,
        "false_alarms": false_alarms,
    }


def _overlap(span: tuple[int, int], label: dict[str, Any]) -> bool:
    return bool(span[0] < label["end_position"] and label["start_position"] < span[1])


def speed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds to read and scan one request, over `ROUNDS`; CPU time leaves out what else the machine did."""
    text = " ".join(row["full_text"] for row in rows)
    wall, cpu = [], []
    for i in range(ROUNDS):
        start = (i * 97) % max(1, len(text) - CHARACTERS)
        request = Request(messages=({"role": "user", "content": text[start : start + CHARACTERS]},))
        begun, begun_cpu = time.perf_counter(), time.thread_time()
        detect(text_of(request), DETECTORS)
        cpu.append((time.thread_time() - begun_cpu) * 1000)
        wall.append((time.perf_counter() - begun) * 1000)
    return {"characters": CHARACTERS, "wall_ms": _percentiles(wall), "cpu_ms": _percentiles(cpu)}


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50": ordered[len(ordered) // 2], "p99": ordered[len(ordered) * 99 // 100]}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Precision, recall and time of the privacy detectors.")
    parser.add_argument("--data", type=Path, required=True, help="labelled sentences, see the module's docstring")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    rows = json.loads(options.data.read_text(encoding="utf-8"))
    result: dict[str, Any] = {"rows": len(rows), "quality": {k: quality(rows, k) for k in KINDS}, "speed": speed(rows)}
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        return
    for kind, q in result["quality"].items():
        shown = [f"{q[k]:.3f}" if q[k] is not None else "-" for k in ("precision", "recall")]
        print(f"{kind:8} labelled {q['labelled']:4}  precision {shown[0]}  recall {shown[1]}")
    for clock in ("wall_ms", "cpu_ms"):
        print(
            f"{CHARACTERS} characters, {clock}: " + ", ".join(f"{k} {v:.2f}" for k, v in result["speed"][clock].items())
        )


if __name__ == "__main__":
    main()
