"""Tiny tokenizers of each kind, trained on a few lines, and the texts that are meant to trip them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
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
    "हिन्दी में लिखा हुआ पाठ ภาษาไทยง่าย مَرْحَبًا שָׁלוֹם",
    "ПриветМир ΚαλημέραΚόσμε ÜberGröße iPhone camelCaseXMLHttp",
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

MARKS = [text for text in HOSTILE if "नमस्ते" in text or "مَ" in text]  # letters with marks of their own
# Without words of over 100 letters, which BERT gives up on, Hangul, which llama.cpp does not decompose, and vowel signs
# that take space, which it drops with the other marks.
_ODD = re.compile("안녕하세요|हिन्दी में लिखा हुआ पाठ")
WORDS = [_ODD.sub("", text) for text in HOSTILE if len(max(text.split() or [""], key=len)) <= 100]
# Control tokens in the middle of text, those of each kind of tokenizer.
CONTROLS = {
    "llama": ["<s>a b</s>  c", "</s><s>", "<unk> x"],
    "phi3": ["<|user|>\nhi there<|end|>\n<|user|>  \n x", "<s> a</s>  b", "a <|endoftext|> b", "plain  text"],
    "gemma": [
        "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
        "<start_of_turn>",
        "<eos>a",
        "<table> </table>",
    ],
    "bert": ["a [MASK] b", "[CLS] x [SEP][SEP] y", "[UNK]"],
    "modern-bert": ["a [MASK] b", "[CLS] x [SEP][SEP] y"],
    "roberta": ["<s>a</s></s> b", "a <mask> b <pad>"],
    "xlm-roberta": ["<s>a</s></s> b", "a <mask> b <pad>"],
}

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(end: str, digits: str) -> str:
    """Words cut where a capital follows a small letter, with `end` behind them."""
    words = rf"{_WORD}{_UPPER}*{_LOWER}+{end}|{_WORD}{_UPPER}+{_LOWER}*{end}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_SPACES}"


def _uncased(digits: str) -> str:
    return rf"{_CONTRACTIONS}|{_WORD}\p{{L}}+|{digits}{_SIGNS}{_SPACES}"


# What models cut the text by, one expression after the other; GPT-2's own is ByteLevel's.
_CUTS: Mapping[str, tuple[str, ...]] = {
    "gpt-2": (),
    "smollm": (),
    "qwen2": (_uncased(r"\p{N}"),),
    "qwen35": (rf"{_CONTRACTIONS}|{_WORD}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*{_SPACES}",),
    "llama-bpe": (_uncased(r"\p{N}{1,3}"),),
    "smaug-bpe": (_uncased(r"\p{N}{1,3}"),),
    "minicpm5": (r"\p{N}{1,3}", _uncased(r"\p{N}+")),
    "tekken": (_cased("", r"\p{N}"),),
    "gpt-4o": (_cased(rf"{_CONTRACTIONS}?", r"\p{N}{1,3}"),),
}
BYTE_LEVEL = tuple(_CUTS)
_WHOLE_WORDS = ("llama-bpe", "minicpm5", "tekken")  # a word that is a token skips the merges

CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def byte_level(pre: str) -> Tokenizer:
    """A byte-level BPE tokenizer with the pre-tokenizer that llama.cpp calls `pre`."""
    steps: list[Any] = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in _CUTS[pre]]
    if pre == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True)]
    byte_step = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not _CUTS[pre])
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre in _WHOLE_WORDS))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_step])
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


Writer = Callable[[Path], int]


def _byte_level(pre: str) -> Writer:
    def write(folder: Path) -> int:
        tokenizer = byte_level(pre)
        save_tokenizer(tokenizer, folder, eos_token="<|im_end|>", chat_template=CHAT)
        return int(tokenizer.token_to_id("<|im_end|>"))

    return write


def _llama(folder: Path) -> int:
    save_tokenizer(sentence_piece(), folder, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return 2


def _phi3(folder: Path) -> int:
    """Llama's, with tokens that swallow the white space behind them."""
    tokenizer = sentence_piece()
    tokenizer.add_special_tokens(
        [
            AddedToken("</s>", rstrip=True, normalized=False),
            AddedToken("<|endoftext|>", normalized=False),
            AddedToken("<|user|>", rstrip=True, normalized=False),
            AddedToken("<|end|>", rstrip=True, normalized=False),
        ]
    )
    value = json.loads(tokenizer.to_str())
    for token in value["added_tokens"]:
        token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    save_tokenizer(tokenizer, folder, bos_token="<s>", eos_token="<|endoftext|>", unk_token="<unk>")
    (folder / "tokenizer.json").write_text(json.dumps(value))
    return int(tokenizer.token_to_id("<|endoftext|>"))


def _gemma(folder: Path) -> int:
    """What transformers' own converter makes of a SentencePiece model."""
    file = gemma_pieces(folder / "tokenizer.model")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    transformers.GemmaTokenizerFast(vocab_file=str(file), **names, add_bos_token=True).save_pretrained(folder)
    return 1


# What writes a tokenizer into a folder, and returns the id of its end-of-text token.
TOKENIZERS: Mapping[str, Writer] = {
    **{pre: _byte_level(pre) for pre in BYTE_LEVEL},
    "llama": _llama,
    "phi3": _phi3,
    "gemma": _gemma,
}
