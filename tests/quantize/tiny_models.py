"""Tiny random models of each family, in Hugging Face layout, for the conversion tests."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog. 1234567890 times, they'll say!",
    "def f(x):\n    return {'a': [x**2, None]}  # comment\n\n\n",
    "Привет, мир! こんにちは世界 你好 안녕하세요 مرحبا नमस्ते",
    "naïve café ÅÉÎØÜ ﬁ ½ ² Ⅷ ٣٤٥ 😀👩‍👩‍👧‍👦🇩🇪",
    "tabs\tand  many   spaces    at the end     ",
    "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb ababab \r\n \r\n\r\n x",
    "https://example.org/?q=1&r=%20#frag user@example.org $1,000.00 3.14e-10",
] * 4

# What a tokenizer meets in the wild, and what is meant to trip it. All in NFC, as llama.cpp does not normalize.
HOSTILE = [
    "Hello, world!",
    "a",
    " ",
    "  leading",
    "trailing   ",
    "\n\n\n\t\t \n x\r\ny\r\n\r\n",
    "I'll can't WE'VE he'd it's 'S 'LL",
    "12345678901234567890 1 12 123 1234 3.14159 1,000,000",
    "def f(x: int) -> str:\n\treturn f'{x!r:>10}'  # ok\n",
    "naïve café Ünïcödé ß ẞ İstanbul",
    "Привет мир こんにちは世界 你好吗 안녕하세요 مرحبا بالعالم नमस्ते ไทย ខ្មែរ",
    "😀😃 👩‍👩‍👧‍👦 🇩🇪🏳️‍🌈 ✅ 🦙🦙",
    "½ ² ³ Ⅷ ٣٤٥ ①②③ ｆｕｌｌ ﬁ",
    "a\u00a0b\u2003c\u200bd\ufeffe\u2028f",
    "\x01\x02\x7f control \x1b[31m",
    "................----====____||||////\\\\\\\\",
    "((((()))))[[[]]]{{{}}}<<<>>>",
    "e\u0301 is not composed".encode().decode().replace("e\u0301", "é"),
    "x" * 300,
    "ab " * 200,
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "text<|im_end|>more<|endoftext|> end",
    "almost <|im_end| > and <|im_start and |>",
    "<tool>call</tool> <tool >",
    "https://example.org/a/b?c=d&e=f%20g#h user.name+tag@example.org",
]

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = _CONTRACTIONS + r"|\p{N}" + _REST
LLAMA3 = _CONTRACTIONS + r"|\p{N}{1,3}" + _REST

CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def byte_level(pre: str) -> Tokenizer:
    """A byte-level BPE tokenizer with the pre-tokenizer of `pre`."""
    byte_step = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("gpt-2", "smollm"))
    steps: dict[str, list[Any]] = {
        "gpt-2": [],
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "qwen2": [pre_tokenizers.Split(Regex(QWEN2), "isolated")],
        "llama-bpe": [pre_tokenizers.Split(Regex(LLAMA3), "isolated")],
    }
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps[pre], byte_step])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("</tool>", normalized=False)])
    if pre == "llama-bpe":
        begin = ("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", pair="<|endoftext|> $A $B", special_tokens=[begin]
        )
    return tokenizer


def sentence_piece() -> Tokenizer:
    """A byte-fallback BPE tokenizer as Llama 2's: every pair of tokens that makes a third is a merge."""
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner.train_from_iterator(
        CORPUS[:1] + CORPUS[4:5], trainers.BpeTrainer(vocab_size=300, show_progress=False, special_tokens=["<unk>"])
    )
    learned = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *(t for t, _ in learned if t != "<unk>")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece[:i], piece[i:])
        for piece in pieces[259:]
        for i in range(1, len(piece))
        if vocab.get(piece[:i], 0) >= 259 and vocab.get(piece[i:], 0) >= 259
    ]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = learner.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def pieces(path: Path, kind: str, **options: Any) -> Path:
    """Train a SentencePiece model of `kind` (bpe, unigram) on the corpus, and save it as `path`."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS[:7]),
        model_writer=file,
        model_type=kind,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())
    return path


def gemma_pieces(path: Path) -> Path:
    """As Gemma's: no space before the text, runs of lines and of spaces as tokens, digits one by one."""
    return pieces(
        path,
        "bpe",
        vocab_size=520,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=0.98,
        control_symbols=["<start_of_turn>", "<end_of_turn>"],
        user_defined_symbols=["\n" * n for n in range(1, 4)] + ["▁" * n for n in range(2, 9)] + ["<table>"],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
    )


