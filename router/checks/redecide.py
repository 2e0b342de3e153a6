"""What another policy would have done with a request that the ledger knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from foreshore.config import Config
from foreshore.errors import UsageError
from foreshore.router.checks.recorded import situation_of_event
from foreshore.router.kept import CONTENT, kept, lacking
from foreshore.router.policy import Policy
from foreshore.router.situation import Stage

__all__ = ["REFUSED", "Redecider", "action"]

REFUSED = "refused"  # the action of a policy that leaves nobody to answer


def action(targets: Iterable[str], strategy: str) -> str:
    """What a decision did, in a word: its first target, and whether it was the first of a cascade."""
    first = next(iter(targets), REFUSED)
    return f"{first}+cascade" if strategy == "cascade" else first


class Redecider:
    """Decides recorded requests anew under `config`, without exploring. `left_out` counts, by field, the requests of
    which nobody knows what the policy looks at. Raises `UsageError` for a policy that looks at what is never kept."""

    def __init__(self, config: Config) -> None:
        policy = Policy(config)
        self._stage, self.left_out = Stage(config, policy), Counter[str]()
        if never := sorted(path for path in policy.reads if not kept(path)):
            words = ", ".join(CONTENT)
            what = f"the policy looks at {', '.join(never)}, which the ledger does not keep"
            hint = f"of a request it keeps everything but its words ({words}): take that out of a copy of the policy"
            raise UsageError(what, hint=f"{hint}, or compare on whole requests: foreshore route diff --on")

    def action(self, event: Mapping[str, Any]) -> str | None:
        """None for one of which nobody knows enough. Raises `UsageError` for an event that is none."""
        if unknown := lacking(self._stage.policy.reads, event):
            self.left_out.update(unknown)
            return None
        try:
            found = self._stage.judged(situation_of_event(event, self._stage)).decision
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise UsageError(f"the event {event.get('decision_id')!r} cannot be read: {error!r}") from error
        if found is None:
            return REFUSED
        return action(found.targets, found.strategy if len(found.targets) > 1 else "fallback")
