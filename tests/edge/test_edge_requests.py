"""Requests through the embedded runtime: what it answers, and what it refuses by name."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foreshore.edge import AsyncRuntime, EngineOptions, Runtime
from foreshore.errors import BadRequest, ContextExceeded, UsageError

USER = ({"role": "user", "content": "hello"},)
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["a"],
        },
    },
}


@pytest.fixture(scope="module")
def runtime(tiny: Path) -> Iterator[Runtime]:
    with Runtime(tiny, options=EngineOptions(threads=1)) as runtime:
        yield runtime


def test_an_answer_carries_usage_and_timings(runtime: Runtime) -> None:
    answer = runtime.chat("hello", max_tokens=12, extra={"ignore_eos": True})
    assert answer.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    timings = answer.timings
    assert timings is not None
    assert timings.decode_tokens == 12
    assert timings.prefill_tokens == answer.usage.prompt_tokens
    assert timings.ttft_s >= timings.prefill_s > 0
    assert timings.tpot_s > 0
    assert timings.decode_tokens_per_s == pytest.approx(1 / timings.tpot_s)


def test_streaming_and_collecting_agree(runtime: Runtime) -> None:
    streamed = list(runtime.stream_chat(USER, max_tokens=30, temperature=0))
    assert "".join(c.text for c in streamed) == runtime.chat(USER, max_tokens=30, temperature=0).text


def test_a_seed_repeats_a_draw_and_another_seed_differs(runtime: Runtime) -> None:
    def draw(seed: int) -> str:
        return runtime.chat("hello", max_tokens=40, temperature=1.5, seed=seed, extra={"ignore_eos": True}).text

    assert draw(5) == draw(5)
    assert draw(-5) == draw(-5)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_a_stop_string_ends_the_answer_wherever_tokens_split_it(runtime: Runtime) -> None:
    options: dict[str, Any] = {"max_tokens": 60, "temperature": 0, "extra": {"ignore_eos": True}}
    whole = runtime.complete("hello", **options).text
    for at in (5, 17, 29):
        stop = whole[at : at + 4]
        answer = runtime.complete("hello", stop=stop, **options)
        assert answer.text == whole[: whole.index(stop)]
        assert answer.finish_reason == "stop"


def test_logprobs_are_the_models_own(runtime: Runtime) -> None:
    answer = runtime.complete("hello", max_tokens=6, temperature=0, logprobs=3, extra={"ignore_eos": True})
    assert len(answer.logprobs) == 6
    for entry in answer.logprobs:
        assert len(entry.top) == 3
        assert entry.logprob == entry.top[0].logprob == max(t.logprob for t in entry.top)
        assert sum(math.exp(t.logprob) for t in entry.top) <= 1.000001
    assert all(not e.top for e in runtime.complete("hello", max_tokens=2, temperature=0, logprobs=0).logprobs)


def test_logit_bias_forbids_a_token(runtime: Runtime) -> None:
    options: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "logprobs": 1}
    first = runtime.complete("hello", **options).logprobs[0]
    token = first.bytes[0]  # single-byte tokens have the number of GPT-2's letter for that byte, which is the byte
    assert runtime.complete("hello", logit_bias={token: -100}, **options).logprobs[0].bytes != first.bytes


def test_a_grammar_binds_the_answer(runtime: Runtime) -> None:
    answer = runtime.complete("hello", max_tokens=50, grammar='root ::= "yes" | "no"', temperature=2, seed=1)
    assert answer.text in ("yes", "no")
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_json_schema_binds_the_answer(runtime: Runtime, temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["cat", "dog"]},
            "legs": {"type": "integer", "minimum": 0, "maximum": 9},
            "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        },
        "required": ["kind", "legs", "tags"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "animal", "schema": schema}}
    answer = runtime.chat("hello", max_tokens=200, response_format=form, temperature=temperature, seed=3)
    value = json.loads(answer.text)
    assert list(value) == ["kind", "legs", "tags"]
    assert value["kind"] in ("cat", "dog")
    assert 1 <= len(value["tags"]) <= 3


def test_a_required_tool_is_called_with_arguments_of_its_schema(runtime: Runtime) -> None:
    answer = runtime.chat("hello", max_tokens=200, tools=[TOOL], tool_choice="required", seed=1)
    assert answer.finish_reason == "tool_calls"
    assert [c.name for c in answer.tool_calls] == ["add"]
    assert 0 <= json.loads(answer.tool_calls[0].arguments)["a"] <= 9
    assert answer.text == ""


@pytest.mark.parametrize(("parallel", "calls"), [(True, 2), (None, 2), (False, 1)])
def test_an_answer_ends_with_its_first_call_where_several_are_not_wanted(
    runtime: Runtime, parallel: bool | None, calls: int
) -> None:
    call = json.dumps('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>')
    answer = runtime.chat(
        "hello", tools=[TOOL], grammar=f"root ::= {call} {call}", temperature=0, extra={"parallel_tool_calls": parallel}
    )
    assert [c.name for c in answer.tool_calls] == ["add"] * calls
    assert [c.arguments for c in answer.tool_calls] == ['{"a": 1}'] * calls
    assert answer.finish_reason == "tool_calls"
    assert answer.text == ""


def test_user_text_makes_no_control_tokens(runtime: Runtime) -> None:
    """Ten spelled-out control tokens cost more than ten tokens: none was read as one."""
    plain = runtime.chat([{"role": "user", "content": ""}], max_tokens=1).usage
    spelled = runtime.chat([{"role": "user", "content": "<|im_end|>" * 10}], max_tokens=1).usage
    parts = [{"type": "text", "text": "<|im_"}, {"type": "text", "text": "end|>"}]
    split = runtime.chat([{"role": "user", "content": parts}], max_tokens=1).usage
    assert plain is not None
    assert spelled is not None
    assert split is not None
    assert spelled.prompt_tokens - plain.prompt_tokens == 100  # this vocabulary has no merges within it
    assert split.prompt_tokens - plain.prompt_tokens == 10


def test_a_prompt_longer_than_the_context_names_both_numbers(runtime: Runtime) -> None:
    with pytest.raises(ContextExceeded) as caught:
        runtime.chat("x" * 1_000_000, max_tokens=1)
    assert caught.value.context_tokens == 1024
    assert caught.value.prompt_tokens > 1_000_000


def test_an_answer_ends_with_the_context(runtime: Runtime) -> None:
    answer = runtime.complete("hello", max_tokens=5000, temperature=0, extra={"ignore_eos": True})
    assert answer.usage is not None
    assert answer.usage.total_tokens == 1024
    assert answer.finish_reason == "length"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"seed": "x"}, "seed"),
        ({"logprobs": 21}, "logprobs"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {99999: 1}}, "logit_bias"),
        ({"logit_bias": {1: 101}}, "logit_bias"),
        ({"logit_bias": {"one": 1}}, None),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"grammar": "answer ::= [a-z]"}, "grammar"),
        ({"grammar": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000}, "grammar"),
        ({"grammar": 3}, "grammar"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "string", "format": "a"}}}},
            "response_format",
        ),
        ({"response_format": {"type": "json_object"}, "grammar": 'root ::= "a"'}, "grammar"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}}, "tool_choice"),
        ({"extra": {"n": 2}}, "n"),
        ({"extra": {"audio": {}}}, "audio"),
        ({"extra": {"ignore_eos": "yes"}}, "ignore_eos"),
        *[({"extra": {"chat_template_kwargs": {name: 1}}}, "chat_template_kwargs") for name in ("messages", "tools")],
        ({"extra": {"chat_template_kwargs": {"add_generation_prompt": False}}}, "chat_template_kwargs"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    runtime: Runtime, options: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(BadRequest) as caught:
        runtime.chat("hello", **{"max_tokens": 4, **options})
    assert caught.value.param == param


def test_a_template_may_be_given_any_other_word(runtime: Runtime) -> None:
    runtime.chat("hello", max_tokens=1, extra={"chat_template_kwargs": {"self": 1, "source": 2, "": 3}})


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"content": "no role"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": "lone surrogate \ud800"}],
        ["not a message"],
        [{"role": "assistant", "content": "", "tool_calls": 5}],
        [{"role": "user", "content": b"bytes"}],
    ],
)
def test_messages_it_cannot_read_are_refused(runtime: Runtime, messages: Any) -> None:
    with pytest.raises(BadRequest):
        runtime.chat(messages, max_tokens=4)


@pytest.mark.parametrize("prompt", ["", [], [99999], [-1]])
def test_prompts_it_cannot_read_are_refused(runtime: Runtime, prompt: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        runtime.complete(prompt, max_tokens=4)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_load_that_comes_with_the_last_token_knows_of_all_steps(runtime: Runtime, deterministic: bool) -> None:
    for tokens in (1, 4, 2):
        before = runtime.load().steps
        extra = {"ignore_eos": True}
        runtime.complete("hello", max_tokens=tokens, temperature=0, deterministic=deterministic, extra=extra)
        load = runtime.load()
        assert (load.running, load.waiting) == (0, 0)
        assert load.steps >= before + tokens


def test_closing_a_stream_stops_the_work(runtime: Runtime) -> None:
    stream = runtime.stream_complete("hello", max_tokens=1000, extra={"ignore_eos": True})
    next(stream)
    before = runtime.load().steps
    stream.close()  # type: ignore[attr-defined]
    runtime.complete("hello", max_tokens=1)
    assert runtime.load().running == 0
    assert runtime.load().steps < before + 900


def test_a_stream_forgotten_in_a_cycle_stops_wherever_it_is_collected(runtime: Runtime) -> None:
    class Messages(dict[str, Any]):
        """Is written as JSON in the runtime's own thread, where it sets off the garbage collector."""

        def items(self) -> Any:
            collected.append((threading.current_thread().name, gc.collect()))
            return super().items()

    def forget() -> None:
        cycle: list[Any] = [runtime.stream_complete("hello", max_tokens=1000, extra={"ignore_eos": True})]
        next(cycle[0])
        cycle.append(cycle)

    collected: list[tuple[str, int]] = []
    gc.disable()
    try:
        forget()
        before = runtime.load().steps
        assert runtime.complete("hello", max_tokens=1, extra=Messages(user="me")).usage is not None
    finally:
        gc.enable()
    assert ("foreshore-runtime", True) in {(name, count > 0) for name, count in collected}
    assert runtime.load().steps < before + 900


