"""Labels that are there already: what variants answered to the tasks they were measured on, and feedback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foreshore.errors import NotFound

if TYPE_CHECKING:
    from foreshore.quality.labels import Label

__all__ = ["known_labels"]


def known_labels(store: Sequence[str] = (), ledger: Path | None = None) -> Iterator[Label]:
    """Those of the variants `store`, NAME:VARIANT each, and those of a gateway's `ledger` with the prompts beside it.

    Raises `NotFound` for a variant that was not measured on tasks, and for a ledger without feedback on a prompt that
    was kept.
    """
    from foreshore.quality.variants import labels_of
    from foreshore.reliability.feedback import labels
    from foreshore.reliability.prompts import PROMPTS, read_prompts
    from foreshore.store import Store

    for ref in store:
        yield from labels_of(Store().folder(Store().get(ref)))
    if ledger is not None:
        found = list(labels(ledger, read_prompts(ledger.with_name(PROMPTS))))
        if not found:
            what = f"the ledger {str(ledger)!r} has no feedback on a prompt that was kept"
            raise NotFound(what, hint="set learning.remember to true, and give feedback")
        yield from found
