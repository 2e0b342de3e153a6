"""A config with everything made from it, and the stages that a request goes through under it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from foreshore.backend import Backend
from foreshore.config import Config
from foreshore.errors import ConfigError
from foreshore.router import program
from foreshore.router.cascade import Cascade
from foreshore.router.choices import Choices
from foreshore.router.constrain import Clearing, constrain
from foreshore.router.decide import AUTO, Decision, State, chance, decide
from foreshore.router.estimates import LEARNT, rated
from foreshore.router.facts import RequestFacts, TargetFacts
from foreshore.router.fallback import Fallback
from foreshore.router.label import Caller, label
from foreshore.router.library import text_of
from foreshore.router.policy import Match, Note, Policy
from foreshore.router.surroundings import Scene
from foreshore.router.target import Target
from foreshore.router.tenants import Tenants
from foreshore.telemetry import logger
from foreshore.types import Request

if TYPE_CHECKING:
    from foreshore.quality.confidence import Confidence
    from foreshore.quality.estimator import Estimator
    from foreshore.router.encoder import Encoder, Outcome

__all__ = ["Compiled", "Loaded", "Reading"]

NOT_EMBEDDED = "quality judged without encoder %r: %s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What is made of a config alone, without any target. Made in a thread: it may take a second."""

    policy: Policy
    digest: str  # of the config and of all that it names here: the version on every decision
    estimator: Estimator | None = None  # None: no rule asks for quality, or nobody can tell
    confidence: Mapping[str, Confidence] = field(default_factory=dict)  # of each target that a cascade may judge

    @classmethod
    def of(cls, config: Config) -> Compiled:
        """Raises `ConfigError` for a rule that cannot be right, and what `Estimator.load` raises."""
        policy = Policy(config)
        estimator, confidence = _estimator(config, policy), _confidence(config, policy)
        version = hashlib.sha256(config.model_dump_json().encode())
        version.update("\n".join(text_of(name, config) for name in config.policy).encode())
        version.update(json.dumps({name: found.to_json() for name, found in confidence.items()}).encode())
        if estimator is not None and config.quality.file is not None:
            version.update(config.quality.file.read_bytes())
        digest = version.hexdigest()[:16]
        return cls(policy=policy, digest=digest, estimator=estimator, confidence=confidence)

    def encoder(
        self, config: Config, targets: Mapping[str, Target], count: Callable[[Outcome], None]
    ) -> Encoder | None:
        """What tells the estimator, where one is named and any rule asks for quality."""
        name, estimator = config.quality.encoder, self.estimator
        if name is None or estimator is None or estimator.encoder is None:
            return None
        from foreshore.router.encoder import Encoder

        timeout = config.quality.encoder_timeout
        return Encoder(targets[name], estimator.encoder.dimension, timeout=timeout, count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read out of a request's content."""

    facts: RequestFacts
    quality: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()  # for the decision's reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A reload replaces it whole; running requests keep theirs."""

    config: Config
    compiled: Compiled
    tenants: Tenants
    targets: Mapping[str, Target]
    encoder: Encoder | None = None  # None: requests are judged without

    @property
    def policy(self) -> Policy:
        return self.compiled.policy

    @property
    def digest(self) -> str:
        return self.compiled.digest

    def hold(self) -> None:
        """Keep all targets open for one request, until `release`."""
        for target in self.targets.values():
            target.hold()

    def release(self) -> None:
        for target in self.targets.values():
            target.release()

    def read(self, request: Request, caller: Caller) -> Reading:
        """The one stage, but for the clearance, that looks at content."""
        facts = label(request, caller, self.config, self.policy.reads)
        estimator = self.compiled.estimator
        if estimator is None or self._embeds(facts):
            return Reading(facts=facts)
        return Reading(facts=facts, quality=estimator.predict(facts.text))

    async def judge(self, reading: Reading) -> Reading:
        """With what is expected of each target's answer, where `read` left it to the encoder; without it if need be."""
        facts, estimator, encoder = reading.facts, self.compiled.estimator, self.encoder
        if estimator is None or encoder is None or not self._embeds(facts):
            return reading
        vector, why = await encoder.see(facts)
        notes = ((NOT_EMBEDDED, [encoder.name], [why]),) if why else ()
        return replace(reading, quality=estimator.predict(facts.text, vector=vector), notes=notes)

    def _embeds(self, facts: RequestFacts) -> bool:
        """Not where the target is chosen already, nor where there is nothing to read."""
        return self.encoder is not None and facts.model in AUTO and bool(facts.text.strip())

    def match(self, facts: RequestFacts, scene: Scene) -> Match | None:
        """The first rule that holds, before any target is looked at; None for a request that is pinned."""
        if facts.model not in AUTO:
            return None
        return self.policy.match(program.Scene(facts, scene.device, scene.budget, scene.now))

    def route(self, match: Match | None) -> str:
        """What requests of one kind have in common, so that forecasts tell kinds apart: the rule's name, "" for none
        of the file's."""
        return match.rule.name if match is not None and match.rule is not self.policy.default else ""

    def estimate(self, reading: Reading, route: str) -> list[TargetFacts]:
        """Every target as it is now, with what is expected of it for this request."""
        facts, targets = reading.facts, self.targets.values()
        found = zip(targets, rated([(t.name, t.spec.model) for t in targets], reading.quality), strict=True)
        return [t.facts_for(facts, route, quality=quality, best=best) for t, (quality, best) in found]

    def clear(self, request: Request, facts: RequestFacts, targets: Sequence[TargetFacts], scene: Scene) -> Clearing:
        specs = self.config.targets
        return constrain(
            request, facts, targets, specs, self.policy, device=scene.device, budget=scene.budget, now=scene.now
        )

    def decide(
        self,
        facts: RequestFacts,
        targets: Sequence[TargetFacts],
        clearing: Clearing,
        scene: Scene,
        decision_id: str,
        match: Match | None = None,
    ) -> Decision:
        state = State(
            policy=self.policy,
            targets=targets,
            clearing=clearing,
            device=scene.device,
            budget=scene.budget,
            now=scene.now,
            explore=self.config.learning.explore,
            dice=chance(decision_id, "explore"),
            match=match,
        )
        return decide(facts, state)

    def strategy(self, decision: Decision, facts: RequestFacts, choices: int, route: str) -> Fallback:
        """How the decided targets are asked: each for all choices. `route` as given to `estimate`."""
        asked: list[Backend] = [self.targets[name].asked(facts, route) for name in decision.targets]
        if choices > 1:
            asked = [Choices(target, choices) for target in asked]
        attempts = self.config.limits.attempts
        if decision.strategy != "cascade" or len(asked) == 1:
            return Fallback(asked, attempts=attempts)
        return Cascade(
            asked,
            threshold=decision.confidence,
            confidence=self.compiled.confidence,
            expected={name: decision.estimates[name].total_s for name in decision.targets},
            attempts=attempts,
        )


def _confidence(config: Config, policy: Policy) -> Mapping[str, Confidence]:
    """What the local variants that a rule cascades over were measured to deserve."""
    if all(rule.strategy != "cascade" for rule in policy.rules):
        return {}
    from foreshore.quality.variants import confidence_of  # a gateway that does not cascade needs no numpy

    asked = {name for rule in policy.rules if rule.strategy == "cascade" for name in rule.prefer}
    local = {name: config.targets[name].model for name in sorted(asked) if config.targets[name].local}
    found = {name: confidence_of(model) for name, model in local.items()}
    for name in (name for name, confidence in found.items() if not confidence.calibrated):
        hint = f"foreshore models measure {local[name]}"
        logger.warning("target %r has no calibrated confidence: a cascade takes its mean probability (%s)", name, hint)
    return found


def _estimator(config: Config, policy: Policy) -> Estimator | None:
    if policy.reads.isdisjoint(LEARNT):
        return None
    file = config.quality.file
    if file is None:
        logger.warning("a rule reads target.quality, but quality.estimator names no file: no quality is known")
        return None
    from foreshore.quality.estimator import Estimator

    found = Estimator.load(file)
    if found.answers:
        what = f"quality.estimator: {str(file)!r} judges after an answer is there, and a decision comes before"
        raise ConfigError(what, hint="name one that was trained on prompts alone")
    if found.encoder is not None or config.quality.encoder is not None:
        from foreshore.router.encoder_identity import check_encoder

        check_encoder(config, found)
    return found
