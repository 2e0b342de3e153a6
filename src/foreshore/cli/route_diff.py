"""`foreshore route diff`: what a new policy would change for recorded traffic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.route_options import JsonOption
from foreshore.errors import UsageError

if TYPE_CHECKING:
    from foreshore.router.checks.diff import Group, PolicyDiff, Side
    from foreshore.router.checks.traffic import Malformed, Row
    from foreshore.router.situation import Stage

__all__ = ["diff"]

SHOWN = 10  # malformed lines, and groups of each kind
KINDS = {
    "leaving": "newly tried elsewhere",
    "pins": "newly allowed elsewhere (where a request names the target)",
    "refused": "newly refused",
    "answered": "newly answered",
    "changed": "decided otherwise",
}


def diff(
    old: Annotated[Path, typer.Argument(help="The config that decides now.")],
    new: Annotated[Path, typer.Argument(help="The one to compare.")],
    on: Annotated[list[Path] | None, typer.Option("--on", help="JSON lines of requests. May be repeated.")] = None,
    ledger: Annotated[Path | None, typer.Option("--ledger", help="The requests of a gateway's ledger.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a new policy changes for recorded requests, above all what may leave this machine.

    Exit codes: 0, 2 where lines could not be read, 3 where a request may leave that could not, or did not, before.
    """
    with exit_on_error():
        from foreshore.router.checks.diff import compare

        if not on and ledger is None:
            raise UsageError("there is no traffic to compare on", hint="give --on FILE or --ledger FILE")
        stages = _stage(old), _stage(new)
        found = compare(*stages, _rows(on or (), ledger))
        if not found.rows and not found.malformed:
            raise UsageError("there is no request in what was given: nothing was compared")
        print_json(_json(found)) if as_json else _show(found)
        if found.exit_code:
            raise typer.Exit(found.exit_code)


def _stage(path: Path) -> Stage:
    from foreshore.config import find_config, load_config
    from foreshore.router.policy import Policy
    from foreshore.router.situation import Stage

    config = load_config(find_config(path))
    return Stage(config, Policy(config, where=str(path)))


def _rows(files: Iterable[Path], ledger: Path | None) -> Iterator[Row | Malformed]:
    from foreshore.router.checks.traffic import read_ledger, read_lines

    for file in files:
        yield from read_lines(file)
    if ledger is not None:
        yield from read_ledger(ledger)


def _json(found: PolicyDiff) -> dict[str, Any]:
    return {
        "rows": found.rows,
        "before": _side(found.before),
        "after": _side(found.after),
        **{kind: [_group(g) for g in _sorted(getattr(found, kind))] for kind in KINDS},
        "private_leaving": found.private,
        "malformed": [{"file": m.file, "line": m.line, "why": m.why} for m in found.malformed],
        "not_kept": sorted(found.unknown),
        "exit_code": found.exit_code,
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "answered": side.answered,
        "share_local": side.share_local,
        "dollars": side.dollars,
        "mean_s": side.mean_s,
        "timed": side.timed,
    }


def _group(group: Group) -> dict[str, Any]:
    ways = {"before": group.before, "after": group.after}
    plain = {when: {"rule": way.rule, "target": way.target} for when, way in ways.items()}
    return {**plain, "count": group.count, "examples": group.examples}


def _sorted(groups: dict[Any, Group]) -> Iterable[Group]:
    from foreshore.router.checks.diff import sorted_groups

    return sorted_groups(groups.values())


def _show(found: PolicyDiff) -> None:
    for malformed in found.malformed[:SHOWN]:
        err.print(f"[yellow]skipped:[/] {escape(str(malformed))}")
    if len(found.malformed) > SHOWN:
        err.print(f"[yellow]skipped:[/] and {len(found.malformed) - SHOWN} lines more")
    if found.unknown:
        told = ", ".join(f"{path} ({count})" for path, count in sorted(found.unknown.items()))
        err.print(f"[yellow]note:[/] so many rows do not tell what a policy looks at, and count as at rest: {told}")
    out.print(f"{found.rows} requests: {sum(g.count for g in found.changed.values())} decided otherwise")
    for name, side in (("before", found.before), ("after", found.after)):
        out.print(f"{name:<7} {_in_words(side)}")
    for kind, title in KINDS.items():
        _show_groups(title, list(_sorted(getattr(found, kind))), "bold red" if kind in ("leaving", "pins") else "bold")
    if found.private:
        out.print(f"[bold red]{found.private} of what may leave now are private before[/]")


def _in_words(side: Side) -> str:
    time = "no time predicted"
    if side.mean_s is not None:
        time = f"{side.mean_s:.2f} s on average ({side.timed} predicted)"
    return f"{side.answered} answered, {side.share_local:.1%} of them here, ${side.dollars:.4f}, {time}"


def _show_groups(title: str, groups: list[Group], mark: str) -> None:
    if groups:
        out.print(f"[{mark}]{title}[/]")
    for group in groups[:SHOWN]:
        text = f"{group.count:>6}  {group.before}  =>  {group.after}  ({', '.join(group.examples)})"
        out.print(f"  {escape(text)}")
    if len(groups) > SHOWN:
        out.print(f"          and {len(groups) - SHOWN} ways more")
