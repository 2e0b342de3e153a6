"""How a report looks: the colour of each role by day and by night, and the page's style sheet."""

from __future__ import annotations

from types import MappingProxyType

__all__ = ["LIGHT", "style"]

# The blue and the orange differ in lightness too, and look different to people who cannot tell red from green.
_COLOURS = {
    "surface": ("#ffffff", "#1a1d22"),
    "page": ("#f5f6f8", "#121418"),
    "ink": ("#1b1e23", "#e8eaee"),
    "muted": ("#59616c", "#a1aab5"),
    "grid": ("#e6e9ed", "#2c3138"),
    "front": ("#98a2ae", "#6f7a87"),
    "uniform": ("#2f6db5", "#79b1f2"),
    "mix": ("#cc4f0a", "#ff9d57"),
    "good": ("#1a7f4b", "#63c794"),
    "bad": ("#b3261e", "#ff8a80"),
    "low-ink": ("#1b1e23", "#e8eaee"),
    "high-ink": ("#ffffff", "#1b1e23"),
    "heat0": ("#fdf1e5", "#2b2521"),
    "heat1": ("#fbdfc5", "#423022"),
    "heat2": ("#f7c69b", "#5c3c23"),
    "heat3": ("#f0a66c", "#784926"),
    "heat4": ("#e58547", "#98592a"),
    "heat5": ("#c95d20", "#c47939"),
    "heat6": ("#a44615", "#e3974f"),
    "heat7": ("#7a3210", "#f9be86"),
}
LIGHT = MappingProxyType({role: day for role, (day, _) in _COLOURS.items()})
DARK = MappingProxyType({role: night for role, (_, night) in _COLOURS.items()})

_RULES = """
*, *::before { box-sizing: border-box }
section .about { font-size: 14px }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere }
h2 { font-size: 19px; margin: 0 0 4px }
h3 { font-size: 15px; margin: 20px 0 8px }
p { margin: 0 0 12px; max-width: 68ch }
.about, .ci, caption, figcaption { color: var(--muted) }
section { background: var(--surface); border: 1px solid var(--grid); border-radius: 10px; padding: 20px;
  margin-top: 20px }
figure { margin: 16px 0 0 }
figcaption { font-size: 13px; margin-top: 6px }
svg { display: block; max-width: 100%; height: auto; font-family: inherit }
svg.fixed { max-width: none }
svg.narrow { display: none }
.line { fill: none; stroke-linejoin: round; stroke-linecap: round }
.scroll { overflow-x: auto; margin: 12px 0 0 }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--uniform); outline-offset: 2px }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; min-width: 100% }
caption { text-align: left; font-size: 13px; padding-bottom: 6px }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--grid); text-align: left;
  vertical-align: top; white-space: nowrap }
th { font-weight: 600 }
th[scope=row] { position: sticky; left: 0; background: var(--surface) }
caption span { position: sticky; left: 0; display: inline-block; max-width: min(82vw, 960px) }
thead th { color: var(--muted); font-size: 13px; vertical-align: bottom }
.number { text-align: right }
.wrap { white-space: normal; display: inline-block; min-width: 26ch; max-width: 70ch }
.ci { display: block; font-size: 12px }
.mix { color: var(--mix) }
.good { color: var(--good) }
.bad { color: var(--bad) }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 12px;
  margin: 20px 0 0; padding: 0; list-style: none }
.cards li { background: var(--surface); border: 1px solid var(--grid); border-radius: 10px; padding: 14px 16px }
.cards b { display: block; font-size: 26px; line-height: 1.2; font-variant-numeric: tabular-nums }
.cards span { color: var(--muted); font-size: 14px; overflow-wrap: anywhere }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0; font-size: 13px; color: var(--muted) }
.key span::before { content: ""; display: inline-block; width: 10px; height: 10px; margin-right: 7px;
  border-radius: 50%; background: var(--uniform) }
.key .of-mix::before { border-radius: 0; transform: rotate(45deg); background: var(--mix) }
.key .hollow::before { background: none; border: 2px solid var(--muted) }
.key .stairs::before { width: 18px; height: 0; border-radius: 0; border-top: 2px solid var(--front);
  vertical-align: middle; background: none }
summary { cursor: pointer; margin-top: 12px; font-weight: 600; font-size: 14px }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 13px; overflow-wrap: anywhere }
@media (max-width: 640px) {
  main { padding: 20px 10px 40px }
  section { padding: 14px 12px }
  svg.wide { display: none }
  svg.narrow { display: block }
  th[scope=row] { min-width: 12ch; max-width: 36vw; white-space: normal; overflow-wrap: anywhere }
  .cards { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)) }
  .cards b { font-size: 21px }
}
@media print { body { background: none } section { break-inside: avoid } }
"""


def style() -> str:
    """The whole style sheet: it follows what the reader's system prefers, light or dark."""
    day, night = (";".join(f"--{role}:{colour}" for role, colour in part.items()) for part in (LIGHT, DARK))
    roles = "".join(f".f-{role}{{fill:var(--{role})}}.s-{role}{{stroke:var(--{role})}}" for role in LIGHT)
    dark = f"@media (prefers-color-scheme: dark){{:root{{{night}}}}}"
    return f":root{{color-scheme:light dark;{day}}}{dark}{roles}{_RULES}"
