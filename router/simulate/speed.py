"""How fast a simulated target is: `SPEEDS.yaml`, or what a variant's card or a ledger's events have measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from foreshore.card import Speed
from foreshore.config import Config
from foreshore.errors import ConfigError, NotFound, UsageError
from foreshore.lined_yaml import read_yaml
from foreshore.runtime_config import SLOTS, Part

__all__ = ["CloudSpeed", "LocalSpeed", "Spread", "TargetSpeed", "complete", "of_card", "of_events", "read_speeds"]

MAX_FILE_BYTES = 256 * 1024
Z95 = 1.6448536269514722  # the standard normal distribution's 95th percentile
ENOUGH = 20  # answers of a cloud target, from which its spread is taken
# Of all streams together, relative to one: a 0.5B model in Q4_0 on 2 cores, llama-batched-bench (DESIGN: 32, 98, 164).
BATCHING = {1: 1.0, 4: 98 / 32, 16: 164 / 32}

Rate = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Spread(Part):
    """Of a lognormal distribution: half are at most `median`, 95 of 100 at most `p95`."""

    median: Positive
    p95: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Spread:
        if self.p95 < self.median:
            raise ValueError(f"p95 is {self.p95:g}, less than the median, {self.median:g}")
        return self

    def at(self, z: float) -> float:
        """The value that is `z` standard deviations of the logarithm above the median."""
        return self.median * math.exp(z * math.log(self.p95 / self.median) / Z95)


Confident = dict[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]


class _Speed(Part):
    """`confident`: the share of its answers that inspire so much confidence and more; asked of by cascades alone."""

    confident: Confident | None = Field(default=None, min_length=1)

    @field_validator("confident")
    @classmethod
    def _falling(cls, shares: Confident | None) -> Confident | None:
        if shares is None:
            return None
        points = sorted(shares.items())
        if any(after > before for (_, before), (_, after) in pairwise(points)):
            raise ValueError("more answers cannot inspire more confidence than inspire less")
        return dict(points)

    def keeps(self, confidence: float) -> float:
        """The share of answers that inspire at least `confidence`; all where nothing is known, as the gateway does."""
        if self.confident is None:
            return 1.0
        points = sorted(({0.0: 1.0} | {1.0: 0.0} | self.confident).items())
        after = next(i for i, (threshold, _) in enumerate(points) if threshold >= confidence)
        (a, high), (b, low) = points[max(0, after - 1)], points[after]
        return low if a == b else high + (low - high) * (confidence - a) / (b - a)


class LocalSpeed(_Speed):
    """Measured tokens per second. `decode_tokens_per_s`: of all streams together, by their number."""

    kind: Literal["local"] = "local"
    prefill_tokens_per_s: Rate
    decode_tokens_per_s: dict[Annotated[int, Field(ge=1, le=256)], Rate]
    slots: Annotated[int, Field(ge=1, le=256)] = SLOTS
    queue_limit: Annotated[int, Field(ge=0, le=1_000_000)] = 64
    queue_wait_s: Positive = 120.0
    gap_target: Annotated[float, Field(gt=1, le=1000, allow_inf_nan=False)] = 3.0
    context_tokens: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None

    @field_validator("decode_tokens_per_s")
    @classmethod
    def _batching(cls, rates: dict[int, float]) -> dict[int, float]:
        """More streams make each step longer, or at least no shorter."""
        if 1 not in rates:
            raise ValueError("needs the rate of 1 stream")
        steps = [n / rate for n, rate in sorted(rates.items())]
        if any(after < before for before, after in pairwise(steps)):
            raise ValueError("a step of more streams cannot be shorter than one of fewer")
        return dict(sorted(rates.items()))

    def step_s(self, streams: int) -> float:
        """Seconds until each of `streams` has its next token: linear between what was measured, and beyond."""
        points = [(n, n / rate) for n, rate in self.decode_tokens_per_s.items()]
        if len(points) == 1 or streams <= points[0][0]:
            return points[0][1] * (streams if len(points) == 1 else 1)
        i = next((i for i, (n, _) in enumerate(points[1:-1], 1) if streams <= n), len(points) - 1)
        (a, low), (b, high) = points[i - 1], points[i]
        return low + (high - low) * (streams - a) / (b - a)


class CloudSpeed(_Speed):
    """A provider: no queue of ours, but answers that scatter, and limits beyond which it refuses."""

    kind: Literal["cloud"] = "cloud"
    ttft_s: Spread
    tpot_s: Spread
    concurrency: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    requests_per_minute: Rate | None = None
    tokens_per_minute: Rate | None = None  # prompts and answers
    error_rate: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0  # answers that fail, after their TTFT


TargetSpeed = Annotated[LocalSpeed | CloudSpeed, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[dict[str, LocalSpeed | CloudSpeed]] = TypeAdapter(dict[str, TargetSpeed])


def read_speeds(path: Path) -> dict[str, LocalSpeed | CloudSpeed]:
    """By target name. Raises `NotFound` or `ConfigError` with the line."""
    if not path.is_file():
        raise NotFound(f"there is no file of speeds {str(path)!r}", hint="docs/simulate.md has an example")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file of speeds {str(path)!r} cannot be read: {error}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"the file of speeds {str(path)!r} is larger than {MAX_FILE_BYTES} bytes")
    document = read_yaml(text, str(path))
    try:
        return _ADAPTER.validate_python(document.data)
    except ValidationError as error:
        complaints = []
        for found in error.errors(include_url=False):
            loc = (*found["loc"][:1], *found["loc"][2:])  # the second is the kind that was tried
            what = found["msg"].removeprefix("Value error, ")
            complaints.append(f"{path}:{document.line(loc)}: {'.'.join(map(str, loc)) or 'the file'}: {what}")
        raise ConfigError("\n".join(complaints), hint="docs/simulate.md lists every key") from error


def of_card(speeds: Iterable[Speed], *, slots: int | None = None) -> LocalSpeed | None:
    """From the newest measurement of a variant's card, which knows one stream: more are taken to gain as `BATCHING`."""
    measured = [(s.date, s.prefill.median, s.decode.median) for s in speeds if s.prefill and s.decode]
    if not measured:
        return None
    _, prefill, decode = max(measured)
    rates = {n: decode * times for n, times in BATCHING.items()}
    return LocalSpeed(prefill_tokens_per_s=prefill, decode_tokens_per_s=rates, slots=slots or SLOTS)


