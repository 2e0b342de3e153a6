"""Keys of an object that its schema does not name: any but those that it does, which have values of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from foreshore.edge.grammar.gbnf import in_class, literal

__all__ = ["other_keys"]

_NEVER = r'"\\\x00-\x1f\x7f'  # what a JSON string must escape; no key is written with escapes, or "\u0061" would be "a"
_ANY = f"[^{_NEVER}]"


def other_keys(names: Iterable[str], rule: Callable[[str], str]) -> str:
    """An expression for a key, its quotes included, that is none of `names`. `rule` names an expression."""
    plain = [name for name in names if not any(c in '"\\\x7f' or c < " " for c in name)]
    return rf'"\"" {_unlike(plain, rule)} "\""'


def _unlike(names: list[str], rule: Callable[[str], str]) -> str:
    """Text that is none of `names`, letter by letter."""
    tails: dict[str, list[str]] = {}
    for name in names:
        if name:
            tails.setdefault(name[0], []).append(name[1:])
    parts = [f"[^{''.join(map(in_class, tails))}{_NEVER}] {_ANY}*"]
    parts += [f"{literal(letter)} {rule(_unlike(rest, rule))}" for letter, rest in tails.items()]
    return f"({' | '.join(parts)}){'' if '' in names else '?'}"
