"""The ONNX Runtime side of `predict.py`, run by an interpreter that has optimum-onnx: predicts the texts in each line.

    python onnx_arm.py MODEL fp32|int8 BATCH_SIZE LONGEST

The model is exported as in optimum's documentation. For int8, its products are quantised dynamically for this
processor. A batch is padded to its longest text.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from transformers import AutoTokenizer


def opened(source: str, kind: str, scratch: Path) -> Any:
    """The model in ONNX Runtime."""
    model = ORTModelForSequenceClassification.from_pretrained(source, export=True)
    if kind == "fp32":
        return model
    model.save_pretrained(scratch / "fp32")
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    settings = AutoQuantizationConfig.avx512_vnni if "avx512_vnni" in flags else AutoQuantizationConfig.avx2
    quantiser = ORTQuantizer.from_pretrained(scratch / "fp32")
    quantiser.quantize(save_dir=scratch / "int8", quantization_config=settings(is_static=False, per_channel=False))
    return ORTModelForSequenceClassification.from_pretrained(scratch / "int8", file_name="model_quantized.onnx")


def labels(model: Any, tokenizer: Any, texts: Sequence[str], sort: bool, size: int, longest: int) -> list[int]:
    """Tokenise, perhaps sort, pad each batch, take the best label."""
    encodings = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: len(encodings[i])) if sort else list(range(len(texts)))
    found = [0] * len(texts)
    for start in range(0, len(order), size):
        part = order[start : start + size]
        inputs = tokenizer.pad({"input_ids": [encodings[i] for i in part]}, return_tensors="pt")
        for index, label in zip(part, model(**inputs).logits.argmax(-1).tolist(), strict=True):
            found[index] = label
    return found


def main() -> None:
    """Serve."""
    source, kind, size, longest = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    tokenizer = AutoTokenizer.from_pretrained(source)
    with tempfile.TemporaryDirectory() as scratch:
        model = opened(source, kind, Path(scratch))
        labels(model, tokenizer, ["Warms up."] * size, False, size, longest)
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            start = time.perf_counter()
            found = labels(model, tokenizer, asked["texts"], asked["sort"], size, longest)
            print(json.dumps({"seconds": time.perf_counter() - start, "labels": found}), flush=True)


if __name__ == "__main__":
    main()
