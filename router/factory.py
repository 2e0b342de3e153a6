"""From a target's config to its backend. The local runtime and each provider are imported only where one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreshore.backend import Backend
from foreshore.config import TargetConfig
from foreshore.router.target import Target
from foreshore.runtime_config import RuntimeConfig, ThrottleConfig

if TYPE_CHECKING:
    from foreshore.edge.governor import Governor
    from foreshore.edge.pool import Pool

__all__ = ["Factory"]


class Factory:
    """Builds targets. Local ones share one pool of memory, made when the first of them is."""

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._governor: Governor | None = None
        self._runtime = RuntimeConfig()

    def build(
        self, name: str, spec: TargetConfig, backend: Backend | None = None, *, replaces: Target | None = None
    ) -> Target:
        """A target around `backend`, else around what its config describes, which takes over from `replaces`.

        Raises `ConfigError` if its key is missing.
        """
        if backend is None:
            backend = self._local(name, spec, replaces) if spec.kind == "local" else _cloud(name, spec)
        return Target(name, spec, backend)

    def apply(self, runtime: RuntimeConfig) -> None:
        """The limits that hold from now on, for models that are yet to be loaded."""
        changed, self._runtime = runtime.throttle != self._runtime.throttle, runtime
        if self._pool is not None:
            self._limit(self._pool)
            if changed:
                self._govern(self._pool, runtime.throttle)

    def close(self) -> None:
        """End what samples the machine; the targets are their owner's to close."""
        if self._pool is not None:
            self._govern(self._pool, None)

    def _local(self, name: str, spec: TargetConfig, replaces: Target | None) -> Backend:
        from foreshore.edge import EngineOptions, LocalBackend

        before = None if replaces is None else replaces.backend
        return LocalBackend(
            spec.model,
            name=name,
            options=EngineOptions(**(spec.engine.options() if spec.engine else {})),
            pool=self._shared_pool(),
            keep_alive=spec.keep_alive,
            replaces=before if isinstance(before, LocalBackend) else None,
        )

    def _shared_pool(self) -> Pool:
        if self._pool is None:
            from foreshore.edge.pool import Pool

            self._pool = Pool()
            self._limit(self._pool)
            self._govern(self._pool, self._runtime.throttle)
        return self._pool

    def _limit(self, pool: Pool) -> None:
        from foreshore.edge.machine import limit

        pool.memory, pool.models = self._runtime.memory_bytes(limit()), self._runtime.max_models

    def _govern(self, pool: Pool, throttle: ThrottleConfig | None) -> None:
        from foreshore.edge.governor import Governor, Thresholds
        from foreshore.edge.sensors import Sensors

        if self._governor is not None:
            self._governor.stop()
            self._governor = None
        if throttle is not None:
            thresholds = Thresholds(
                battery_percent=throttle.battery_percent,
                celsius=throttle.heat_celsius,
                busy_percent=throttle.busy_percent,
                share=throttle.threads,
            )
            self._governor = Governor(thresholds, Sensors(), pool.tenants, every_s=throttle.every_s)
            self._governor.start()


def _cloud(name: str, spec: TargetConfig) -> Backend:
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
