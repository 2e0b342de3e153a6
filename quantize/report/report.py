"""The report of a model's variants: one HTML page, the same as JSON beside it, and its fronts as a picture.

The page needs nothing but itself: no script, no font, no request. What comes from a manifest is shown as text.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foreshore.disk import disk_errors
from foreshore.errors import UsageError
from foreshore.figure.png import draw_png
from foreshore.figure.style import LIGHT
from foreshore.manifest import Manifest
from foreshore.quantize.report.page import figures, page
from foreshore.quantize.report.rows import Cost, Entry

__all__ = ["Cost", "Entry", "check_place", "write_report"]

SCHEMA = 1
EMPTY = "no variant has both a size and a measured quality that a picture could show"


def write_report(
    entries: Sequence[Entry | Manifest],
    target_html: Path,
    *,
    png: Path | None = None,
    costs: Sequence[Cost] = (),
) -> None:
    """Write `target_html`, a `.json` of the same name beside it, and the fronts to `png` if it is given.

    `entries` are variants of one model, each ref once; `costs` what a search measured on the way. What was not measured
    is left out of the figures, and the page says so. Each file appears whole or not at all. Raises `UsageError` for
    entries or paths that cannot be, `SetupError` where the place cannot be written to.
    """
    given = [Entry(manifest=e) if isinstance(e, Manifest) else e for e in entries]
    beside = target_html.with_suffix(".json")
    _check(given, [target_html, beside, *([png] if png else [])])
    check_place(target_html)
    drawn = figures(given) if png else []
    if png and not drawn:
        raise UsageError(f"there is nothing to draw into {str(png)!r}: {EMPTY}", hint="measure the variants first")
    _write(target_html, page(given, costs).encode(errors="replace"))
    _write(beside, _json(given, costs).encode(errors="replace"))
    if png:
        _write(png, draw_png(drawn, dict(LIGHT)))


def check_place(target_html: Path) -> None:
    """Raise `UsageError` where no report can be written: better before hours of measuring than after."""
    if target_html.is_dir():
        raise UsageError(f"{str(target_html)!r} is a folder", hint=f"write {str(target_html / 'report.html')!r}")
    if not target_html.parent.is_dir():
        raise UsageError(f"there is no folder {str(target_html.parent)!r}", hint="make it first")
    if not os.access(target_html.parent, os.W_OK):
        raise UsageError(f"the folder {str(target_html.parent)!r} cannot be written to", hint="name another place")


def _check(entries: Sequence[Entry], targets: Sequence[Path]) -> None:
    if not entries:
        raise UsageError("there are no variants to report on", hint="build some with `foreshore quantize`")
    refs = [e.ref for e in entries]
    twice = next((ref for i, ref in enumerate(refs) if ref in refs[:i]), None)
    if twice is not None:
        raise UsageError(f"{twice!r} stands in the report twice", hint="name each variant once")
    if len({t.absolute() for t in targets}) < len(targets):
        shown = ", ".join(repr(str(t)) for t in targets)
        raise UsageError(f"page, JSON and picture of a report need a file each, not {shown}", hint="name it NAME.html")


def _json(entries: Sequence[Entry], costs: Sequence[Cost]) -> str:
    variants = [{**e.manifest.to_json(), "predicted_kl": e.predicted_kl} for e in entries]
    value = {"schema": SCHEMA, "variants": variants, "costs": [asdict(cost) for cost in costs]}
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null says that there is no number."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(target: Path, data: bytes) -> None:
    with disk_errors(target.parent, len(data)):
        handle, draft = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(draft, 0o644)
            os.replace(draft, target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
