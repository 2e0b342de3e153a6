"""YAML that remembers where each value stands, and refuses what a config never needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from foreshore.errors import ConfigError

__all__ = ["Document", "Loc", "read_yaml"]

BOOL = "tag:yaml.org,2002:bool"

Loc = tuple[str | int, ...]


@dataclass(slots=True, kw_only=True)
class Document:
    data: Any = None
    lines: dict[Loc, int] = field(default_factory=dict)

    def line(self, loc: Loc) -> int:
        """The line of the value at `loc`, or of the nearest part around it."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 1)


def read_yaml(text: str, where: str) -> Document:
    """The one mapping in `text`. Raises `ConfigError` with `where` and the line."""
    try:
        document = _Reader(text, where).document()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{where}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{where}: not valid YAML: {type(error).__name__}") from error
    if not isinstance(document.data, dict):
        raise ConfigError(f"{where}:1: the file must be a mapping of keys, not {type(document.data).__name__}")
    return document


class _Reader:
    """Builds plain data; refuses duplicate keys, and aliases, of which a few lines can expand to gigabytes."""

    def __init__(self, text: str, where: str) -> None:
        self.loader, self.where = yaml.SafeLoader(text), where
        self.lines: dict[Loc, int] = {}
        self.seen: set[int] = set()

    def document(self) -> Document:
        node = self.loader.get_single_node()
        return Document(data={} if node is None else self.read(node, ()), lines=self.lines)

    def read(self, node: yaml.Node, loc: Loc) -> Any:
        line = node.start_mark.line + 1
        if id(node) in self.seen:
            raise ConfigError(f"{self.where}:{line}: aliases are not supported", hint="write the value out")
        self.seen.add(id(node))
        self.lines.setdefault(loc, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*loc, i)) for i, item in enumerate(node.value)]
        if node.tag == BOOL and node.value.lower() not in ("true", "false"):
            return node.value  # YAML 1.1 takes yes, no, on and off for booleans, and they make good names
        return self.loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{self.where}:{line}: a key must be a plain word")
            key = key_node.value
            if key in result:
                raise ConfigError(f"{self.where}:{line}: the key {key!r} stands here twice")
            self.lines[(*loc, key)] = line
            result[key] = self.read(value, (*loc, key))
        return result
