"""Read the weights of an encoder from an ONNX file of transformers that onnxruntime's quantiser wrote.

The file holds the weight of each linear layer as int8 [inputs, outputs] with one scale for each output, the embeddings
as uint8 with one scale, and everything else as float32 under the names of transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def encoder_weights(path: Path) -> dict[str, Tensor]:
    """Return the float32 weights by their names in transformers; a quantised weight is (integer - zero point) * scale.

    Raises ValueError if the file has a quantised weight that no node names.
    """
    import onnx  # takes a fifth of a second, and a model is converted once

    graph = onnx.load(path).graph
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    weights, used = {}, set()
    for node in graph.node:
        if node.op_type == "MatMulInteger":  # /encoder/layer.0/output/dense/MatMul_quant: the path of the layer
            layer, quantised = node.name.strip("/").rpartition("/")[0].replace("/", "."), node.input[1]
            stem = quantised.removesuffix("_quantized")
            weights[f"{layer}.weight"] = _dequantised(stored, stem).T
        elif node.op_type == "DequantizeLinear":
            stem = node.input[1].removesuffix("_scale")
            weights[stem] = _dequantised(stored, stem)
        else:
            continue
        used.add(f"{stem}_quantized")
    if unused := sorted(name for name in stored if name.endswith("_quantized") and name not in used):
        raise ValueError(f"{path}: no node names the layer of {', '.join(unused)}")
    parts = ("_quantized", "_scale", "_zero_point")
    weights |= {name: value for name, value in stored.items() if not name.endswith(parts)}
    return {name: torch.from_numpy(np.array(value, np.float32, order="C")) for name, value in weights.items()}


def _dequantised(stored: dict[str, Any], stem: str) -> np.ndarray:
    whole = stored[f"{stem}_quantized"].astype(np.float32) - stored[f"{stem}_zero_point"].astype(np.float32)
    made: np.ndarray = whole * stored[f"{stem}_scale"]
    return made
