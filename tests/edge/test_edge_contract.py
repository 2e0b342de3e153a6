"""The local runtime and the shipped fake keep the contract of every `Backend`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from foreshore.edge import EngineOptions, LocalBackend
from foreshore.testing import CONTRACT, Check, FakeBackend


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_the_local_backend_keeps_the_contract(check: Check, tiny: Path) -> None:
    asyncio.run(check(lambda: LocalBackend(tiny, options=EngineOptions(threads=1))))


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_the_fake_keeps_the_contract(check: Check) -> None:
    asyncio.run(check(lambda: FakeBackend("hello there")))