def word_piece(lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=500, special_tokens=specials, show_progress=False)
    )
    ids = [(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, **config: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}


def decoder(
    folder: Path,
    family: str,
    *,
    dtype: torch.dtype = torch.float32,
    pre: str = "qwen2",
    shard: str = "1GB",
    **extra: Any,
) -> Path:
    """Save a random model of `family` (Llama, Qwen2, Gemma3, ...) with its tokenizer; returns `folder`."""
    tokenizer = byte_level(pre)
    end = tokenizer.token_to_id("<|im_end|>")
    settings = {**SIZES, "vocab_size": 640, "num_key_value_heads": 2, "eos_token_id": end, "bos_token_id": None}
    settings |= {"pad_token_id": None}
    kind = {"Gemma3": "Gemma3Text"}.get(family, family)
    config = getattr(transformers, f"{kind}Config")(**{**settings, **_rope_as_spoken_here(extra)})
    torch.manual_seed(1)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    stir(model)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    save_tokenizer(tokenizer, folder, eos_token="<|im_end|>", chat_template=CHAT)
    return folder


def stir(model: torch.nn.Module) -> None:
    """Move every weight, norms and biases too: their defaults would hide a mix-up."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def _rope_as_spoken_here(options: dict[str, Any]) -> dict[str, Any]:
    """transformers before 5 takes `rope_theta` and `rope_scaling` instead of `rope_parameters`, and ignores these."""
    if "rope_parameters" not in options or int(transformers.__version__.partition(".")[0]) >= 5:
        return options
    rope = dict(options["rope_parameters"])
    rest = {name: value for name, value in options.items() if name != "rope_parameters"}
    return {**rest, "rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}


def bert(folder: Path, *, lowercase: bool = True) -> Path:
    tokenizer = word_piece(lowercase)
    config = transformers.BertConfig(**SIZES, vocab_size=tokenizer.get_vocab_size())
    torch.manual_seed(2)
    model = transformers.BertModel(config, add_pooling_layer=True)
    stir(model)
    model.save_pretrained(folder)
    names = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}
    save_tokenizer(tokenizer, folder, **names)
    mean_pooling(folder)
    return folder


def roberta(folder: Path) -> Path:
    """Byte-level BPE, positions counted from the padding token's id on, one token type."""
    tokenizer = byte_level("gpt-2")
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>", "<mask>"])
    ends = [(text, tokenizer.token_to_id(text)) for text in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    config = transformers.RobertaConfig(
        **SIZES, vocab_size=640, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5, bos_token_id=0, eos_token_id=2
    )
    torch.manual_seed(3)
    model = transformers.RobertaModel(config)
    stir(model)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>")
    mean_pooling(folder)
    return folder


def xlm_roberta(folder: Path) -> Path:
    """SentencePiece's Unigram with its compiled normalization."""
    file = pieces(folder / "sentencepiece.bpe.model", "unigram", vocab_size=260, normalization_rule_name="nmt_nfkc")
    tokenizer = transformers.XLMRobertaTokenizerFast(vocab_file=str(file))
    config = transformers.XLMRobertaConfig(
        **SIZES, vocab_size=len(tokenizer), type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5
    )
    torch.manual_seed(4)
    model = transformers.XLMRobertaModel(config)
    stir(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mean_pooling(folder)
    return folder


def distil_bert(folder: Path) -> Path:
    tokenizer = word_piece(lowercase=True)
    config = transformers.DistilBertConfig(
        dim=64, hidden_dim=96, n_layers=2, n_heads=4, max_position_embeddings=256, vocab_size=tokenizer.get_vocab_size()
    )
    torch.manual_seed(5)
    model = transformers.DistilBertModel(config)
    stir(model)
    model.save_pretrained(folder)
    names = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}
    save_tokenizer(tokenizer, folder, **names)
    mean_pooling(folder)
    return folder


def mean_pooling(folder: Path) -> None:
    pooling = folder / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}))
