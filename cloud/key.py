"""A provider's API key: read once from the environment, kept out of every text we make."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping

import httpx

from foreshore.errors import ConfigError

__all__ = ["ApiKey"]


class ApiKey(httpx.Auth):
    """Puts the key of variable `env` into `header` of each request. `repr` and errors never hold it."""

    def __init__(self, env: str, *, header: str, prefix: str = "", environ: Mapping[str, str] | None = None) -> None:
        value = (os.environ if environ is None else environ).get(env, "").strip()
        if not value:
            raise ConfigError(f"the environment variable {env!r} is not set", hint="put the target's API key into it")
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ConfigError(f"the environment variable {env!r} does not hold an API key")
        self.env = env
        self._header, self._prefix, self._value = header, prefix, value

    def __repr__(self) -> str:
        return f"ApiKey(env={self.env!r})"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers[self._header] = self._prefix + self._value
        yield request

    def redact(self, text: str) -> str:
        """`text` without the key, should a provider echo it."""
        return text.replace(self._value, f"[{self.env}]")
