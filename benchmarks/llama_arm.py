"""The llama.cpp side of `generate.py`, run by an interpreter that has llama-cpp-python: answers prompts one by one.

    python llama_arm.py MODEL.gguf THREADS

The model is the merged one: `afina` or peft merges the LoRA, and llama.cpp's convert_hf_to_gguf.py writes it with
`--outtype bf16`. Each prompt is answered alone, greedily, as llama-cpp-python's users do.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from llama_cpp import Llama


def answer(model: Any, prompt: list[int], new: int) -> list[int]:
    """The new tokens, the end token included."""
    found: list[int] = []
    model.reset()
    for token in model.generate(prompt, temp=0.0, reset=True, repeat_penalty=1.0):
        found.append(int(token))
        if token == model.token_eos() or len(found) == new:
            return found
    return found


def main() -> None:
    """Serve."""
    path, threads = sys.argv[1], int(sys.argv[2])
    model = Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
    answer(model, [1, 2, 3], 4)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        start = time.perf_counter()
        tokens = [answer(model, prompt, asked["new"]) for prompt in asked["prompts"]]
        print(json.dumps({"seconds": time.perf_counter() - start, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main()
