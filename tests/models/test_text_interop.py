"""Adapters that write texts pass between afina, peft and transformers, both ways, with the same logits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from afina import Backbone, Predictor, Run
from afina.data.batch import pack
from afina.data.reading_options import ReadingOptions
from afina.models.adapter import Adapter
from afina.models.language_model import LanguageModel
from afina.predicting.predictor import ModelPredictor
from afina.training.settings import Training
from fakes import Backbones, difference, randomise, sentences, write_csv
from grid import some_slow
from language import answer

# peft asks transformers for a property and an argument that transformers has renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Specified to not (save|load):UserWarning"),
]
TOLERANCE = 1e-5
TOKENS = [np.arange(5, 17), np.arange(40, 47)]


@torch.inference_mode()
def theirs(model: Any) -> torch.Tensor:
    """Logits of every token, by the model's own forward on each row alone."""
    return torch.cat([model.eval()(torch.tensor(row)[None]).logits[0] for row in TOKENS])


@torch.inference_mode()
def ours(path: Path, backbone: Backbone) -> torch.Tensor:
    """Logits of the same tokens, read by an adapter in one packed row."""
    predictor = Predictor.of(Adapter.load(path), backbone)
    assert isinstance(predictor, ModelPredictor)
    model, packed = predictor.classifier.eval(), pack(TOKENS)
    layout = model.layout(packed).reading(torch.arange(len(packed.tokens)))
    return model.answer(model.features(packed, layout))


def base(backbone: Backbone) -> Any:
    return AutoModelForCausalLM.from_pretrained(backbone.path, dtype=torch.float32)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [(text, answer(text)) for text, _ in sentences(40)]
    return str(write_csv(tmp_path_factory.mktemp("texts") / "rows.csv", rows, ("input", "output")))


def trained(
    backbones: Backbones, task: str, family: str, method: str, out: Path, given: Mapping[str, Any] | None = None
) -> tuple[Path, Backbone]:
    backbone = Backbone.load(str(backbones.path(family)))
    settings = Training(max_steps=4, batch_size=8, dtype="float32", learning_rate=1e-2)
    run = Run(
        backbone=backbone.address,
        task=task,
        method=method,
        hyperparameters=dict(given or {}),
        data=ReadingOptions(),
        training=settings,
    )
    return out / run.execute(out).adapter, backbone


PEFT = [
    *(("llama", name) for name in ("lora", "vera", "lora+prelayer")),
    *(("gpt2", name) for name in ("ia3", "lora+bitfit")),
    ("gptj", "lora"),
]


@pytest.mark.parametrize(("family", "method"), some_slow(PEFT, {("llama", "lora")}))
def test_peft_opens_an_adapter_of_afina_for_a_language_model(
    backbones: Backbones, task: str, family: str, method: str, tmp_path: Path
) -> None:
    path, backbone = trained(backbones, task, family, method, tmp_path)
    plain = base(backbone)
    before = theirs(plain)
    expected = theirs(PeftModel.from_pretrained(plain, path))
    assert PeftModel.from_pretrained(base(backbone), path).peft_config["default"].task_type == "CAUSAL_LM"
    assert difference(ours(path, backbone), expected) <= TOLERANCE
    assert difference(before, expected) > 100 * TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_transformers_opens_a_full_fine_tuning_for_a_language_model(
    backbones: Backbones, task: str, family: str, tmp_path: Path
) -> None:
    path, backbone = trained(backbones, task, family, "full", tmp_path)
    model, loading = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(loading[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.architectures == [type(model).__name__]
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (family == "gpt2")
    assert difference(ours(path, backbone), theirs(model)) <= TOLERANCE
    text = "A lovely ferry"
    assert AutoTokenizer.from_pretrained(path)(text)["input_ids"] == backbone.tokenizer(text)["input_ids"]


def test_a_sum_that_trains_a_tied_embedding_is_not_written_for_peft_which_would_untie_it(
    backbones: Backbones, task: str, tmp_path: Path
) -> None:
    path, backbone = trained(backbones, task, "gpt2", "lora+prelayer", tmp_path)
    assert not (path / "adapter_config.json").exists()
    model = base(backbone)
    state = Adapter.load(path).tensors
    assert "base_model.model.transformer.wte.weight" in state
    assert not any("lm_head" in name for name in state)
    predictor = Predictor.of(Adapter.load(path), backbone)
    assert isinstance(predictor, ModelPredictor)
    model = predictor.classifier
    assert isinstance(model, LanguageModel)
    assert model.output_embedding.weight is model.body.get_input_embeddings().weight


def saved_by_peft(backbone: Backbone, settings: Any, path: Path) -> Any:
    """Save an adapter of random weights as peft does, and return peft's model."""
    model = get_peft_model(base(backbone), settings)
    torch.manual_seed(1)
    randomise(model)
    model.save_pretrained(path)
    return model


@pytest.mark.slow
def test_afina_opens_an_adapter_that_peft_saved_for_a_language_model(gpt2: Backbone, tmp_path: Path) -> None:
    settings = LoraConfig(
        task_type="CAUSAL_LM", r=3, lora_alpha=5, target_modules=["c_proj", "c_fc"], fan_in_fan_out=True
    )
    model = saved_by_peft(gpt2, settings, tmp_path)
    assert difference(ours(tmp_path, gpt2), theirs(model)) <= TOLERANCE
    (found,) = Predictor.load(tmp_path)(["A lovely ferry"])
    prompt = torch.tensor([gpt2.tokenizer("A lovely ferry")["input_ids"]])
    made = model.generate(input_ids=prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, prompt.shape[1] :]
    expected = gpt2.tokenizer.decode(made, skip_special_tokens=True).strip()
    assert str(found["answer"]).startswith(expected)


BESIDE: dict[str, Any] = {
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "embeddings": LoraConfig(task_type="CAUSAL_LM", target_modules=["embed_tokens", "lm_head"]),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_virtual_tokens_and_a_lora_on_embeddings_that_peft_saved_for_a_language_model_open(
    llama: Backbone, name: str, tmp_path: Path
) -> None:
    model = saved_by_peft(llama, BESIDE[name], tmp_path)
    with torch.inference_mode():
        rows = [torch.tensor(row)[None] for row in TOKENS]
        made = [model.eval()(row, attention_mask=torch.ones_like(row)).logits[0, -row.shape[1] :] for row in rows]
    assert difference(ours(tmp_path, llama), torch.cat(made)) <= TOLERANCE
