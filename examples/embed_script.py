"""Embed a model in a script: load, ask, stream, stop.

    python examples/embed_script.py MODEL [QUESTION]

MODEL is a variant in the store (`foreshore models list`) or a .gguf file.
"""

from __future__ import annotations

import sys

from foreshore.edge import Runtime


def main(model: str, question: str = "What is 2 + 3?") -> None:
    with Runtime(model) as runtime:
        answer = runtime.chat(question, max_tokens=64, temperature=0)
        print(answer.text)
        if answer.timings is not None:
            print(f"{answer.timings.decode_tokens_per_s:.0f} tokens/s, TTFT {answer.timings.ttft_s * 1000:.0f} ms")

        for chunk in runtime.stream_chat([{"role": "user", "content": question}], max_tokens=64):
            print(chunk.text, end="", flush=True)
        print()


if __name__ == "__main__":
    main(*sys.argv[1:3])
