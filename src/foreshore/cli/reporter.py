"""Shows what a build or a measurement is doing, as bars on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from foreshore.cli.console import err
from foreshore.cli.units import human

if TYPE_CHECKING:
    from foreshore.quantize.progress import Progress as Step

__all__ = ["Reporter", "byte_bars", "reporting"]


class Reporter:
    """Shows each stage as a bar, if stderr is a terminal, and says what was built and what was reused."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.tasks: dict[tuple[str, str], TaskID] = {}
        self.reused: set[str] = set()

    def __call__(self, step: Step) -> None:
        if step.total:
            self.bar(step)
        elif step.stage == "reuse":
            self.reused.add(step.what)
            self.bars.console.print(f"[green]up to date[/] {escape(step.what)}")
        elif step.stage == "measured":
            self.bars.console.print(f"[green]measured before[/] {escape(step.what)}")
        elif step.stage == "wait":
            self.bars.console.print(f"waiting: another process builds {escape(step.what)}")
        elif step.stage == "ready":
            self.bars.console.print(f"[green]built[/] {escape(step.what)}")

    def bar(self, step: Step) -> None:
        key = (step.stage, step.what)
        if key not in self.tasks:
            title = f"{step.stage} {escape(step.what)}"
            self.tasks[key] = self.bars.add_task(title, total=step.total, counted=step.counted)
        self.bars.update(self.tasks[key], completed=step.done, total=step.total)


class Amount(ProgressColumn):
    """Bytes, or a plain count for a task that is `counted`."""

    def render(self, task: Task) -> Text:
        total = int(task.total or 0)
        if task.fields.get("counted"):
            return Text(f"{int(task.completed)} of {total}")
        return Text(f"{human(task.completed)} of {human(total)}")


def byte_bars() -> Progress:
    """Bars on stderr, if that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), Amount(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


@contextmanager
def reporting() -> Iterator[Reporter]:
    with byte_bars() as bars:
        yield Reporter(bars)