def of_events(events: Iterable[Mapping[str, Any]], target: str) -> CloudSpeed | None:
    """From a ledger's events that `target` answered at its first attempt; None where they are fewer than `ENOUGH`."""
    found = [e for e in events if e.get("target") == target and len(e.get("attempts") or ()) <= 1]
    ttft, tpot = ([float(e[name]) for e in found if _is_time(e.get(name))] for name in ("ttft_s", "tpot_s"))
    if min(len(ttft), len(tpot)) < ENOUGH:
        return None
    return CloudSpeed(ttft_s=_spread(ttft), tpot_s=_spread(tpot))


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value <= 86_400


def _spread(values: Sequence[float]) -> Spread:
    middle, high = statistics.median(values), statistics.quantiles(values, n=20)[-1]
    return Spread(median=middle, p95=max(middle, high))


def complete(config: Config, speeds: Mapping[str, LocalSpeed | CloudSpeed]) -> dict[str, LocalSpeed | CloudSpeed]:
    """One for each target of `config`, in its order. Raises `UsageError` for one too few or too many, and for one of
    another kind."""
    for name in speeds:
        if name not in config.targets:
            hint = f"the config has {', '.join(config.targets)}"
            raise UsageError(f"the speeds name a target that the config does not: {name!r}", hint=hint)
    for name, spec in config.targets.items():
        if name not in speeds:
            hint = "write it into a file and name that: --speed SPEEDS.yaml; docs/simulate.md has an example"
            hint = f"measure it: foreshore models measure {spec.model}; or {hint}" if spec.local else hint
            raise UsageError(f"nothing is known of the speed of target {name!r}", hint=hint)
        if (speeds[name].kind == "local") != spec.local:
            raise UsageError(f"target {name!r} is of kind {spec.kind!r}, but its speeds are {speeds[name].kind!r}")
    return {name: speeds[name] for name in config.targets}
