"""How many prompt tokens a step may take, so that running streams do not wait too long for their next token."""

from __future__ import annotations

__all__ = ["Pacer"]

WEIGHT = 0.25  # of the newest step
ALIGN = 4  # the engine's matrix kernels take tokens by fours; a rest costs nearly as much as four
MARGIN = 0.9  # of the target, for steps vary
PROBE = 16  # steps with prompt tokens, after which one goes without
OUTLIER = 3.0  # a step that took longer than this many expected ones was disturbed from outside: it counts as so many
# Before a step is seen, how far off its prediction may be, relatively: the machine may have become slower or faster for
# everything, a prompt token's cost or a step's own may be believed wrongly, and the one step may be disturbed.
COMMON, TOKEN, ALONE, NOISE = 0.5, 0.3, 0.1, 0.5


class Pacer:
    """Learns from step times what a step of `n` streams costs alone, and what each prompt token adds.

    A gap between two tokens of a running stream is one step. `budget` keeps the predicted step below
    `gap_target` times a step without prompt tokens. Steps that all take as many prompt tokens say what the two cost
    together, never which of them; so now and then the budget is 0, and the step says what the streams cost alone.
    """

    def __init__(self, *, gap_target: float, batch_tokens: int) -> None:
        self._target, self._batch_tokens = gap_target, batch_tokens
        self._alone: dict[int, float] = {}  # streams -> seconds of a step
        self._token = 0.0  # seconds that one prompt token adds
        self._mixes = 0  # steps with prompt tokens since the last one without
        self._mixed_s = self._mixed_rows = 0.0  # the time of the latest of them, and the rows that they added
        self._pure = 0.0  # seconds of one prompt token in a step without streams

    def observe(self, *, streams: int, prompt_tokens: int, seconds: float) -> None:
        """A step with one token for each of `streams` and `prompt_tokens` besides took `seconds`."""
        if streams and not prompt_tokens:
            weight = WEIGHT if self._mixes < PROBE // 2 else 2 * WEIGHT  # what was known is old
            self._alone[streams] = _blend(self._alone.get(streams, 0.0), seconds, weight)
            self._tell_apart(streams)
        elif streams:
            self._mixed(streams, _rows(streams + prompt_tokens) - _rows(streams), seconds)
        elif prompt_tokens >= ALIGN:
            self._pure = _blend(self._pure, seconds / prompt_tokens)

    def _mixed(self, streams: int, added: int, seconds: float) -> None:
        """Correct both costs by the prediction's error, each by its part in the error's variance (a Kalman filter's
        gain for a fixed prior). A disturbed machine makes all steps long: were the error laid to the prompt tokens
        alone, fewer of them would be taken, each would seem dearer still, and prompts would never be read."""
        alone, token = self.alone(streams), self._token or self._pure
        if not alone or not token or not added:
            if alone and added and seconds > alone:
                self._token = (seconds - alone) / added
            return
        prompt = added * token
        expected = alone + prompt
        error = min(seconds, OUTLIER * expected) - expected
        self._mixes += 1
        self._mixed_s = _blend(self._mixed_s, expected + error)
        self._mixed_rows = _blend(self._mixed_rows, added)
        variance = (COMMON * expected) ** 2 + (TOKEN * prompt) ** 2 + (ALONE * alone) ** 2 + (NOISE * expected) ** 2
        self._alone[streams] = alone * (1 + error * (COMMON**2 * expected + ALONE**2 * alone) / variance)
        self._token = token * (1 + error * (COMMON**2 * expected + TOKEN**2 * prompt) / variance)

    def _tell_apart(self, streams: int) -> None:
        """What a step costs alone is known again: the rest of the steps before it went to prompt tokens."""
        if self._mixes >= PROBE // 2:
            beyond = self._mixed_s - self._alone[streams]
            self._token = max(beyond / self._mixed_rows, self._token / OUTLIER)
        self._mixes, self._mixed_s, self._mixed_rows = 0, 0.0, 0.0

    def alone(self, streams: int) -> float:
        """Seconds of a step of `streams` and nothing else; from the nearest number measured; 0: nothing is known."""
        if not self._alone:
            return 0.0
        nearest = min(self._alone, key=lambda n: (abs(n - streams), n))
        return self._alone[nearest]

    def budget(self, *, streams: int, step_s: float | None = None) -> int:
        """Prompt tokens for a step with `streams`, at least 1 or, to learn, 0; `step_s` bounds a step without
        streams."""
        room = self._batch_tokens - streams
        if streams:
            if self._mixes >= PROBE:
                return 0
            alone, token = self.alone(streams), self._token or self._pure
            if not alone or not token:
                return max(1, min(room, ALIGN * 4 - streams % ALIGN))  # careful until measured
            free = _rows(streams + 1) - streams  # rows that are computed if there is a prompt token at all
            added = int(MARGIN * (self._target - 1.0) * alone / token)
            wanted = max(free, _rows(streams) - streams + added // ALIGN * ALIGN)
        elif step_s is None or not self._pure:
            return max(1, room)
        else:
            wanted = int(step_s / self._pure)
            wanted -= wanted % ALIGN if wanted > 2 * ALIGN else 0
        return max(1, min(room, wanted))

    def within(self, seconds: float) -> int:
        """Prompt tokens that a step of so long takes; 0: not known."""
        token = self._pure or self._token
        return int(seconds / token) // ALIGN * ALIGN if token else 0


def _rows(tokens: int) -> int:
    """What the kernels compute for so many."""
    return -(-tokens // ALIGN) * ALIGN


def _blend(old: float, new: float, weight: float = WEIGHT) -> float:
    if not old:
        return new
    return old + weight * (min(new, OUTLIER * old) - old)
