"""Memory of opening a model that is larger than it is held: `python benchmarks/opening.py [--precision int8]`.

Draws a LLaMA of 1.1 billion parameters (TinyLlama's shape) into files of 200 MB, in a temporary directory. Then opens
the model in a process each: without a quantised copy, so that a copy is written, from the copy, and from the copy with
the weight files named as in the Hub's cache. Measures resident memory and seconds, in the first of these processes also
of ten steps of LoRA and a prediction.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from afina import meter

if TYPE_CHECKING:
    from afina import Backbone
    from afina.models.classifier import Classifier

SHAPE = {"layers": 22, "width": 2048, "inner": 5632, "heads": 32, "key_heads": 4, "vocabulary": 32000}
"""TinyLlama-1.1B's. Its output embedding is not tied to its input embedding."""

LABELS, STEPS, TEXTS = ("bad", "good"), 10, 16
MIB = 2**20

PLAIN, FIRST, SECOND = "without a copy", "first, writes a copy", "second, reads the copy"
HUB_FIRST, HUB_SECOND = "as in the Hub's cache, first", "as in the Hub's cache, second"
PARTS = (PLAIN, FIRST, SECOND, HUB_FIRST, HUB_SECOND)


def describe(directory: Path, layers: int) -> None:
    """Write a configuration and a tokenizer; the weights are drawn by `random:`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    LlamaConfig(
        vocab_size=SHAPE["vocabulary"],
        hidden_size=SHAPE["width"],
        intermediate_size=SHAPE["inner"],
        num_hidden_layers=layers,
        num_attention_heads=SHAPE["heads"],
        num_key_value_heads=SHAPE["key_heads"],
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        pad_token_id=2,
    ).save_pretrained(directory)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "good": 3, "bad": 4, "film": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(directory)


def draw(address: str) -> dict[str, float]:
    """Draw the weights, in this process."""
    from afina import Backbone

    began = meter.now()
    path = Backbone.load(address).path
    files = sorted(path.glob("*.safetensors"))
    return {
        "seconds": meter.now() - began,
        "files": len(files),
        "file bytes": sum(file.stat().st_size for file in files),
    }


def name_as_in_the_hub(directory: Path) -> None:
    """Replace weight files by links to files that are named by their sha256, and remove the copies."""
    from afina import assets, digest

    blobs = directory.parent / "blobs"
    blobs.mkdir()
    for file in sorted(directory.glob("*.safetensors")):
        blob = blobs / digest.of_file(file).removeprefix(digest.PREFIX)
        file.rename(blob)
        file.symlink_to(blob)
    shutil.rmtree(assets.cache_directory() / "quantised")


def open_once(address: str, precision: str, part: str) -> tuple[Backbone, Classifier, dict[str, float], int]:
    """Open the model in this process; bytes beyond those after imports, seconds, and the bytes after imports."""
    import torch

    from afina import Backbone
    from afina.models.classifier import Classifier
    from afina.models.weights import copies

    copies.LEAST = sys.maxsize if part == PLAIN else 0
    backbone = Backbone.load(address)
    if part == HUB_FIRST:
        name_as_in_the_hub(backbone.path)
    torch.ones(64, 64) @ torch.ones(64, 64)  # libraries for products are loaded
    meter.forget_peak()
    start, began, worked = meter.rss(), meter.now(), time.process_time()
    classifier = Classifier.open(backbone, LABELS, 0, precision=precision)
    found = {"opened": meter.rss() - start, "opening peak": (meter.rss_peak() or 0) - start}
    found |= {"opening seconds": meter.now() - began, "opening processor seconds": time.process_time() - worked}
    assert bool(backbone.copy_note) == (part in (FIRST, HUB_FIRST)), backbone.copy_note
    found |= {"parameters": classifier.parameter_count, "model bytes": classifier.size}
    meter.forget_peak()
    began, worked = meter.now(), time.process_time()
    backbone.digest_of(classifier.body)
    found |= {"digest seconds": meter.now() - began, "digest processor seconds": time.process_time() - worked}
    return backbone, classifier, found | {"digest peak": (meter.rss_peak() or 0) - start}, start


def measure(address: str, precision: str, dtype: str, part: str) -> dict[str, float]:
    """Open the model in this process, and train and predict if there is no copy."""
    import numpy as np
    import torch

    from afina import device as devices
    from afina.data.batch import Loader, pack
    from afina.data.tokenize import encode
    from afina.methods import make
    from afina.methods.attachment import attach
    from afina.models.objectives import Classes
    from afina.training.fit import Fit
    from afina.training.optimizer import Recipe

    backbone, classifier, found, start = open_once(address, precision, part)
    if part != PLAIN:
        return found
    method = make("lora").for_family(backbone.family)
    attach(classifier, method)
    texts = [" ".join((LABELS[at % 2], *["film"] * (at % 7 + 20))) for at in range(TEXTS)]
    encoded, labels = encode(backbone.tokenizer, texts, max_length=64), np.arange(TEXTS) % 2
    recipe = Recipe(steps=STEPS, learning_rate=1e-4, weight_decay=0.0, clip=1.0, seed=0)
    computed = devices.precision(dtype, torch.device("cpu"))
    meter.forget_peak()
    began = meter.now()
    fit = Fit(classifier, method, Classes(LABELS), Loader(encoded, labels, 4, 0), recipe, computed)
    fit.advance()
    losses = fit.account.losses
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()
    found |= {"training seconds": meter.now() - began, "training peak": (meter.rss_peak() or 0) - start}
    began = meter.now()
    classifier.eval()
    with torch.inference_mode():
        logits = classifier.outputs(pack([encoded[index] for index in range(4)]))
    assert np.isfinite(logits).all()
    return found | {"prediction seconds": meter.now() - began, "loss": losses[-1]}


def main() -> None:
    """Print a line for each figure and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--layers", type=int, default=SHAPE["layers"])
    parser.add_argument("--part", choices=["draw", *PARTS], help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part == "draw":
        print(json.dumps(draw(asked.address)))
        return
    if asked.part is not None:
        print(json.dumps(measure(asked.address, asked.precision, asked.dtype, asked.part)))
        return
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "shape"
        describe(directory, asked.layers)
        environment = os.environ | {"AFINA_CACHE": f"{folder}/cache"}
        found: dict[str, object] = {"precision": asked.precision, "dtype": asked.dtype, "layers": asked.layers}
        for part in ("draw", *PARTS):
            command = [sys.executable, __file__, "--part", part, "--address", f"random:{directory}"]
            command += ["--precision", asked.precision, "--dtype", asked.dtype]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            found[part] = figures = json.loads(done.stdout.splitlines()[-1])
            for name, value in figures.items():
                large = name == "opened" or name.endswith(("bytes", "peak"))
                print(f"{part}: {name}: {value / MIB:,.0f} MiB" if large else f"{part}: {name}: {value:,.6g}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
