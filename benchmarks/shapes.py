"""Models of a known shape with random weights, and texts of invented words: what a machine without data measures.

A benchmark of speed and memory needs no trained weights. `backbone` writes a configuration and a tokenizer with a token
a word; afina draws the weights of `random:DIRECTORY` once and keeps them in its cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, PreTrainedTokenizerFast

LONGEST = 2048
SHAPES = {
    "tiny": {"width": 64, "blocks": 2, "heads": 4, "groups": 2, "inner": 128, "words": 500},
    "135m": {"width": 576, "blocks": 30, "heads": 9, "groups": 3, "inner": 1536, "words": 49152},
    "1.1b": {"width": 2048, "blocks": 22, "heads": 32, "groups": 4, "inner": 5632, "words": 32000},
}
"""LLaMA's architecture with the sizes of a test, of SmolLM2-135M and of TinyLlama."""

SPECIAL = ("[PAD]", "[END]")


def backbone(shape: str, root: Path) -> str:
    """The address of a backbone of that shape."""
    size = SHAPES[shape]
    words = {**{name: index for index, name in enumerate(SPECIAL)}}
    words |= {f"w{index}": index for index in range(len(SPECIAL), size["words"])}
    made = Tokenizer(WordLevel(words, unk_token=SPECIAL[0]))
    made.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=SPECIAL[0], eos_token=SPECIAL[1], model_max_length=LONGEST
    )
    config = LlamaConfig(
        vocab_size=size["words"],
        hidden_size=size["width"],
        num_hidden_layers=size["blocks"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["groups"],
        intermediate_size=size["inner"],
        max_position_embeddings=LONGEST,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    root.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(root)
    tokenizer.save_pretrained(root)
    return f"random:{root}"


def texts(shape: str, count: int, seed: int, *, most: int = 256) -> list[str]:
    """Texts of 4 to `most` words, 39 in the mean; as in most data, a few are much longer than the others."""
    random = np.random.default_rng(seed)
    lengths = np.clip(np.round(random.lognormal(3.4, 0.75, count)), 4, most).astype(int)
    return [words(shape, random.integers(len(SPECIAL), SHAPES[shape]["words"], length)) for length in lengths]


def words(shape: str, tokens: Sequence[int] | np.ndarray) -> str:
    """The text of these tokens."""
    return " ".join(f"w{token}" for token in tokens)
