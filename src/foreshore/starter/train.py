"""Train a starter model: `python -m foreshore.starter.train starter-s --out FOLDER`.

Needs the `convert` extra (torch, transformers). Runs on a GPU if torch sees one, else on the CPU in bfloat16 autocast.
Killed and started again with the same `--out`, it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from foreshore.starter import chat
from foreshore.starter.tasks import HELD_OUT, TASKS, Example, difficulty, example, levels

CONTEXT = 1024
VOCABULARY = 1024
# Qwen2's split: contractions, words with one leading space or sign, single digits, runs of signs, spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WIDTH_STEP = 16  # batches are as wide as a multiple of this: few shapes, so memory is used again
PROMPT_WEIGHT = 0.03  # of a prompt token's loss: the model should also know what requests look like


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that makes one starter. `weights` scales how often a difficulty, or one `task-level`, is drawn;
    from step `turn` on `late_weights` does, so that what takes longest to learn can come first."""

    layers: int
    reasons: bool
    steps: int
    weights: dict[str, float]
    turn: int | None = None
    late_weights: dict[str, float] = field(default_factory=dict)
    hidden: int = 256
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 768
    tokens_per_step: int = 8_192
    peak_rate: float = 1.5e-3
    warmup: int = 100
    seed: int = 20261121


RECIPES = {
    "starter-s": Recipe(
        layers=6,
        reasons=False,
        steps=1800,
        weights={"easy": 1.0, "medium": 1.0, "hard": 0.25, "compare-2": 1.0, "question-2": 1.0, "greeting-1": 0.3},
    ),
    "starter-l": Recipe(
        layers=8,
        reasons=True,
        steps=1600,
        weights={
            "easy": 0.7,
            "medium": 1.5,
            "hard": 4.0,
            "sum-4": 7.0,
            "sort-4": 6.0,
            "greeting-1": 0.3,
            "compare-1": 0.7,
            "compare-2": 1.5,
            "question-1": 0.7,
            "question-2": 1.5,
        },
        turn=800,
        late_weights={"easy": 1.5, "medium": 2.0, "hard": 1.5, "greeting-1": 0.5, "sort-3": 2.5, "sort-4": 3.0},
    ),
}


# --- data -------------------------------------------------------------------------------------------------------


def kinds(recipe: Recipe, step: int) -> tuple[list[tuple[str, int]], list[float]]:
    """Every `(task, level)` and how often to draw it at `step`."""
    now = recipe.weights if recipe.turn is None or step < recipe.turn else recipe.late_weights
    pairs = [(task, level) for task in TASKS for level in levels(task)]
    return pairs, [now.get(f"{t}-{n}", now[difficulty(t, n)]) for t, n in pairs]


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 1,024 tokens, digits split singly, learnt from training examples of every kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 3 - len(chat.ADDED_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    markers = [chat.PAD, chat.START, chat.END, *chat.ADDED_TOKENS]
    texts = []
    for task in TASKS:
        for level in levels(task):
            for n in range(200):
                found = example(task, level, seed + n)
                text = chat.prompt(found.messages, found.tools) + chat.target(found, reasons=True)
                for marker in markers:
                    text = text.replace(marker, "\n")
                texts.append(text)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in markers[:3]])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in chat.ADDED_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=chat.END,
        pad_token=chat.PAD,
        model_max_length=CONTEXT,
        chat_template=chat.TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: Tokenizer, examples: list[Example], reasons: bool) -> list[tuple[list[int], int]]:
    """`(token ids, length of the prompt)` of each example."""
    prompts = tokenizer.encode_batch([chat.prompt(e.messages, e.tools) for e in examples])
    targets = tokenizer.encode_batch([chat.target(e, reasons=reasons) for e in examples])
    return [(p.ids + t.ids, len(p.ids)) for p, t in zip(prompts, targets, strict=True)]


