"""What all tests share: models small enough to load in a moment."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.tiny_model import write_decoder, write_encoder

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what it runs in the background, and children inherit it: the tests of Ctrl-C would wait forever.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with random weights and a chat template."""
    return write_decoder(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT-shaped encoder with random weights."""
    return write_encoder(tmp_path_factory.mktemp("tiny") / "encoder.gguf")
