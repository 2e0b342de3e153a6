"""Who may ask. Keys come from the environment, are kept as digests and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping

from foreshore.config import Config, Tenant
from foreshore.errors import ConfigError, Unauthorized

__all__ = ["Tenants"]

MIN_KEY = 16  # characters: a shorter key can be guessed


class Tenants:
    """Raises `ConfigError` for a missing, short or shared key, and for an open address without any key."""

    def __init__(self, config: Config, environ: Mapping[str, str] | None = None) -> None:
        if not config.tenants and not config.listen.loopback:
            raise ConfigError(
                f"listening on {config.listen.host!r} without an API key would let anyone in",
                hint="add a tenant with key_env to the config, or listen on 127.0.0.1",
            )
        environ = os.environ if environ is None else environ
        self._digests = [(tenant, _digest(_key(tenant, environ))) for tenant in config.tenants]
        if len({digest for _, digest in self._digests}) < len(self._digests):
            raise ConfigError("two tenants have the same API key")

    @property
    def required(self) -> bool:
        return bool(self._digests)

    def admit(self, authorization: str | None, api_key: str | None = None) -> Tenant:
        """The tenant of an `Authorization: Bearer KEY` header, else of `x-api-key`, Anthropic's way to send one.

        Every key is compared, whichever fits.
        """
        if not self._digests:
            return Tenant(name="default", key_env="FORESHORE_NO_KEY")
        scheme, _, key = (authorization or f"bearer {api_key or ''}").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized("no API key", hint="send it as 'Authorization: Bearer KEY'")
        offered = _digest(key.strip())
        found = [tenant for tenant, digest in self._digests if hmac.compare_digest(digest, offered)]
        if not found:
            raise Unauthorized("unknown API key")
        return found[0]


def _key(tenant: Tenant, environ: Mapping[str, str]) -> str:
    key = environ.get(tenant.key_env, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {tenant.key_env!r} is not set",
            hint=f"put tenant {tenant.name!r}'s API key there",
        )
    if len(key) < MIN_KEY:
        raise ConfigError(f"the API key in {tenant.key_env!r} has fewer than {MIN_KEY} characters")
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
