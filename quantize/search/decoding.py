"""How fast whole mixes decode: what is foretold of further ones, and which is fast enough."""

from __future__ import annotations

from dataclasses import dataclass, replace

from foreshore.errors import UsageError
from foreshore.quantize.search.decode_times import DecodeTimes
from foreshore.quantize.search.found import Trial
from foreshore.quantize.search.knapsack import total_seconds
from foreshore.quantize.search.meter import Mix
from foreshore.quantize.search.plan import DECODE_CHECKS
from foreshore.quantize.search.trials import Trials

__all__ = ["Decoding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    times: DecodeTimes
    trials: Trials

    def measure(self, mix: Mix) -> float:
        """Tokens a second; how far that is from what was foretold is kept for further mixes."""
        proposals = self.trials.proposals
        parent = {name: some[-1] for name, some in proposals.survey.types.items()}
        seconds = self.times.measure({name: kind for name, kind in mix.items() if kind != parent[name]})
        self.trials.measuring.steps.step()
        proposals.bounds = proposals.bounds.slower(seconds / total_seconds(proposals.choice(mix)))
        return 1 / seconds

    def best(self) -> tuple[Trial, float]:
        """The best mix of those that decode as fast as is asked; where the best does not, more are tried."""
        targets, slow = self.trials.proposals.bounds.targets, []
        for _ in range(DECODE_CHECKS):
            best = self.trials.best([t for t in self.trials.done if t not in slow])
            found = self.measure(best.types)
            if found >= (targets.decode or 0.0):
                return best, found
            slow.append(best)
            self.trials.run(len(self.trials.measuring.meters))
        raise UsageError(
            f"decode>={targets.decode:g} was not reached within the other targets: the best mix has"
            f" {found:.3g} tokens/s",
            hint=f'feasible is "{replace(targets, decode=float(f"{0.98 * found:.2g}"))}"',
        )
