"""Text in which certain words do not stand, unless what follows them is of a grammar's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foreshore.edge.grammar.gbnf import in_class

__all__ = ["free_rules"]


def free_rules(words: Sequence[str], special: str | None = None) -> Mapping[str, str]:
    """Rules, of which `free0` is the first: any text without `words`, and anywhere in it what `special` names.

    One rule for each beginning of a word that a text may end on, as Aho and Corasick search for several words.
    """
    beginnings = sorted({word[:n] for word in words for n in range(len(word))}, key=len)
    number = {text: n for n, text in enumerate(beginnings)}
    letters = sorted({letter for word in words for letter in word})
    others = f"[^{''.join(map(in_class, letters))}]"
    rules = {}
    for text in beginnings:
        parts = [f"{others} free0", *([f"{special} free0"] if special else [])]
        for letter in letters:
            read = text + letter
            if not any(word in read for word in words):
                ends = next(read[at:] for at in range(len(read) + 1) if read[at:] in number)
                parts.append(f"[{in_class(letter)}] free{number[ends]}")
        rules[f"free{number[text]}"] = f"({' | '.join(parts)})?"
    return rules
