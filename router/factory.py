"""From a target's config to its backend. The local runtime and each provider are imported only where one is used."""

from __future__ import annotations

from foreshore.backend import Backend
from foreshore.config import TargetConfig
from foreshore.router.target import Target

__all__ = ["build"]


def build(name: str, spec: TargetConfig, backend: Backend | None = None) -> Target:
    """A target around `backend`, else around what its config describes. Raises `ConfigError` if its key is missing."""
    return Target(name, spec, backend or _backend(name, spec))


def _backend(name: str, spec: TargetConfig) -> Backend:
    if spec.kind == "local":
        from foreshore.edge import LocalBackend

        return LocalBackend(spec.model, name=name)
    if spec.kind == "anthropic":
        from foreshore.cloud.anthropic import AnthropicBackend

        assert spec.key_env is not None  # the config's check
        return AnthropicBackend(
            spec.model,
            name=name,
            base_url=spec.url,
            key_env=spec.key_env,
            timeout=spec.timeout,
            connect_timeout=spec.connect_timeout,
        )
    from foreshore.cloud.openai import OpenAIBackend

    return OpenAIBackend(
        spec.model,
        name=name,
        base_url=spec.url,
        key_env=spec.key_env,
        timeout=spec.timeout,
        connect_timeout=spec.connect_timeout,
        max_tokens_field=spec.max_tokens_field,
    )
