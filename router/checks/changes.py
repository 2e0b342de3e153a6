"""Facts set by hand, checked as if they had been measured: what a test case or `route explain` supposes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from foreshore.errors import NotFound, UsageError
from foreshore.router.lint.fields import FIELDS, Field
from foreshore.router.situation import Situation

__all__ = ["changed", "parse_settings"]

HEADER = "request.headers."
_KINDS: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "double": (int, float), "string": (str,)}
_SHOWN = {"bool": "true or false", "int": "a whole number", "double": "a number", "string": "text"}
_FIXED = ("target.name", "target.local", "target.kind")  # of the config, and privacy hangs on them


def changed(situation: Situation, settings: Mapping[str, Any]) -> Situation:
    """`situation` with `settings`, by names like "device.online", "request.prompt_tokens" and "target.cloud.healthy".

    Raises `UsageError` for a field that is not there or cannot be so, `NotFound` for a target.
    """
    parts: dict[str, dict[str, Any]] = {}
    targets: dict[str, dict[str, Any]] = {}
    headers = dict(situation.request.headers)
    for name, value in settings.items():
        if name.startswith(HEADER):
            _set_header(headers, name.removeprefix(HEADER), value)
            parts.setdefault("request", {})["headers"] = headers
            continue
        part, target, field = _split(name, situation)
        where = targets.setdefault(target, {}) if target else parts.setdefault(part, {})
        where[field] = _checked(f"{part}.{field}", value)
    found = {part: replace(getattr(situation, part), **values) for part, values in parts.items() if part != "request"}
    if "request" in parts:
        found["request"] = replace(situation.request, **_with_labels(parts["request"]))
    if targets:
        made = [replace(t, **targets[t.name]) if t.name in targets else t for t in situation.targets]
        found["targets"] = _ranked(made) if any("quality" in values for values in targets.values()) else made
    return replace(situation, **found)


def parse_settings(part: str, pairs: Iterable[str]) -> dict[str, Any]:
    """`KEY=VALUE` of the command line: `on_battery=true` of the part "device", `cloud.healthy=false` of "target"."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{pair!r} is no setting", hint=f"write KEY=VALUE, as in {_example(part)}")
        field = f"{part}.{key.rpartition('.')[2]}"
        found[f"{part}.{key}"] = _read(field, value)
    return found


def _set_header(headers: dict[str, str], name: str, value: Any) -> None:
    """None removes it."""
    if value is None:
        headers.pop(name, None)
    elif isinstance(value, str):
        headers[name] = value
    else:
        raise UsageError(f"the header {name!r} is {value!r}; it must be text")


def _split(name: str, situation: Situation) -> tuple[str, str, str]:
    """The part, the target or "", and the field."""
    part, _, rest = name.partition(".")
    if part != "target":
        return part, "", rest
    target, dot, field = rest.rpartition(".")
    known = [t.name for t in situation.targets]
    if not dot:
        raise UsageError(f"{name!r} names no target", hint=f"write TARGET.FIELD, as in {known[0]}.healthy")
    if target not in known:
        raise NotFound(f"there is no target {target!r}", hint=f"known are {', '.join(known)}")
    return part, target, field


def _checked(path: str, value: Any) -> Any:
    field = _field(path)
    if path in _FIXED:
        raise UsageError(f"{path!r} is the config's to say", hint="change the config")
    if field.type.name == "list" and isinstance(value, (list, tuple)):
        return tuple(_word(path, v, field) for v in value)
    if field.type.name == "map" and isinstance(value, Mapping):
        return {str(k).lower(): str(v) for k, v in value.items()}
    kinds = _KINDS.get(field.type.name, ())
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise UsageError(f"{path} is {value!r}; it must be {_SHOWN.get(field.type.name, f'a {field.type}')}")
    if isinstance(value, str):
        return _word(path, value, field)
    return value if isinstance(value, bool) else _number(path, value, field)


def _field(path: str) -> Field:
    if path in FIELDS:
        return FIELDS[path]
    part = path.partition(".")[0]
    known = [name for name in FIELDS if name.startswith(f"{part}.")] or list(FIELDS)
    near = difflib.get_close_matches(path, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(n.partition('.')[2] for n in known)}"
    raise UsageError(f"there is no field {path!r}", hint=hint)


def _word(path: str, value: Any, field: Field) -> str:
    if not isinstance(value, str) or (field.words and value not in field.words):
        raise UsageError(f"{path} is {value!r}", hint=f"it takes {', '.join(field.words) or 'text'}")
    return value


def _number(path: str, value: Any, field: Field) -> float:
    low, high = -math.inf if field.low is None else field.low, math.inf if field.high is None else field.high
    if not math.isfinite(value) or not low <= value <= high:
        raise UsageError(f"{path} is {value!r}", hint=f"it lies between {low:g} and {high:g}")
    return float(value) if field.type.name == "double" else int(value)


def _with_labels(values: dict[str, Any]) -> dict[str, Any]:
    """Labels say that a request is private, and a private one has a label: one is set with the other."""
    if "labels" not in values and "private" not in values:
        return values
    private = bool(values.get("private") or values.get("labels"))
    return {**values, "private": private, "labels": values.get("labels") or (("header",) if private else ())}


def _ranked(targets: list[Any]) -> list[Any]:
    highest = max((t.quality for t in targets), default=0.0)
    return [replace(t, best=t.quality >= highest) for t in targets]


def _read(path: str, text: str) -> Any:
    """The value that `text` stands for, by the field's type; as text where it cannot be one."""
    kind = _field(path).type.name
    if kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind == "list":
        return [word for word in text.split(",") if word]
    if kind in ("int", "double"):
        try:
            return int(text) if kind == "int" else float(text)
        except ValueError:
            return text
    return text


def _example(part: str) -> str:
    return {"device": "on_battery=true", "now": "hour=23", "target": "cloud.healthy=false"}.get(part, f"{part}.x=1")
