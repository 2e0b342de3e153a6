"""The parts of `foreshore.yaml` that set up the local runtime: a target's `engine`, and `runtime` for all of them.

`EngineConfig` mirrors `foreshore.edge.EngineOptions`, which the kernel may not import; a test holds them together.
What a config leaves out keeps the engine's own default, which stands there alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["EngineConfig", "Part", "RuntimeConfig", "ThrottleConfig"]

SLOTS, BATCH_TOKENS = 8, 512  # the engine's defaults, to compare one that is given with one that is not
UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[KMG]?i?B)", re.IGNORECASE)

Count = Annotated[int, Field(ge=1, lt=1 << 31, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineConfig(Part):
    """Each is what `EngineOptions` has under the same name."""

    context_tokens: Count | None = None
    kv_tokens: Count | None = None
    slots: Annotated[int, Field(ge=1, le=256, strict=True)] | None = None
    threads: Annotated[int, Field(ge=1, le=512, strict=True)] | None = None
    batch_tokens: Count | None = None
    kv_type: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] | None = None
    flash_attention: Literal["auto", "on", "off"] | None = None
    mmap: Flag | None = None
    gpu_layers: Annotated[int, Field(ge=-1, lt=1 << 31, strict=True)] | None = None
    policy: Literal["fair", "fifo"] | None = None
    gap_target: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    priority_ttft_s: Positive | None = None
    default_ttft_s: Positive | None = None
    flex_ttft_s: Positive | None = None
    queue_limit: Annotated[int, Field(ge=0, lt=1 << 31, strict=True)] | None = None
    queue_tokens: Count | None = None
    queue_wait_s: Positive | None = None
    prefix_cache: Flag | None = None
    prefix_cache_bytes: Annotated[int, Field(ge=0, lt=1 << 62, strict=True)] | None = None
    prefix_cache_dir: Text | None = None
    park_bytes: Annotated[int, Field(ge=0, lt=1 << 62, strict=True)] | None = None
    speculation: Literal["off", "lookup", "draft"] | None = None
    draft_model: Text | None = None
    adapters: dict[Text, Text] | None = None
    heartbeat_s: Positive | None = None
    step_limit_s: Positive | None = None

    @model_validator(mode="after")
    def _agree(self) -> EngineConfig:
        slots, batch = self.slots or SLOTS, self.batch_tokens or BATCH_TOKENS
        if batch < slots:
            raise ValueError(f"batch_tokens is {batch}, less than slots ({slots}): each needs one token of every step")
        if (self.speculation == "draft") != (self.draft_model is not None):
            raise ValueError("speculation 'draft' and draft_model belong together")
        return self

    def options(self) -> Mapping[str, Any]:
        """What was given, as keyword arguments of `EngineOptions`."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        if "adapters" in given:
            given["adapters"] = tuple(given["adapters"].items())
        return given


class ThrottleConfig(Part):
    """When local models compute with fewer threads. A threshold of `null` is off."""

    threads: Annotated[float, Field(gt=0, le=1)] = 0.5  # the share of its threads that each model keeps
    battery_percent: Annotated[float, Field(ge=0, le=100)] | None = 30.0  # below it, on battery
    heat_celsius: Annotated[float, Field(gt=0, le=150)] | None = 85.0  # above it, at the hottest sensor of a processor
    busy_percent: Annotated[float, Field(gt=0, le=100)] | None = None  # above it, of the CPUs used by others
    every_s: Annotated[float, Field(ge=0.05, le=3600)] = 5.0


class RuntimeConfig(Part):
    """What all local targets share."""

    memory: int | str | None = None  # of all models together: bytes, "6 GiB", or "80%" of this machine's
    max_models: Count | None = None
    throttle: ThrottleConfig | None = None  # None: off

    @field_validator("memory", mode="before")
    @classmethod
    def _readable(cls, memory: Any) -> Any:
        if memory is not None and _bytes(memory, 100) <= 0:
            raise ValueError("must be more than nothing")
        return memory

    def memory_bytes(self, total: int) -> int | None:
        """The budget on a machine with `total` bytes; `None` where there is none."""
        return None if self.memory is None else _bytes(self.memory, total)


def _bytes(memory: Any, total: int) -> int:
    if type(memory) is int:
        return memory
    found = _SIZE.fullmatch(memory.strip()) if isinstance(memory, str) else None
    if found is None:
        raise ValueError(f"is {memory!r}, not a size such as 6 GiB, or a share such as 80%")
    number, unit = float(found[1]), found[2].lower()
    if unit != "%":
        return int(number * UNITS[unit])
    if number > 100:
        raise ValueError("cannot be more than 100%")
    return int(number * total / 100)
