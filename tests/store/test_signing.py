"""Signed variants: what a trusted key signed loads, and nothing else where keys are trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foreshore import signing
from foreshore.errors import ConfigError, ModelError, UsageError
from foreshore.manifest import Manifest
from foreshore.store import Store
from tests.store.test_store import put

pytest.importorskip("model_signing")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")


def keys(folder: Path, name: str = "key", password: bytes | None = None, curve: Any = None) -> Path:
    """A private key; the public one has the suffix `.pub`."""
    made = ec.generate_private_key(curve or ec.SECP256R1())
    return write(folder / name, made, password)


def write(path: Path, key: Any, password: bytes | None = None) -> Path:
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(pem, kind, locked))
    public(path).write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return path


def public(key: Path) -> Path:
    return key.with_suffix(".pub")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return keys(tmp_path)


@pytest.fixture
def made(store: Store, key: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """A signed variant, on a machine that trusts its key."""
    made = put(store)
    store.sign("m", key)
    monkeypatch.setenv("FORESHORE_TRUST", str(public(key)))
    return made


def test_a_signed_variant_loads(store: Store, made: Manifest, key: Path) -> None:
    assert store.signed(made)
    assert store.resolve("m").manifest == made
    assert store.verify(made) == ()
    assert signing.verify(store.folder(made), [public(key)]) == public(key)


def test_an_unsigned_variant_is_refused_where_keys_are_trusted(store: Store, made: Manifest) -> None:
    put(store, variant="q4_0")
    with pytest.raises(ModelError, match="'m:q4_0' is not signed"):
        store.resolve("m:q4_0")
    assert store.sound("m:q4_0").variant == "q4_0"


def test_without_trusted_keys_nothing_is_asked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORESHORE_TRUST", raising=False)
    assert store.resolve(put(store).ref).path.is_file()


def test_a_strangers_signature_does_not_count(store: Store, made: Manifest, tmp_path: Path) -> None:
    store.sign("m", keys(tmp_path, "stranger"))
    with pytest.raises(ModelError, match="does not hold"):
        store.resolve("m")


def test_any_of_several_keys_will_do(
    store: Store, made: Manifest, tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = keys(tmp_path, "other")
    monkeypatch.setenv("FORESHORE_TRUST", os.pathsep.join([str(public(other)), str(public(key))]))
    assert store.resolve("m").manifest == made
    store.sign("m", other)
    assert store.resolve("m").manifest == made


def test_a_change_to_any_byte_is_noticed(store: Store, made: Manifest) -> None:
    """Also of the weights with their old size and time, and a note that says they were checked."""
    path = store.path(made)
    before = path.stat()
    path.write_bytes(b"weighty")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ModelError, match=r"does not hold.*model\.gguf"):
        store.resolve("m")


def test_a_change_to_the_manifest_is_noticed(store: Store, made: Manifest) -> None:
    path = store.folder(made) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "notes": ["better than it is"]}))
    with pytest.raises(ModelError, match=r"does not hold.*manifest\.json"):
        store.resolve("m")


def test_a_file_that_was_not_signed_is_noticed(store: Store, made: Manifest) -> None:
    (store.folder(made) / "extra").touch()
    with pytest.raises(ModelError, match=r"does not hold.*extra"):
        store.resolve("m")


def test_a_signature_goes_with_the_manifest_that_it_signed(store: Store, made: Manifest, key: Path) -> None:
    changed = store.update("m", lambda m: replace(m, notes=()))
    assert not store.signed(changed)
    with pytest.raises(ModelError, match="not signed"):
        store.resolve("m")
    store.sign("m", key)
    assert store.resolve("m").manifest == changed
    assert not store.signed(put(store, content=b"other"))


def test_a_signature_of_another_variant_does_not_count(store: Store, made: Manifest, key: Path) -> None:
    other = put(store, variant="q4_0", content=b"other")
    (store.folder(other) / signing.SIGNATURE).write_bytes((store.folder(made) / signing.SIGNATURE).read_bytes())
    with pytest.raises(ModelError, match="does not hold"):
        store.resolve("m:q4_0")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"null", b'{"verificationMaterial": 5}', b"\xff", b"[" * 99999]
)
def test_what_is_no_signature_is_refused(content: bytes, store: Store, made: Manifest) -> None:
    (store.folder(made) / signing.SIGNATURE).write_bytes(content)
    with pytest.raises(ModelError, match="does not hold"):
        store.resolve("m")


def test_a_damaged_variant_is_not_signed(store: Store, key: Path) -> None:
    made = put(store)
    store.path(made).write_bytes(b"weighty")
    with pytest.raises(ModelError, match="damaged"):
        store.sign("m", key)
    assert not store.signed(made)


def test_an_encrypted_key_needs_its_password(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store)
    locked = keys(tmp_path, "locked", b"open", ec.SECP384R1())
    with pytest.raises(UsageError, match="cannot sign") as caught:
        store.sign("m", locked)
    assert "FORESHORE_KEY_PASSWORD" in str(caught.value.hint)
    monkeypatch.setenv("FORESHORE_KEY_PASSWORD", "open")
    assert store.sign("m", locked).is_file()


def test_a_key_that_cannot_sign_or_be_trusted_is_named(
    store: Store, made: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.pub").write_text("no key")
    with pytest.raises(UsageError, match="no private key"):
        store.sign("m", tmp_path / "absent")
    for path in (write(tmp_path / "rsa", rsa.generate_private_key(65537, 1024)), tmp_path / "text.pub"):
        with pytest.raises(UsageError, match="cannot sign"):
            store.sign("m", path)
        with pytest.raises(ConfigError, match="no key to trust"):
            signing.verify(store.folder(made), [public(path)])
    monkeypatch.setenv("FORESHORE_TRUST", str(tmp_path / "absent.pub"))
    with pytest.raises(ConfigError, match=r"absent\.pub"):
        store.resolve("m")
    assert store.signed(made)


def test_the_packages_own_command_verifies_it(store: Store, made: Manifest, key: Path) -> None:
    folder = store.folder(made)
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder), "--public_key", str(public(key))]
    done = subprocess.run([*command, "--signature", str(folder / signing.SIGNATURE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
