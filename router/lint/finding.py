"""What a lint has to say of a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from foreshore.router.lint.cells import ABSENT
from foreshore.router.lint.reach import Reach
from foreshore.router.lint.values import Values

__all__ = ["SHIPPED", "Code", "Finding", "in_words", "telling"]

Code = Literal["type", "never", "always", "fails", "unreachable", "shadowed", "contradiction", "unused", "unchecked"]
SHIPPED = "policy "  # what the place of a shipped policy's expression begins with


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`where` as in an error: file, constraint or rule, and key. `serious`: it cannot be meant."""

    code: Code
    where: str
    message: str
    serious: bool = True


def telling(reach: Reach, values: Values) -> dict[str, Any]:
    """Of `values`, those that say more than the config and the defaults do, by their paths."""
    return {str(s): v for s, v in sorted(values.items(), key=str) if v != reach.domain.default(s)}


def in_words(reach: Reach, values: Values) -> str:
    """ "where request.tenant is 'hr'", of the values that matter."""
    said = [f"{name} is {_shown(value)}" for name, value in telling(reach, values).items()]
    gone = [f"the header {slot.header!r} is missing" for slot, v in values.items() if slot.header and v is ABSENT]
    return "where " + " and ".join(said or gone) if said or gone else "for an ordinary request"


def _shown(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
