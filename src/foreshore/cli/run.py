"""`foreshore run MODEL [PROMPT]`: chat with a variant in the terminal."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape

from foreshore.backend import Answer, join
from foreshore.cli.console import INTERRUPTED, err, exit_on_error, out, print_json, show_error
from foreshore.errors import BackendError, BadRequest, UsageError
from foreshore.gaps import gap_quantile
from foreshore.types import Chunk, Message, Timings, Usage

__all__ = ["app", "measured"]

app = typer.Typer()
HELP = "/system TEXT sets the instructions, /clear forgets the conversation, /exit (or Ctrl-D) leaves"


@app.command()
def run(
    model: Annotated[str, typer.Argument(help="A variant in the store, such as starter-s:q4_k_m, or a .gguf file.")],
    prompt: Annotated[str | None, typer.Argument(help="Answer this and leave; `-` or a pipe reads stdin.")] = None,
    system: Annotated[str | None, typer.Option(help="Instructions that stand before the conversation.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="End answers after this many tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None,
    seed: Annotated[int | None, typer.Option(help="Make draws repeatable.")] = None,
    context: Annotated[int | None, typer.Option(help="Context size in tokens.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: physical cores.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no measurements after answers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one answer as JSON, with its measurements.")] = False,
) -> None:
    """Chat with a variant in the terminal; what was measured is shown after each answer, on stderr."""
    with exit_on_error():
        from foreshore.edge import EngineOptions, Runtime

        if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
            prompt = sys.stdin.read().strip()
        if prompt == "" or (prompt is None and as_json):
            raise UsageError("there is no prompt", hint="give one as an argument, or by a pipe")
        sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        with Runtime(model, options=EngineOptions(context_tokens=context, threads=threads)) as runtime:
            if not quiet and not as_json:
                err.print(f"[dim]{escape(model)} takes {runtime.backend.memory}[/]")
            chat = Chat(runtime, sampling, system, quiet=quiet, as_json=as_json)
            if prompt is None:
                chat.converse()
            else:
                chat.once(prompt)


class Chat:
    """A conversation: the messages so far, and how to go on."""

    def __init__(
        self, runtime: Any, sampling: dict[str, Any], system: str | None, *, quiet: bool, as_json: bool
    ) -> None:
        self._runtime, self._sampling, self._quiet, self._as_json = runtime, sampling, quiet, as_json
        self._messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]

    def once(self, prompt: str) -> None:
        self._messages.append({"role": "user", "content": prompt})
        if self._as_json:
            print_json(_plain(self._runtime.chat(self._messages, **self._sampling)))
        elif self._answer() is None:
            raise typer.Exit(INTERRUPTED)

    def converse(self) -> None:
        """Read, answer, repeat. Ctrl-C stops the answer; a second one at the prompt leaves."""
        with suppress(ImportError):  # a Python built without it: lines are then typed as they come
            import readline  # noqa: F401 - from now on `input` knows arrow keys and earlier lines
        err.print(f"[dim]{escape(HELP)}[/]")
        warned = False
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                if warned:
                    return
                warned = True
                err.print("\n[dim]Ctrl-C again leaves[/]")
                continue
            warned = False
            if line == "/exit":
                return
            if line and not self._command(line):
                self._turn(line)

    def _command(self, line: str) -> bool:
        """Whether `line` was a command."""
        if not line.startswith("/"):
            return False
        word, _, rest = line.partition(" ")
        if word == "/system":
            kept = [m for m in self._messages if m["role"] != "system"]
            self._messages = [{"role": "system", "content": rest}, *kept] if rest else kept
        elif word == "/clear":
            self._messages = [m for m in self._messages if m["role"] == "system"]
        else:
            err.print(f"[dim]{escape(HELP)}[/]")
        return True

    def _turn(self, line: str) -> None:
        """One question and its answer; what failed or was stopped is not part of the conversation."""
        self._messages.append({"role": "user", "content": line})
        try:
            answer = self._answer()
        except (BadRequest, BackendError) as error:
            show_error(error)
            answer = None
        if answer is None:
            self._messages.pop()
        else:
            self._messages.append({"role": "assistant", "content": answer.text})

    def _answer(self) -> Answer | None:
        """Stream one answer; `None` if Ctrl-C stopped it."""
        chunks: list[Chunk] = []
        try:
            with closing(self._runtime.stream_chat(self._messages, **self._sampling)) as stream:
                for chunk in stream:
                    chunks.append(chunk)
                    _show(chunk)
        except KeyboardInterrupt:
            out.print()
            err.print("[dim]stopped[/]")
            return None
        out.print()
        answer = join(chunks)
        if not self._quiet:
            err.print(measured(answer), style="dim")
        return answer


def _show(chunk: Chunk) -> None:
    if chunk.reasoning:
        err.print(f"[dim]{escape(chunk.reasoning)}[/]", end="")
    if chunk.text:
        out.print(chunk.text, end="", markup=False)
    for call in chunk.tool_calls:
        out.print(f"{call.name}({call.arguments})", markup=False)
    out.file.flush()


def measured(answer: Answer) -> str:
    """One line; what was not measured is left out."""
    timings, usage = answer.timings or Timings(), answer.usage or Usage(prompt_tokens=0, completion_tokens=0)
    parts = {
        "TTFT {:.0f} ms": timings.ttft_s * 1e3,
        "prefill {:.0f} tokens/s": timings.prefill_tokens_per_s,
        "{:.0f} prompt tokens cached": usage.cached_tokens,
        "decode {:.1f} tokens/s": timings.decode_tokens_per_s,
        "gap p99 {:.1f} ms": gap_quantile(timings.gaps, 0.99) * 1e3,
    }
    shown = [form.format(value) for form, value in parts.items() if value]
    return ", ".join([f"{usage.completion_tokens} tokens", *shown, answer.finish_reason])


def _plain(answer: Answer) -> dict[str, Any]:
    timings = answer.timings or Timings()
    return {
        "text": answer.text,
        "reasoning": answer.reasoning,
        "tool_calls": [asdict(c) for c in answer.tool_calls],
        "finish_reason": answer.finish_reason,
        "usage": None if answer.usage is None else asdict(answer.usage),
        "timings": {
            **asdict(timings),
            "prefill_tokens_per_s": timings.prefill_tokens_per_s,
            "tpot_s": timings.tpot_s,
            "decode_tokens_per_s": timings.decode_tokens_per_s,
            "gap_p50_s": gap_quantile(timings.gaps, 0.5),
            "gap_p99_s": gap_quantile(timings.gaps, 0.99),
        },
    }
