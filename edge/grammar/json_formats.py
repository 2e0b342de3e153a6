"""JSON Schema's `format` of strings, as GBNF. All that is written under a rule is valid; some of what is valid is not
written: a month has 28 days in February, an address of version 6 all its groups, a domain no letters beyond ASCII."""

from __future__ import annotations

from foreshore.edge.grammar.json_ranges import integers

__all__ = ["FORMATS"]

_DATE = (
    '[1-9] [0-9]{3} "-" (("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
    ' | ("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30")'
    ' | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))'
)
_HOUR = '([01] [0-9] | "2" [0-3])'
_TIME = f'{_HOUR} ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [-+] {_HOUR} ":" [0-5] [0-9])'
_LABEL = "[a-zA-Z0-9] ([a-zA-Z0-9-]{0,30} [a-zA-Z0-9])?"
_ATOM = "[a-zA-Z0-9_+-]{1,30}"
_OCTET = f"({integers(0, 255)})"
_GROUP = "[0-9a-f]{1,4}"
_CLOCK = 'n "H" (n "M")? (n "S")? | n "M" (n "S")? | n "S"'
_CALENDAR = 'n "Y" (n "M" (n "D")?)? | n "M" (n "D")? | n "D"'
_DURATION = f'"P" (n "W" | ({_CALENDAR}) ("T" ({_CLOCK}))? | "T" ({_CLOCK}))'.replace("n ", "[0-9]{1,3} ")

FORMATS = {
    name: rf'"\"" {body} "\""'
    for name, body in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f'{_DATE} "T" {_TIME}',
        "duration": _DURATION,
        "uuid": '[0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12}',
        "hostname": f'{_LABEL} ("." {_LABEL})*',
        "email": f'{_ATOM} ("." {_ATOM})* "@" {_LABEL} ("." {_LABEL})* "." [a-zA-Z]{{2,10}}',
        "ipv4": f'{_OCTET} ("." {_OCTET}){{3}}',
        "ipv6": f'{_GROUP} (":" {_GROUP}){{7}}',
        "uri": '[a-zA-Z] [a-zA-Z0-9+.-]{0,15} ":" ([a-zA-Z0-9/?#@!$&\'()*+,;=:._~-] | "%" [0-9A-F]{2})+',
    }.items()
}
