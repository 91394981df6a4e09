"""The packaged encoder `bge`: the weights of its int8 file are read bit for bit, and other libraries answer as it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from afina import assets
from afina.models.backbone import Backbone
from afina.models.weights.quantised_onnx import encoder_weights

TEXTS = (
    "A warm, honest film.",
    "Dull from start to end.",
    "My card was stolen in Spain last week, so please block the card and send a new one to the hotel.",
    "Rain?",
)


def _written(folder: Path, *, unnamed: bool = False) -> tuple[Path, dict[str, np.ndarray]]:
    """An ONNX file with an embedding, a linear layer and a norm, and the weights that it stands for."""
    rng = np.random.Generator(np.random.PCG64(0))
    rows = rng.integers(0, 255, (7, 4), dtype=np.uint8)
    weight, scales = rng.integers(-127, 127, (4, 3), dtype=np.int8), rng.random(3, dtype=np.float32)
    zeros = np.array([0, -2, 5], np.int8)
    norm = rng.random(4, dtype=np.float32)
    stored = {
        "embeddings.word_embeddings.weight_quantized": rows,
        "embeddings.word_embeddings.weight_scale": np.array(0.03, np.float32),
        "embeddings.word_embeddings.weight_zero_point": np.array(120, np.uint8),
        "onnx::MatMul_7_quantized": weight,
        "onnx::MatMul_7_scale": scales,
        "onnx::MatMul_7_zero_point": zeros,
        "encoder.layer.0.output.LayerNorm.weight": norm,
    }
    nodes = [
        helper.make_node(
            "DequantizeLinear",
            ["gathered", *(f"embeddings.word_embeddings.weight_{part}" for part in ("scale", "zero_point"))],
            ["hidden"],
        ),
        helper.make_node(
            "MatMulInteger",
            ["bytes", "onnx::MatMul_7_quantized", "zero", "onnx::MatMul_7_zero_point"],
            ["product"],
            name="/encoder/layer.0/output/dense/MatMul_quant",
        ),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    output = helper.make_tensor_value_info("product", TensorProto.INT32, None)
    graph = helper.make_graph(nodes[:1] if unnamed else nodes, "encoder", [], [output], initializers)
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph), path)
    expected = {
        "embeddings.word_embeddings.weight": (rows.astype(np.float32) - np.float32(120)) * np.float32(0.03),
        "encoder.layer.0.output.dense.weight": ((weight.astype(np.float32) - zeros) * scales).T,
        "encoder.layer.0.output.LayerNorm.weight": norm,
    }
    return path, expected


def test_weights_are_dequantised_under_their_names_in_transformers(tmp_path: Path) -> None:
    path, expected = _written(tmp_path)
    weights = encoder_weights(path)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(weights[name].numpy(), value), name


def test_a_weight_of_an_unknown_layer_is_not_left_out(tmp_path: Path) -> None:
    path, _ = _written(tmp_path, unnamed=True)
    with pytest.raises(ValueError, match="MatMul_7_quantized"):
        encoder_weights(path)


@pytest.mark.slow
def test_sentences_of_bge_are_those_of_onnxruntime() -> None:
    import onnxruntime
    from transformers import AutoModel

    backbone = Backbone.load("bge")
    model, loaded = AutoModel.from_pretrained(backbone.path, output_loading_info=True)
    assert not loaded["missing_keys"]
    assert not loaded["unexpected_keys"]
    assert torch.equal(model.pooler.dense.weight, torch.eye(384)), "the first token reaches the head as it is"
    session = onnxruntime.InferenceSession(assets.fetch("bge") / "model.onnx")
    # The file quantises the inputs of each layer at run time, in one range for the whole batch: one text at a time.
    for text in TEXTS:
        tokens = backbone.tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            (ours,) = model.eval()(**tokens).last_hidden_state[:, 0].numpy()
        (theirs,) = session.run(None, {name: value.numpy() for name, value in tokens.items()})[0][:, 0]
        cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert cosine >= 0.99, (text, cosine)  # measured: 0.9966 to 0.9985; the rounded inputs explain the rest
