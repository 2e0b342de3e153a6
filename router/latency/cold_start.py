"""How fast a target will be before it has answered anything: as its variant was measured, best on this machine."""

from __future__ import annotations

from foreshore import native
from foreshore.card import Speed
from foreshore.config import TargetConfig
from foreshore.errors import ForeshoreError
from foreshore.router.latency.forecast import Speeds
from foreshore.store import Store

__all__ = ["measured"]


def measured(spec: TargetConfig) -> Speeds | None:
    """The speeds on the card of a local target's variant; None for a cloud, a file, or what nobody measured."""
    if not spec.local or spec.model.endswith((".gguf", ".onnx")):
        return None
    try:
        card = Store().get(spec.model).card
    except (ForeshoreError, OSError):  # not there, or damaged: loading it will say so
        return None
    return None if card is None or not card.speeds else _speeds(max(card.speeds, key=_likeness))


def _likeness(speed: Speed) -> tuple[bool, str]:
    """Highest for the newest measurement on a processor like ours."""
    return speed.device.cpu == native.cpu_name(), speed.date


def _speeds(speed: Speed) -> Speeds:
    return Speeds(
        prefill_tokens_per_s=speed.prefill.median if speed.prefill else 0.0,
        decode_tokens_per_s=speed.decode.median if speed.decode else 0.0,
        load_s=speed.load_s.median,
    )
