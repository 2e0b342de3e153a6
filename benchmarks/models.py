"""The models that benchmarks run on: a 0.5B-shaped one with random weights, and the starters.

No weight decides speed, so a model of the right shape measures like a trained one. Each model's end tokens have a zero
row in its embedding, which it shares with the output: their logit is 0, below the best of all others, so that a greedy
answer always has the length that was asked for, on every server, with no request field to say so.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import gguf
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from rich.progress import Progress

from foreshore.cli.console import err
from foreshore.disk import disk_errors, require_space
from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.errors import NotFound
from foreshore.home import home
from foreshore.quantize import build
from foreshore.quantize.native import plan, quantize
from foreshore.store import Store

__all__ = ["NAMES", "QWEN_05B", "Shape", "digits", "model", "write"]

HALF_BILLION = "0.5b"
NAMES = (f"{HALF_BILLION}-q4_0", f"{HALF_BILLION}-q4_k_m", "starter-s-q4_k_m", "starter-l-q4_k_m")
CONTROL, NORMAL = 3, 1  # token types of GGUF
ENDS = ("<|endoftext|>", "<|im_end|>")
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = ("system", "user", "assistant")  # one token each, as in real vocabularies
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Qwen2 decoder with tied embeddings."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    vocab: int
    context: int


# Qwen2-0.5B's config.json.
QWEN_05B = Shape(layers=24, width=896, heads=14, kv_heads=2, inner=4864, vocab=151_936, context=32_768)


def model(name: str, cache: Path | None = None) -> Path:
    """The .gguf file of one of `NAMES`, made if it is not in `cache` (default: `$FORESHORE_HOME/benchmarks`)."""
    if name not in NAMES:
        raise NotFound(f"there is no benchmark model {name!r}", hint="there are " + ", ".join(NAMES))
    folder = (cache or home() / "benchmarks").expanduser().resolve()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.gguf"
    with FileLock(folder / f".{name}.lock"):
        if not target.exists():
            base, _, kind = name.rpartition("-")
            make = _random if base == HALF_BILLION else _starter
            with tempfile.TemporaryDirectory(dir=folder) as draft:
                make(Path(draft), base, kind).rename(target)
    return target


def digits(count: int, seed: int) -> str:
    """A prompt of `count` tokens: in all of these vocabularies each digit is one. Different from the first token on."""
    rng = np.random.default_rng(seed)
    return f"{seed % 1_000_000:06d}"[::-1][:count] + "".join(map(str, rng.integers(0, 10, max(0, count - 6))))


def write(path: Path, shape: Shape, *, seed: int = 0, tell: Callable[[int], None] = lambda done: None) -> Path:
    """An F16 model of `shape` with random weights. `tell` hears the bytes written since its last call."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "qwen2")
    tokens = _describe(writer, shape)
    tensors = _tensors(shape)
    for name, size in tensors.items():
        kind = np.float16 if len(size) == 2 else np.float32
        writer.add_tensor_info(name, size, np.dtype(kind), int(np.prod(size)) * np.dtype(kind).itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, size in tensors.items():
        values = _values(name, size, rng)
        if name == "token_embd.weight":
            values[_never(tokens)] = 0
        writer.write_tensor_data(values)
        tell(values.nbytes)
    writer.close()
    return path


def _values(name: str, size: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    if len(size) == 2:  # the usual scale: outputs as large as inputs
        values: NDArray[Any] = rng.standard_normal(size, dtype=np.float32) / np.sqrt(size[-1])
        return values.astype(np.float16)
    return np.full(size, 0.0 if name.endswith("bias") else 1.0, np.float32)


def _describe(writer: gguf.GGUFWriter, shape: Shape) -> list[str]:
    writer.add_name("benchmark")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    merges = [f"{word[:i]} {word[i]}" for word in WORDS for i in range(1, len(word))]
    tokens = _tokens(shape.vocab, merges)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in CONTROLS else NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    return tokens


def _tokens(count: int, merges: list[str]) -> list[str]:
    """Bytes, merged words, and as many made-up words of four letters as are missing, all of them plain ASCII."""
    made = list(dict.fromkeys(merge.replace(" ", "") for merge in merges))
    first = [*_byte_letters(), *made]
    words = ("Ġ" + "".join(letters) for letters in product(ascii_lowercase, repeat=4))
    return [*first, *islice(words, count - len(first) - len(CONTROLS)), *CONTROLS]


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte: itself where it prints, else the next free from 256."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(b) if b in shown else chr(next(spare)) for b in range(256)]


def _never(tokens: list[str]) -> list[int]:
    """What a greedy answer must not hold: ends, and bytes that are no character alone, whose text would wait."""
    return [*range(128, 256), *(tokens.index(token) for token in CONTROLS)]


def _tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    width, inner, kv = shape.width, shape.inner, shape.width // shape.heads * shape.kv_heads
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape.vocab, width), "output_norm.weight": (width,)}
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (width,),
        "attn_q.weight": (width, width),
        "attn_q.bias": (width,),
        "attn_k.weight": (kv, width),
        "attn_k.bias": (kv,),
        "attn_v.weight": (kv, width),
        "attn_v.bias": (kv,),
        "attn_output.weight": (width, width),
        "ffn_norm.weight": (width,),
        "ffn_gate.weight": (inner, width),
        "ffn_up.weight": (inner, width),
        "ffn_down.weight": (width, inner),
    }
    for i in range(shape.layers):
        found |= {f"blk.{i}.{name}": size for name, size in layer.items()}
    return found


def _random(draft: Path, base: str, kind: str) -> Path:
    total = 2 * sum(int(np.prod(size)) for size in _tensors(QWEN_05B).values())
    require_space(draft, 2 * total)
    with _progress(f"writing {base}", total) as told:
        source = inspect(write(draft / "f16.gguf", QWEN_05B, tell=told))
    planned = plan(source, kind)
    with _progress(f"quantizing {base} to {kind}", source.size) as told:
        last = 0

        def tell(done: int) -> None:
            nonlocal last
            told(done - last)
            last = done

        return quantize(source, draft / "model.gguf", kind, planned, progress=tell).path


def _starter(draft: Path, base: str, kind: str) -> Path:
    store = Store(draft / "store")
    source = store.path(build(base, types=[kind], store=store)[0])
    path = draft / "model.gguf"
    shutil.copyfile(source, path)
    _silence(path, inspect(path))
    return path


def _silence(path: Path, info: GgufInfo) -> None:
    """Zero the end tokens' rows: zero bytes are zero weights in every quantization type."""
    reader = gguf.GGUFReader(path)
    field = reader.get_field("tokenizer.ggml.tokens")
    tokens = [bytes(field.parts[i]).decode() for i in field.data]
    tied = not any(t.name == "output.weight" for t in info.tensors)
    (table,) = [t for t in info.tensors if t.name == ("token_embd.weight" if tied else "output.weight")]
    row = table.nbytes // table.shape[1]
    with path.open("r+b") as file:
        for token in (t for t in ENDS if t in tokens):
            file.seek(table.offset + row * tokens.index(token))
            file.write(bytes(row))


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.advance(task, done)
