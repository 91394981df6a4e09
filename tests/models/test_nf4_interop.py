"""QLoRA: adapters on a backbone in 4-bit NormalFloat pass between afina and peft, with the same logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import HRAConfig, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

from afina import Adapter, AdapterStore, Backbone, Predictor, Run
from afina.errors import InvalidStudy, UnknownName
from afina.predicting.predictor import ModelPredictor
from afina.studies.runs.spec import UNASKED
from afina.training.settings import Training
from command import Command
from fakes import TEXTS, Backbones, Runs, configuration, logits_of, padded_logits, randomise, save
from raises import raises

pytestmark = [
    # peft finds no Conv1D among 4-bit layers, so its settings say false; here peft finds one.
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
    # peft asks transformers for a property that transformers has renamed.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.usefixtures("_bitsandbytes"),
]

NAME = "nf4"
WIDTHS: dict[str, dict[str, int]] = {"gpt2": {"n_embd": 64}, "llama": {"hidden_size": 64, "intermediate_size": 128}}
"""Rows that end with a block of 64: for others, bitsandbytes' kernel for AVX-512 uses the scales of other blocks."""

TOLERANCE = 2e-5
"""Of the largest logit. The weights are equal, so only the order of float32 sums differs; 1.4e-6 was measured."""


@pytest.fixture
def _bitsandbytes() -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra afina[quant]")


@pytest.fixture(params=["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def backbone(request: pytest.FixtureRequest, backbones: Backbones) -> Backbone:
    """Two layers of width 64."""
    family = request.param
    path = backbones.root / f"{family}-of-width-64"
    if not path.is_dir():
        save(configuration(family, 0.0, **WIDTHS[family]), backbones.tokenizer(family), path)
    return Backbone.load(str(path))


def quantized(backbone: Backbone) -> Any:
    """The backbone as QLoRA's users open it, with products in float32 on every processor."""
    asked = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    torch.manual_seed(7)  # a head unlike the adapter's
    return AutoModelForSequenceClassification.from_pretrained(
        backbone.path, quantization_config=asked, num_labels=2, dtype=torch.float32
    )


def theirs(model: Any, backbone: Backbone) -> torch.Tensor:
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):  # else it computes in bfloat16 on such a processor
            layer.support_avx512bf16_for_cpu = False
    return padded_logits(model, backbone)


def made_by_peft(backbone: Backbone, path: Path) -> torch.Tensor:
    """Save a LoRA of random weights on every linear layer, and return peft's logits."""
    settings = LoraConfig(task_type="SEQ_CLS", r=3, lora_alpha=5, target_modules="all-linear")
    model = get_peft_model(quantized(backbone), settings)
    randomise(model)
    model.save_pretrained(path)
    return theirs(model, backbone)


def ours(adapter: Adapter, backbone: Backbone) -> torch.Tensor:
    predictor = Predictor.of(adapter, backbone)
    assert isinstance(predictor, ModelPredictor)
    return logits_of(predictor.classifier, backbone)


def differ(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def test_an_adapter_that_peft_made_on_4_bits_opens_here(backbone: Backbone, tmp_path: Path, afina: Command) -> None:
    expected = made_by_peft(backbone, tmp_path / "peft")
    adapter = Adapter.load(tmp_path / "peft", NAME)
    assert differ(ours(adapter, backbone), expected) <= TOLERANCE
    assert differ(ours(Adapter.load(tmp_path / "peft"), backbone), expected) > 0.01  # on float weights
    store = AdapterStore(tmp_path / "store")
    kept = store.import_from(str(tmp_path / "peft"), "acme/reviews", message="by peft", precision=NAME)
    plain = store.import_from(str(tmp_path / "peft"), "acme/reviews", message="by peft")
    assert kept.version.digest == adapter.digest != plain.version.digest
    stored = store.adapter("acme/reviews@1")
    assert stored.manifest.precision == NAME
    store.export("acme/reviews@1", str(tmp_path / "exported"))
    name = ("acme/by-command", "--message", "by peft")
    assert "taken as float" in afina("store", "import", "peft", *name).err
    assert "taken as float" not in afina("store", "import", "peft", *name, "--precision", NAME).err
    again = Adapter.load(tmp_path / "exported")
    assert again.digest == adapter.digest
    assert differ(ours(again, backbone), expected) <= TOLERANCE
    floats, held = (
        afina("predict", "peft", TEXTS[0], *more).lines()[0]["probabilities"] for more in ((), ("--precision", NAME))
    )
    assert list(held.values()) == pytest.approx(expected[0].softmax(0).tolist(), abs=1e-5)
    assert floats != pytest.approx(held, abs=1e-3)


def test_an_adapter_that_afina_made_on_4_bits_opens_there(runs: Runs, backbone: Backbone, tmp_path: Path) -> None:
    run = Run(
        backbone=backbone.address,
        task=runs.task,
        method="lora",
        hyperparameters={"targets": "all-linear", "r": 4},
        training=Training(max_steps=6, batch_size=8, dtype="float32", learning_rate=5e-3, precision=NAME),
        ask=UNASKED,
    )
    record = run.execute(tmp_path)
    adapter = Adapter.load(tmp_path / record.adapter)
    found = theirs(PeftModel.from_pretrained(quantized(backbone), tmp_path / record.adapter), backbone)
    assert differ(found, ours(adapter, backbone)) <= TOLERANCE
    rounded = replace(adapter, manifest=adapter.manifest.model_copy(update={"precision": "float"}))
    assert differ(found, ours(rounded, backbone)) > 0.01


def test_a_precision_that_contradicts_what_is_known_is_refused(runs: Runs, tmp_path: Path) -> None:
    path = runs.adapter("gpt2", "lora")
    assert Adapter.load(path, "float").digest == Adapter.load(path).digest
    with raises(InvalidStudy, code="option.inapplicable", option="precision", path=path.name):
        Adapter.load(path, NAME)
    with raises(UnknownName, code="name.unknown", kind="precision", name="nf5"):
        Adapter.load(path, "nf5")


def test_a_type_that_reads_frozen_weights_is_refused_on_4_bits(llama: Backbone, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(llama.path, num_labels=2)
    get_peft_model(model, HRAConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    with raises(InvalidStudy, code="method.precision-unsupported", type="HRA"):
        Predictor.of(Adapter.load(tmp_path, NAME), llama)
