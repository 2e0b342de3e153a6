"""What `foreshore run` shows of an answer beside its text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from foreshore.backend import Answer
from foreshore.cli import app
from foreshore.cli.run import measured
from foreshore.types import GAP_BOUNDS, Timings, Usage


def run(tiny: Path, *more: str) -> Result:
    return CliRunner().invoke(
        app, ["run", str(tiny), "--max-tokens", "5", "--threads", "1", "--temperature", "0", *more]
    )


def test_the_measurements_stand_in_one_line_on_stderr(tiny: Path) -> None:
    result = run(tiny, "hello")
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if "TTFT" in line]
    assert "prefill" in line
    assert "decode" in line
    assert "TTFT" not in result.stdout


def test_quiet_leaves_the_answer_alone(tiny: Path) -> None:
    loud, quiet = run(tiny, "hello"), run(tiny, "hello", "--quiet")
    assert quiet.exit_code == 0, quiet.output
    assert quiet.stderr == ""
    assert quiet.stdout == loud.stdout


def test_json_has_them_too(tiny: Path) -> None:
    answer = json.loads(run(tiny, "hello", "--json").stdout)
    timings = answer["timings"]
    assert timings["ttft_s"] > 0
    assert timings["prefill_tokens_per_s"] > 0
    assert 0 <= timings["gap_p50_s"] <= timings["gap_p99_s"] <= GAP_BOUNDS[-1]
    assert answer["usage"]["cached_tokens"] >= 0


@pytest.mark.parametrize(("arguments", "piped"), [([], ""), ([], " \n"), (["-"], ""), ([""], ""), (["--json"], "")])
def test_no_prompt_is_an_error_and_no_question(tiny: Path, arguments: list[str], piped: str) -> None:
    result = CliRunner().invoke(app, ["run", str(tiny), *arguments], input=piped)
    assert result.exit_code == 2
    assert "there is no prompt" in result.stderr


def test_every_number_of_a_line() -> None:
    timings = Timings(
        prefill_s=0.5, prefill_tokens=100, ttft_s=0.52, decode_s=1.0, decode_tokens=21, gaps=(0, 0, 0, 0, 0, 0, 20)
    )
    usage = Usage(prompt_tokens=130, completion_tokens=21, cached_tokens=30)
    line = measured(Answer(text="a", finish_reason="stop", timings=timings, usage=usage))
    expected = "TTFT 520 ms, prefill 200 tokens/s, 30 prompt tokens cached, decode 20.0 tokens/s, gap p99 79.6 ms"
    assert line == f"21 tokens, {expected}, stop"


def test_what_was_not_measured_is_left_out() -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=1)
    assert measured(Answer(text="a", finish_reason="length", usage=usage)) == "1 tokens, length"
