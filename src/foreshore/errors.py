"""Every error Foreshore raises on purpose.

    ForeshoreError
    |-- UsageError              you can mend it: the request, the config, the command
    |   |-- BadRequest          a request that no target could serve           400
    |   |   |-- ContextExceeded prompt + answer do not fit the context         400
    |   |   `-- BodyTooLarge    more bytes than the gateway reads              413
    |   |-- Unauthorized        no API key, or an unknown one                  401
    |   |-- NotFound            no such model, variant or target               404
    |   |-- ConfigError         foreshore.yaml, a rule, an environment value
    |   `-- ModelError          a model file that is damaged, hostile or of an unknown kind
    |-- RoutingError            the policy left no target that may answer      403
    |-- BackendError            a target failed; carries `target` and `retryable`
    |   |-- Overloaded          its queue is full; carries `retry_after`       429
    |   |-- Unavailable         it cannot be reached or is not ready           503
    |   |-- UpstreamError       it answered, but wrongly                       502
    |   |   |-- Truncated       its answer broke off without an end            502
    |   |   `-- WorkerDied      the local worker process ended mid-answer      502
    |   `-- DeadlineExceeded    the request's deadline passed                  504
    `-- SetupError              this machine: a missing extra, a full disk, a native build that crashes

A message says what happened, the value in `repr`, and (in `hint`) what to do.
Foreign errors are mapped once, at the boundary where they appear, with `raise ... from`.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "BackendError",
    "BadRequest",
    "BodyTooLarge",
    "ConfigError",
    "ContextExceeded",
    "DeadlineExceeded",
    "ForeshoreError",
    "ModelError",
    "NotFound",
    "Overloaded",
    "RoutingError",
    "SetupError",
    "Truncated",
    "Unauthorized",
    "Unavailable",
    "UpstreamError",
    "UsageError",
    "WorkerDied",
]


class ForeshoreError(Exception):
    """Root of all. `status` is the HTTP status, `code` the machine-readable name, `exit_code` the CLI's."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    kind: ClassVar[str] = "server_error"  # OpenAI's `error.type`
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    def to_openai(self) -> dict[str, Any]:
        """The body that OpenAI's clients expect: `{"error": {message, type, param, code}}`."""
        text = self.message if self.hint is None else f"{self.message} ({self.hint})"
        return {"error": {"message": text, "type": self.kind, "param": self.param, "code": self.code}}


class UsageError(ForeshoreError):
    status, code, kind, exit_code = 400, "usage_error", "invalid_request_error", 2


class BadRequest(UsageError):
    code = "bad_request"


class ContextExceeded(BadRequest):
    """`prompt_tokens` and `context_tokens` say both numbers."""

    code = "context_length_exceeded"

    def __init__(self, *, prompt_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens, but the context holds {context_tokens} with room for an answer",
            hint="shorten the messages, or load the model with a larger context",
            param="messages",
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class BodyTooLarge(BadRequest):
    status, code = 413, "body_too_large"


class Unauthorized(UsageError):
    status, code, kind = 401, "invalid_api_key", "authentication_error"


class NotFound(UsageError):
    status, code, kind = 404, "not_found", "invalid_request_error"


class ConfigError(UsageError):
    status, code = 500, "config_error"


class ModelError(UsageError):
    status, code = 500, "model_error"


class RoutingError(ForeshoreError):
    """`reasons` names each target and the constraint that kept it away."""

    status, code, kind, exit_code = 403, "no_target_allowed", "policy_error", 3

    def __init__(self, message: str, *, reasons: dict[str, str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reasons = reasons


class BackendError(ForeshoreError):
    """`retryable` says whether another target, or the same one later, may well succeed."""

    status, code, exit_code = 502, "backend_error", 4
    retryable: bool = True

    def __init__(
        self,
        message: str,
        *,
        target: str = "",
        hint: str | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.target = target
        self.retry_after = retry_after
        if retryable is not None:
            self.retryable = retryable


class Overloaded(BackendError):
    status, code, kind = 429, "overloaded", "rate_limit_error"


class Unavailable(BackendError):
    status, code = 503, "unavailable"


class UpstreamError(BackendError):
    code = "upstream_error"


class WorkerDied(UpstreamError):
    code = "worker_died"


class Truncated(UpstreamError):
    """Part of an answer came, then neither a finish reason nor the terminator."""

    code = "truncated"


class DeadlineExceeded(BackendError):
    status, code = 504, "deadline_exceeded"
    retryable = False


class SetupError(ForeshoreError):
    status, code, exit_code = 500, "setup_error", 5
