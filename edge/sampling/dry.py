"""llama.cpp's DRY sampler. Reading its sequence breakers goes through the whole vocabulary, so it is done once for
each set of settings, and then copied."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import OrderedDict
from typing import Any

import llama_cpp.llama_cpp as native

from foreshore.edge.vocab import Vocab
from foreshore.types import Sampling

__all__ = ["DryPrototype", "dry_prototype", "dry_sampler"]

KEPT = 8  # prototypes of one vocabulary
_Key = tuple[float, float, int, int, tuple[str, ...]]


class DryPrototype:
    """Owns a native sampler that others are copied from, and frees it with itself."""

    def __init__(self, vocab: Vocab, key: _Key) -> None:
        *numbers, breakers = key
        texts = (ctypes.c_char_p * max(1, len(breakers)))(*(b.encode() for b in breakers))
        self.sampler = native.llama_sampler_init_dry(vocab.handle, *numbers, texts, len(breakers))
        weakref.finalize(self, native.llama_sampler_free, self.sampler)


_prototypes: weakref.WeakKeyDictionary[Vocab, OrderedDict[_Key, DryPrototype]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def dry_sampler(s: Sampling, vocab: Vocab) -> Any:
    """A native sampler of its own, which has seen nothing yet."""
    return native.llama_sampler_clone(dry_prototype(s, vocab).sampler)


def dry_prototype(s: Sampling, vocab: Vocab) -> DryPrototype:
    """Takes half a second for 150,000 tokens the first time that `vocab` meets these settings."""
    key = (s.dry_multiplier, s.dry_base, s.dry_allowed_length, s.dry_penalty_last_n, tuple(s.dry_sequence_breakers))
    with _lock:
        known = _prototypes.setdefault(vocab, OrderedDict())
        if key not in known:
            known[key] = DryPrototype(vocab, key)
        known.move_to_end(key)
        while len(known) > KEPT:
            known.popitem(last=False)
        return known[key]