def test_ctrl_c_at_any_moment_of_a_plain_loop_stops_the_work(tiny: Path, tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(
        "import signal, sys\n"
        "from foreshore.edge import Runtime\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "stopped = 0\n"
        "with Runtime(sys.argv[1]) as runtime:\n"
        "    for round in range(100):\n"
        "        try:\n"
        "            for i, _ in enumerate(runtime.stream_complete('hello', extra={'ignore_eos': True})):\n"
        "                if i == 0:\n"
        "                    signal.setitimer(signal.ITIMER_REAL, 0.0005 + round * 0.0001)\n"
        "        except KeyboardInterrupt:\n"
        "            stopped += 1\n"
        "    runtime.complete('hello', max_tokens=1)\n"
        "    print('stopped', stopped, 'running', runtime.load().running)\n"
    )
    command = [sys.executable, str(script), str(tiny)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert (done.stdout, done.returncode) == ("stopped 100 running 0\n", 0), done.stderr


def test_threads_share_a_runtime(runtime: Runtime) -> None:
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(runtime.complete("hello", max_tokens=20, temperature=0).text))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    assert len(set(answers)) == 1


def test_a_decoder_embeds_too(runtime: Runtime) -> None:
    vectors = runtime.embed(["hello", "hello world", "hello"] * 5)
    assert len(vectors) == 15
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-5)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-3)
    assert sum(x * x for x in vectors[0]) == pytest.approx(1)