def collate(rows: list[tuple[list[int], int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids `(rows, width)`, padded right, and the weight of each token as something to predict."""
    width = -(-max(len(ids) for ids, _ in rows) // WIDTH_STEP) * WIDTH_STEP
    tokens = torch.full((len(rows), width), pad, dtype=torch.long)
    weights = torch.zeros((len(rows), width))
    for n, (ids, prompt_length) in enumerate(rows):
        tokens[n, : len(ids)] = torch.tensor(ids)
        weights[n, :prompt_length] = PROMPT_WEIGHT
        weights[n, prompt_length : len(ids)] = 1.0
    return tokens, weights


def batches(tokenizer: Tokenizer, recipe: Recipe, pad: int, first_step: int) -> Iterator[Any]:
    """Batches of about `tokens_per_step` tokens from `first_step` on; step n is the same whatever came before it."""
    pool_steps = 16
    step = first_step - first_step % pool_steps
    while True:
        rng = random.Random(f"{recipe.seed}/{step}")
        pairs, weights = kinds(recipe, step)
        rows: list[tuple[list[int], int]] = []
        needed = pool_steps * recipe.tokens_per_step
        while needed > 0:
            drawn = rng.choices(pairs, weights, k=256)
            made = encode(tokenizer, [example(t, n, rng.randrange(HELD_OUT)) for t, n in drawn], recipe.reasons)
            rows += made
            needed -= sum(len(ids) for ids, _ in made)
        rows.sort(key=lambda row: len(row[0]))  # alike lengths together: little padding
        cuts: list[list[tuple[list[int], int]]] = []
        pool: list[tuple[list[int], int]] = []
        size, goal = 0, sum(len(ids) for ids, _ in rows) / pool_steps
        for row in rows:
            pool.append(row)
            size += len(row[0])
            if size >= goal and len(cuts) < pool_steps - 1:
                cuts.append(pool)
                pool, size = [], 0
        cuts.append(pool)
        rng.shuffle(cuts)
        for cut in cuts:
            if step >= first_step:
                yield collate(cut, pad)
            step += 1


def ahead(source: Iterator[Any], depth: int = 8) -> Iterator[Any]:
    """`source`, made in a thread a few items ahead."""
    queue: Queue[Any] = Queue(depth)

    def fill() -> None:
        for item in source:
            queue.put(item)

    Thread(target=fill, daemon=True).start()
    while True:
        yield queue.get()


# --- training ---------------------------------------------------------------------------------------------------


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, device: str) -> Qwen2ForCausalLM:
    torch.manual_seed(recipe.seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # On CPU the flash kernel's backward does not use the matrix units: plain attention, compiled, is twice as fast.
    model = Qwen2ForCausalLM._from_config(config, attn_implementation="eager" if device == "cpu" else "sdpa")
    if device == "cpu":
        model.model.compile(dynamic=True)
    return model.to(device)


def new_optimizers(model: Qwen2ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, norms and biases."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=recipe.peak_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.peak_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True),
    ]


def rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    if step < recipe.warmup:
        return recipe.peak_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.peak_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def loss_of(model: Any, tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits.float()
    losses = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    scale = weights[:, 1:].flatten()
    return (losses * scale).sum() / scale.sum()


@torch.no_grad()  # type: ignore[untyped-decorator]
def solved(model: Any, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, device: str, count: int) -> dict[str, float]:
    """Share of held-out examples whose every target token is the likeliest: greedy decoding would write just that."""
    model.eval()
    shares = {}
    for task in TASKS:
        for level in levels(task):
            examples = [example(task, level, HELD_OUT + n) for n in range(count)]
            rows = encode(tokenizer.backend_tokenizer, examples, recipe.reasons)
            tokens, weights = collate(rows, tokenizer.pad_token_id)
            tokens, weights = tokens.to(device), weights.to(device)
            with torch.autocast(device, dtype=torch.bfloat16):
                best = model(input_ids=tokens[:, :-1], use_cache=False).logits.argmax(-1)
            right = (best == tokens[:, 1:]) | (weights[:, 1:] < 1)
            shares[f"{task}-{level}"] = right.all(1).float().mean().item()
    model.train()
    return shares


def means(shares: dict[str, float]) -> dict[str, float]:
    """Mean share by difficulty."""
    groups: dict[str, list[float]] = {}
    for task in TASKS:
        for level in levels(task):
            groups.setdefault(difficulty(task, level), []).append(shares[f"{task}-{level}"])
    return {name: sum(values) / len(values) for name, values in groups.items()}


def export(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the Hugging Face folder, weights as float16."""
    half = Qwen2ForCausalLM(model.config).to(torch.float16)
    half.load_state_dict({name: tensor.to(torch.float16) for name, tensor in model.state_dict().items()})
    half.generation_config.do_sample = False
    half.generation_config.eos_token_id = tokenizer.eos_token_id
    half.generation_config.pad_token_id = tokenizer.pad_token_id
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"  # the class name that every transformers release knows
    settings.write_text(
        json.dumps({**json.loads(settings.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n"
    )


def train(name: str, out: Path, steps: int | None = None, every: int = 250) -> None:
    recipe = RECIPES[name]
    total = steps or recipe.steps
    recipe = Recipe(**{**asdict(recipe), "steps": total})
    out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = train_tokenizer(recipe.seed)
    model = new_model(recipe, tokenizer, device)
    optimizers = new_optimizers(model, recipe)
    checkpoint = out / "checkpoint.pt"
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, spent = state["step"], state["spent"]
        print(f"going on from step {step}", file=sys.stderr)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{name}: {parameters:,} parameters, {total} steps on {device}", file=sys.stderr)
    log = (out / "training.jsonl").open("a")
    source = ahead(batches(tokenizer.backend_tokenizer, recipe, tokenizer.pad_token_id, step))
    began, running = time.monotonic() - spent, None
    while step < total:
        tokens, weights = (part.to(device) for part in next(source))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate(step, recipe)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_of(model, tokens, weights)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        now = loss.item()
        if not math.isfinite(now):
            raise SystemExit(f"the loss is {now} at step {step}: lower the recipe's peak_rate and train from the start")
        running = now if running is None else 0.98 * running + 0.02 * now
        spent = time.monotonic() - began
        if step % 10 == 0:
            left = (total - step) * spent / step
            print(
                f"\rstep {step}/{total}  loss {running:.4f}  {spent:.0f} s, {left:.0f} s to go ",
                end="",
                file=sys.stderr,
            )
        if step % every == 0 or step == total:
            shares = solved(model, tokenizer, recipe, device, 40)
            record = {
                "step": step,
                "seconds": round(spent),
                "loss": round(running, 4),
                **means(shares),
                "solved": shares,
            }
            log.write(json.dumps(record) + "\n")
            log.flush()
            print("\n" + json.dumps({**means(shares)}), file=sys.stderr)
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step,
                "spent": spent,
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            export(model, tokenizer, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, log and the finished model folder")
    parser.add_argument("--steps", type=int, help="fewer or more steps than the recipe's")
    parser.add_argument("--every", type=int, default=250, help="steps between evaluations and checkpoints")
    arguments = parser.parse_args()
    train(arguments.name, arguments.out, arguments.steps, arguments.every)


if __name__ == "__main__":
    main()
