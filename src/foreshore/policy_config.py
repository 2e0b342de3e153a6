"""The parts of `foreshore.yaml` that say how requests are decided: constraints, rules, budgets, what is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from foreshore.runtime_config import Part

__all__ = [
    "Budget",
    "Constraint",
    "Device",
    "Learning",
    "Name",
    "Objective",
    "PolicyName",
    "Quality",
    "Rule",
    "Seconds",
]

PolicyName = Literal[
    "private-first", "offline-first", "cheapest-within-quality", "fastest-within-budget", "battery-saver"
]  # the shipped library, router/policies
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Expression = Annotated[
    str, BeforeValidator(lambda v: str(v).lower() if isinstance(v, bool) else v), Field(min_length=1, max_length=4096)
]  # `when: true` is YAML's true and means CEL's
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Message = Annotated[str, Field(min_length=1, max_length=500)]
Flag = Annotated[bool, Field(strict=True)]


class Constraint(Part):
    """Where `when` holds, exactly one of: only targets of which `require` holds may see the request, only those in
    `allow`, none in `forbid`, or nobody at all (`refuse`, with what the caller is told)."""

    name: Name
    when: Expression = "true"
    require: Expression | None = None
    allow: tuple[Name, ...] | None = Field(default=None, min_length=1)
    forbid: tuple[Name, ...] | None = Field(default=None, min_length=1)
    refuse: Message | None = None

    @model_validator(mode="after")
    def _one_action(self) -> Constraint:
        given = [name for name in CONSTRAINT_ACTIONS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(CONSTRAINT_ACTIONS)}; has {', '.join(given) or 'none'}")
        return self


CONSTRAINT_ACTIONS = ("require", "allow", "forbid", "refuse")


class Objective(Part):
    """What targets are sorted by, the highest first: quality x probability - dollars x cost - seconds x total time."""

    quality: Weight = 0.0
    dollars: Weight = 0.0
    seconds: Weight = 0.0

    @model_validator(mode="after")
    def _something(self) -> Objective:
        if not (self.quality or self.dollars or self.seconds):
            raise ValueError("needs a weight above 0 for quality, dollars or seconds")
        return self


class Rule(Part):
    """Where `when` holds, the targets in `prefer` are tried in its order, or in that of `objective`; those of which
    `where` does not hold come after the others. The first rule that holds and leaves a target decides."""

    name: Name
    when: Expression = "true"
    prefer: tuple[Name, ...] | None = Field(default=None, min_length=1)  # None: all, in the file's order
    where: Expression | None = None
    objective: Objective | None = None
    strategy: Literal["fallback", "cascade"] = "fallback"
    confidence: Share | None = None  # a cascade goes on to the next target below it
    deadline: Seconds | None = None
    refuse: Message | None = None

    @model_validator(mode="after")
    def _agree(self) -> Rule:
        if self.name in BUILT_IN_RULES:
            raise ValueError(f"the rule name {self.name!r} is taken: it stands for what no rule of yours decided")
        if self.refuse is not None:
            given = [name for name in RULE_ACTIONS if name in self.model_fields_set]
            if given:
                raise ValueError(f"a rule that refuses has no {' or '.join(given)}")
        if self.confidence is not None and self.strategy != "cascade":
            raise ValueError("confidence is the threshold of strategy 'cascade'")
        return self


BUILT_IN_RULES = ("default", "pinned")  # as the ledger has them
RULE_ACTIONS = ("prefer", "where", "objective", "strategy", "confidence", "deadline")


class Budget(Part):
    """What the requests of `tenant` may cost in a period; rules see what is left of it as `budget`."""

    tenant: Name
    dollars: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    per: Literal["hour", "day", "month"] = "month"


class Quality(Part):
    estimator: Path | None = None  # a file of `foreshore route train`; None: `target.quality` is 0
    floor: Share = 0.8  # what the policy cheapest-within-quality asks
    encoder: Name | None = None  # the local target that makes the vectors which the estimator was trained with
    encoder_timeout: Seconds = 0.1  # a request whose vector takes longer is judged without

    @property
    def file(self) -> Path | None:
        return None if self.estimator is None else self.estimator.expanduser().absolute()

    @model_validator(mode="after")
    def _agree(self) -> Quality:
        if self.encoder is not None and self.estimator is None:
            raise ValueError("encoder means nothing without an estimator that was trained with it")
        return self


class Learning(Part):
    explore: Annotated[float, Field(ge=0, le=0.2, allow_inf_nan=False)] = 0.0  # share of requests given a chance choice
    holdout: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.1  # share of requests never trained on
    remember: Flag = False  # keep prompts for training


class Device(Part):
    every_s: Annotated[float, Field(ge=0.05, le=3600, allow_inf_nan=False)] = 5.0
    probe: Flag = True  # try by TCP, in the background, whether the cloud targets' hosts can be reached
