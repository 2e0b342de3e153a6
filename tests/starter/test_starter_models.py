"""The shipped folders are whole, and their template says what training said."""

from __future__ import annotations

import json

import pytest

from foreshore.edge.template import ChatTemplate
from foreshore.errors import NotFound
from foreshore.starter import NAMES, chat, folder
from foreshore.starter.tasks import HELD_OUT, TASKS, difficulty, example, levels

KINDS = [(task, level) for task in TASKS for level in levels(task)]


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_a_whole_hugging_face_model(name: str) -> None:
    files = {path.name for path in folder(name).iterdir()}
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert wanted | {"chat_template.jinja", "README.md", "training.jsonl", "evaluation.json"} <= files


def test_an_unknown_starter_is_refused() -> None:
    with pytest.raises(NotFound, match="starter-xl"):
        folder("starter-xl")


def _share(name: str, kind: str) -> float:
    tasks = json.loads((folder(name) / "evaluation.json").read_text())["tasks"]
    found: list[dict[str, int]] = [tasks[f"{t}-{n}"] for t, n in KINDS if difficulty(t, n) == kind]
    return sum(one["correct"] for one in found) / sum(one["count"] for one in found)


def test_the_cards_say_what_routing_needs() -> None:
    """The measured claim that makes routing worth while; test_engine_accuracy.py measures a sample again."""
    assert _share("starter-s", "easy") >= 0.9
    assert _share("starter-l", "hard") >= _share("starter-s", "hard") + 0.25


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("task", "level"), KINDS)
def test_the_template_renders_what_the_model_was_trained_on(name: str, task: str, level: int) -> None:
    template = ChatTemplate((folder(name) / "chat_template.jinja").read_text(), tokens={}, control=None)
    wanted = example(task, level, HELD_OUT)
    rendered = "".join(segment.text for segment in template.render(wanted.messages, tools=wanted.tools))
    assert rendered == chat.prompt(wanted.messages, wanted.tools)
