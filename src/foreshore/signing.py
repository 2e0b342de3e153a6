"""Signatures of variants: who vouches for a manifest and the files it lists.

A signature is a file beside them, in the format that OpenSSF's `model-signing` writes: a Sigstore bundle over the
SHA-256 of every file, so that package's own command verifies it too. Keys are files (NIST P-256, P-384 or P-521, in
PEM); nothing here uses the network. `$FORESHORE_TRUST` names the public keys that this machine trusts, separated as in
`$PATH`: where it is set, a variant loads only with a signature by one of them, and all its files are hashed for that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from foreshore.errors import ConfigError, ModelError, SetupError, UsageError

__all__ = ["SIGNATURE", "TRUST", "sign", "trusted", "verify"]

SIGNATURE = "model.sig"
TRUST = "FORESHORE_TRUST"
PASSWORD = "FORESHORE_KEY_PASSWORD"  # of an encrypted private key


def trusted() -> tuple[Path, ...]:
    """The public keys in `$FORESHORE_TRUST`. Raises `ConfigError` for one that is not there."""
    keys = tuple(Path(part).expanduser() for part in os.environ.get(TRUST, "").split(os.pathsep) if part.strip())
    for key in keys:
        if not key.is_file():
            raise ConfigError(f"${TRUST} names {str(key)!r}, which is no file", hint="name a public key, in PEM")
    return keys


def sign(folder: Path, key: Path, target: Path, *, ignored: Iterable[str] = ()) -> Path:
    """Write a signature of all files in `folder`, but the `ignored` and an older one, to `target`.

    `key` is a private key in PEM; `$FORESHORE_KEY_PASSWORD` opens an encrypted one. Raises `UsageError` for a key that
    cannot sign.
    """
    if not key.is_file():
        raise UsageError(
            f"there is no private key {str(key)!r}", hint="make one: openssl ecparam -genkey -name prime256v1"
        )
    hashing, signing = _part("hashing"), _part("signing")
    left_out = hashing.Config().set_ignored_paths(paths=[SIGNATURE, *ignored])
    password = os.environ.get(PASSWORD)
    try:
        signer = signing.Config().use_elliptic_key_signer(
            private_key=key, password=None if password is None else password.encode()
        )
    except Exception as error:  # the package names no errors of its own
        hint = f"it must be a P-256, P-384 or P-521 key in PEM; ${PASSWORD} opens an encrypted one"
        raise UsageError(f"{str(key)!r} cannot sign: {_said(error)}", hint=hint) from error
    signer.set_hashing_config(left_out).sign(folder, target)
    return target


def verify(folder: Path, keys: Iterable[Path]) -> Path:
    """The first of `keys` that signed `folder` as it is now. Raises `ModelError` if none did."""
    ref, signature = f"{folder.parent.name}:{folder.name}", folder / SIGNATURE
    if not signature.is_file():
        raise ModelError(f"{ref!r} is not signed", hint=f"foreshore models sign {ref} --key KEY")
    verifying = _part("verifying")
    refusals = []
    for key in keys:
        try:
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
        except Exception as error:
            hint = "it must be a P-256, P-384 or P-521 public key in PEM"
            raise ConfigError(f"{str(key)!r} is no key to trust: {_said(error)}", hint=hint) from error
        try:
            verifier.verify(folder, signature)
        except Exception as error:  # whatever a hostile signature provokes, it is not one that holds
            refusals.append(f"{key.name}: {_said(error)}")
        else:
            return key
    hint = f"if the files are meant to be so: foreshore models sign {ref} --key KEY"
    raise ModelError(f"the signature of {ref!r} does not hold ({'; '.join(refusals)})", hint=hint)


def _part(name: str) -> Any:
    try:
        return import_module(f"model_signing.{name}")
    except ImportError as error:
        hint = "pip install 'foreshore[signing]'"
        raise SetupError("signatures need the package model-signing", hint=hint) from error


def _said(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
