"""The sentence-transformers side of `predict.py`, run by an interpreter that has it: embeds the texts in each line.

    python encode_arm.py MODEL HEAD LONGEST

`encode` sorts the texts by length and pads batches of 32. The head (weight and bias in an .npz file) gives the labels.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from sentence_transformers import SentenceTransformer


def main() -> None:
    """Serve."""
    source, head, longest = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3])
    model = SentenceTransformer(source, device="cpu")
    model.max_seq_length = longest
    model.encode(["Warms up."] * 32)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        texts = json.loads(line)["texts"]
        start = time.perf_counter()
        outputs = model.encode(texts, batch_size=32) @ head["weight"].T + head["bias"]
        labels = outputs.argmax(axis=1).tolist()
        print(json.dumps({"seconds": time.perf_counter() - start, "labels": labels}), flush=True)


if __name__ == "__main__":
    main()