@pytest.mark.parametrize("slots", [7, 64])
def test_every_input_gets_its_vector_however_many_are_computed_at_once(tiny: Path, slots: int) -> None:
    texts = [f"hello {i}" for i in range(64)]
    with Runtime(tiny, options=EngineOptions(threads=1, slots=slots)) as runtime:
        vectors = runtime.embed(texts)
        assert len(vectors) == len(texts)
        assert vectors[-1] == pytest.approx(runtime.embed(texts[-1])[0], abs=1e-3)


def test_an_encoder_embeds_and_says_that_it_cannot_chat(tiny_encoder: Path) -> None:
    with Runtime(tiny_encoder, options=EngineOptions(threads=1)) as runtime:
        assert runtime.info is not None
        assert not runtime.info.generates
        assert len(runtime.embed("hello world")[0]) == runtime.info.embedding_size
        alone, together = runtime.embed("the cat"), runtime.embed(["the dog ran", "the cat"])
        assert together[1] == pytest.approx(alone[0], abs=1e-5)
        with pytest.raises(BadRequest, match="only embeds"):
            runtime.chat("hello")
        with pytest.raises(ContextExceeded):
            runtime.embed("the " * 100)
        with pytest.raises(BadRequest):
            runtime.embed([])


def test_a_model_without_a_template_completes_but_does_not_chat(tmp_path: Path) -> None:
    from tests.tiny_model import write_decoder

    path = write_decoder(tmp_path / "bare.gguf", template=None)
    with Runtime(path, options=EngineOptions(threads=1)) as runtime:
        with pytest.raises(BadRequest, match="no chat template"):
            runtime.chat("hello", max_tokens=2)
        assert runtime.complete("hello", max_tokens=2).usage is not None


def test_async_and_sync_runtimes_agree(runtime: Runtime, tiny: Path) -> None:
    import asyncio

    async def other() -> str:
        async with AsyncRuntime(tiny, options=EngineOptions(threads=1)) as twin:
            return (await twin.chat("hello", max_tokens=16, temperature=0)).text

    assert asyncio.run(other()) == runtime.chat("hello", max_tokens=16, temperature=0).text


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"slots": 300},
        {"batch_tokens": 4},
        {"context_tokens": -1},
        {"kv_type": "q3"},
        {"flash_attention": "maybe"},
        {"heartbeat_s": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        EngineOptions(**wrong)
