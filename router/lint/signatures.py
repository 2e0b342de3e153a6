"""What functions and operators of CEL take and give, as the engine has them."""

from __future__ import annotations

from foreshore.router.lint.fields import Type

__all__ = [
    *("BOOL", "BYTES", "COLLECTIONS", "DOUBLE", "DYN", "INT", "LITERALS", "MACROS", "MOMENT", "NUMBERS"),
    *("SIGNATURES", "SPAN", "STRING", "UINT", "comparable", "ordered"),
]

BOOL, STRING, BYTES, DYN = Type("bool"), Type("string"), Type("bytes"), Type("dyn")
INT, UINT, DOUBLE = Type("int"), Type("uint"), Type("double")
SPAN, MOMENT = Type("duration"), Type("timestamp")
NUMBERS = (INT, UINT, DOUBLE)
LITERALS = {bool: BOOL, int: INT, float: DOUBLE, str: STRING, bytes: BYTES, type(None): Type("null")}
SIGNATURES: dict[str, tuple[tuple[Type, ...], Type]] = {
    **dict.fromkeys(("contains", "startsWith", "endsWith", "matches"), ((STRING, STRING), BOOL)),
    "duration": ((STRING,), SPAN),
    "timestamp": ((STRING,), MOMENT),
    **{name: ((DYN,), made) for name, made in (("int", INT), ("uint", UINT), ("double", DOUBLE), ("string", STRING))},
    **{name: ((DYN,), made) for name, made in (("bytes", BYTES), ("bool", BOOL), ("type", Type("type")))},
    **{f"get{name}": ((DYN,), INT) for name in ("FullYear", "Month", "Date", "DayOfMonth", "DayOfWeek", "DayOfYear")},
    **{f"get{name}": ((DYN,), INT) for name in ("Hours", "Minutes", "Seconds", "Milliseconds")},
}
MACROS = ("all", "exists", "exists_one", "filter", "map")
COLLECTIONS = ("list", "map")


def comparable(left: Type, right: Type) -> bool:
    if DYN in (left, right) or left == right or (left in NUMBERS and right in NUMBERS):
        return True
    if left.name == right.name and left.name in COLLECTIONS:
        return comparable(left.item or DYN, right.item or DYN)
    return False


def ordered(left: Type, right: Type) -> bool:
    if DYN in (left, right) or (left in NUMBERS and right in NUMBERS):
        return True
    return left == right and left.name in ("bool", "string", "bytes", "duration", "timestamp")
