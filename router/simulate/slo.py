"""What an answer must keep to count: `ttft=1s,total=10s,tpot=50ms`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from foreshore.errors import UsageError
from foreshore.router.simulate.job import Job

__all__ = ["Slo"]

UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0}
_PART = re.compile(r"\s*(ttft|total|tpot)\s*=\s*(\d+(?:\.\d+)?)\s*(ms|s|min)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Each the longest time that is still good, in seconds. TTFT and total are from the request's arrival."""

    ttft_s: float = math.inf
    total_s: float = math.inf
    tpot_s: float = math.inf

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Raises `UsageError` for what is no list of `ttft`, `total` and `tpot`, each at most once."""
        found: dict[str, float] = {}
        for part in text.split(","):
            match = _PART.fullmatch(part)
            if match is None or match[1] in found or float(match[2]) <= 0:
                what = "is there twice" if match and match[1] in found else "is no objective"
                hint = "name times with their units, as in ttft=1s,total=10s,tpot=50ms"
                raise UsageError(f"--slo: {part.strip()[:80]!r} {what}", hint=hint)
            found[match[1]] = float(match[2]) * UNITS[match[3]]
        return cls(**{f"{name}_s": seconds for name, seconds in found.items()})

    def met(self, job: Job) -> bool:
        """Whether `job` was answered whole, and in time."""
        if job.state != "complete":
            return False
        tpot = (job.ended_at - job.first_at) / (job.tokens - 1) if job.tokens > 1 else 0.0
        return job.first_at - job.at <= self.ttft_s and job.ended_at - job.at <= self.total_s and tpot <= self.tpot_s

    def __str__(self) -> str:
        parts = (("ttft", self.ttft_s), ("total", self.total_s), ("tpot", self.tpot_s))
        return ", ".join(f"{name} <= {seconds:g} s" for name, seconds in parts if seconds < math.inf)
