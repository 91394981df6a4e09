"""Adapters pass between afina, peft and transformers, both ways, with the same logits."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import (
    HiraConfig,
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from afina import AdapterStore, Backbone, Engine, Predictor
from afina.data.evaluation_set import EvaluationSet
from afina.engine.residents import SharedResident
from afina.errors import CorruptAdapter, InvalidStudy, WrongBackbone
from afina.methods.method import plain_name
from afina.models.adapter import Adapter
from afina.models.architectures import ARCHITECTURES, is_head
from afina.predicting.evaluation import evaluate, trained
from afina.stats.classification import probabilities
from fakes import SLOW, TEXTS, Backbones, Runs, difference, logits_of, padded_logits, randomise
from grid import by_family
from raises import raises

# peft asks transformers for a property and an argument that transformers has renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
]

TOLERANCE = 1e-5
FAMILIES = by_family(ARCHITECTURES, SLOW)


def ours(path: Path, backbone: Backbone) -> torch.Tensor:
    return logits_of(Predictor.of(Adapter.load(path), backbone).classifier, backbone)


def base(path: Path, labels: int = 2) -> Any:
    torch.manual_seed(7)  # a head unlike the adapter's, unless the adapter brings its own
    return AutoModelForSequenceClassification.from_pretrained(path, num_labels=labels)


def made_by_peft(backbone: Backbone, settings: Any, path: Path, labels: int = 2) -> torch.Tensor:
    """Save an adapter of random weights as peft does, and return peft's logits."""
    model = get_peft_model(base(backbone.path, labels), settings)
    randomise(model)
    model.save_pretrained(path)
    return padded_logits(model, backbone)


def lora(**changes: Any) -> LoraConfig:
    settings = {"task_type": "SEQ_CLS", "r": 3, "lora_alpha": 5, "target_modules": ["c_proj", "c_fc"]}
    return LoraConfig(**(settings | {"fan_in_fan_out": True, "lora_dropout": 0.3} | changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_opens_a_lora_adapter_of_afina_with_the_same_logits_head_included(runs: Runs, family: str) -> None:
    path, backbone = runs.adapter(family, "lora"), Backbone.load(str(runs.backbones.path(family)))
    plain = base(backbone.path)
    head = {name: parameter.detach().clone() for name, parameter in plain.named_parameters() if is_head(name)}
    opened = PeftModel.from_pretrained(plain, path)
    expected = padded_logits(opened, backbone)
    assert difference(ours(path, backbone), expected) <= TOLERANCE
    tensors = {plain_name(name): tensor for name, tensor in Adapter.load(path).tensors.items()}
    saved = {name: tensor for name, tensor in tensors.items() if is_head(name)}
    assert saved.keys() == head.keys()
    for name, parameter in opened.named_parameters():
        if ".modules_to_save." in name:
            assert torch.equal(parameter, saved[plain_name(name)])
            assert not torch.equal(parameter, head[plain_name(name)])


def test_the_settings_for_peft_name_the_backbone_and_are_the_same_in_every_process(runs: Runs) -> None:
    settings = json.loads((runs.adapter("llama", "lora") / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(runs.backbones.path("llama"))
    assert settings["target_modules"] == ["k_proj", "q_proj", "v_proj"]
    assert (settings["peft_type"], settings["task_type"], settings["r"]) == ("LORA", "SEQ_CLS", 4)
    assert settings["inference_mode"] is True


def test_an_adapter_of_afina_that_peft_saved_again_opens_in_afina(runs: Runs, gpt2: Backbone, tmp_path: Path) -> None:
    path = runs.adapter("gpt2", "lora")
    PeftModel.from_pretrained(base(gpt2.path), path).save_pretrained(tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    assert torch.equal(ours(tmp_path, gpt2), ours(path, gpt2))


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_a_state_of_prelayer_is_named_as_transformers_names_it(runs: Runs, family: str) -> None:
    path, backbone = runs.adapter(family, "prelayer"), Backbone.load(str(runs.backbones.path(family)))
    model = base(backbone.path)
    tensors = dict(Adapter.load(path).tensors)
    assert not model.load_state_dict(tensors, strict=False).unexpected_keys
    assert difference(ours(path, backbone), padded_logits(model, backbone)) <= TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "gptj", "bert", *by_family(("distilbert", "modernbert"), SLOW)])
def test_transformers_opens_a_full_fine_tuning_with_its_labels_and_tokenizer(runs: Runs, family: str) -> None:
    path, backbone = runs.adapter(family, "full"), Backbone.load(str(runs.backbones.path(family)))
    model, loading = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
    assert not any(loading[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert model.config.label2id == {"bad": 0, "good": 1}
    assert model.config.architectures == [type(model).__name__]
    assert model.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.pad_token_id is not None  # GPT-2 has none of its own
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer(list(TEXTS))["input_ids"] == backbone.tokenizer(list(TEXTS))["input_ids"]
    assert tokenizer("a", "b")["input_ids"] == backbone.tokenizer("a", "b")["input_ids"]
    assert difference(ours(path, backbone), padded_logits(model, backbone)) <= TOLERANCE


@pytest.mark.parametrize(
    "settings",
    [
        lora(),
        lora(use_rslora=True, r=2),
        lora(use_dora=True),
        lora(bias="lora_only", target_modules=["c_attn"]),
        lora(rank_pattern={"h.0.attn.c_attn": 5}, target_modules=["c_attn"]),
        IA3Config(task_type="SEQ_CLS", target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"]),
        VeraConfig(task_type="SEQ_CLS", r=8, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True),
        HiraConfig(task_type="SEQ_CLS", r=4, target_modules=["c_attn"], fan_in_fan_out=True),
    ],
    ids=["lora", "rslora", "dora", "bias", "ranks", "ia3", "vera", "hira"],
)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")
def test_an_adapter_made_by_peft_gives_pefts_logits(gpt2: Backbone, tmp_path: Path, settings: Any) -> None:
    expected = made_by_peft(gpt2, settings, tmp_path)
    adapter = Adapter.load(tmp_path)
    assert adapter.manifest.backbone == str(gpt2.path)
    assert difference(ours(tmp_path, gpt2), expected) <= TOLERANCE


PLAIN = {"fan_in_fan_out": False}
OF_FAMILIES = [
    ("llama", lora(target_modules=["o_proj", "down_proj"], **PLAIN)),
    ("bert", lora(target_modules="all-linear", use_dora=True, **PLAIN)),
    ("bert", IA3Config(task_type="SEQ_CLS")),
    ("roberta", lora(target_modules="all-linear", bias="all", **PLAIN)),
    ("electra", lora(target_modules=None, **PLAIN)),
    ("modernbert", lora(target_modules=["Wqkv", "mlp.Wo"], **PLAIN)),
]


@pytest.mark.parametrize(("family", "settings"), by_family(OF_FAMILIES, SLOW))
def test_an_adapter_made_by_peft_for_another_family_gives_pefts_logits(
    backbones: Backbones, family: str, settings: Any, tmp_path: Path
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    expected = made_by_peft(backbone, deepcopy(settings), tmp_path, labels=4)
    assert difference(ours(tmp_path, backbone), expected) <= TOLERANCE


def test_an_adapter_made_by_peft_evaluates_with_the_tasks_labels(gpt2: Backbone, toy: str, tmp_path: Path) -> None:
    made_by_peft(gpt2, lora(), tmp_path)
    adapter = Adapter.load(tmp_path)
    texts = EvaluationSet.read(toy, trained(adapter))
    assert len(texts.split) == 120, "nothing tells that any of them was trained on"
    model = PeftModel.from_pretrained(base(gpt2.path), tmp_path)
    logits = padded_logits(model, gpt2, texts.split.texts).numpy()
    result = evaluate(adapter, texts, backbone=str(gpt2.path))
    assert result.metrics["accuracy"] == np.mean(logits.argmax(1) == texts.split.labels)
    assert 0 < result.metrics["accuracy"] < 1
    assert (result.examples, result.leaked) == (120, None)
    lines = Predictor.load(tmp_path)(texts.split.texts)
    found = np.array([list(line["probabilities"].values()) for line in lines])
    assert np.abs(found - probabilities(logits)).max() <= TOLERANCE
    assert [line["label"] for line in lines] == [f"LABEL_{index}" for index in logits.argmax(1)]


def test_an_adapter_made_by_peft_without_a_head_is_an_error_that_says_how_to_keep_it(
    gpt2: Backbone, tmp_path: Path
) -> None:
    made_by_peft(gpt2, lora(task_type=None), tmp_path)
    with raises(CorruptAdapter, code="adapter.head-missing"):
        Adapter.load(tmp_path)


TOKENS = 3


@torch.inference_mode()
def with_virtual_tokens(model: Any, tokenizer: Any) -> torch.Tensor:
    """peft's logits of each text alone: beside `inputs_embeds`, transformers finds no padding.

    peft does not call a classifier of this transformers with a prefix, so its prefix is given to the model itself.
    """
    rows = []
    for text in TEXTS:
        ids = tokenizer([text], return_tensors="pt")["input_ids"]
        if model.active_peft_config.peft_type == "PREFIX_TUNING":
            mask = torch.ones(1, TOKENS + ids.shape[1])
            made = model.eval().base_model(input_ids=ids, attention_mask=mask, past_key_values=model.get_prompt(1))
        else:
            made = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
        rows.append(made.logits)
    return torch.cat(rows)


VIRTUAL: dict[str, Any] = {
    "prompt": PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=TOKENS),
    "prefix": PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=TOKENS),
    "projected": PrefixTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=TOKENS, prefix_projection=True, encoder_hidden_size=8
    ),
}


def virtual_tokens_by_peft(backbone: Backbone, name: str, path: Path) -> Any:
    """Save virtual tokens of random values as peft does, and return peft's model."""
    model = get_peft_model(base(backbone.path), deepcopy(VIRTUAL[name]))
    torch.manual_seed(1)
    randomise(model)
    model.save_pretrained(path)
    return model


@pytest.mark.parametrize(("family", "name"), [("gpt2", "prefix"), ("llama", "prompt"), ("llama", "projected")])
def test_virtual_tokens_made_by_peft_give_pefts_logits_alone_and_in_mixed_batches(
    backbones: Backbones, family: str, name: str, tmp_path: Path
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    expected = with_virtual_tokens(
        virtual_tokens_by_peft(backbone, name, tmp_path), AutoTokenizer.from_pretrained(backbone.path)
    )
    assert difference(ours(tmp_path, backbone), expected) <= TOLERANCE
    engine = Engine(backbone)
    (resident,) = engine.load(tmp_path)
    assert isinstance(resident, SharedResident)
    answers = engine.predict([(str(tmp_path), text) for text in TEXTS])
    assert difference(np.stack([answer.outputs for answer in answers]), expected.numpy()) <= TOLERANCE


def test_virtual_tokens_made_by_peft_are_published_and_other_sizes_refused(gpt2: Backbone, tmp_path: Path) -> None:
    virtual_tokens_by_peft(gpt2, "prefix", tmp_path / "made")
    store = AdapterStore(tmp_path / "store")
    store.publish(tmp_path / "made", "acme/reviews", message="why")
    store.export("acme/reviews", str(tmp_path / "out"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "out" / name).is_file()
    assert torch.equal(ours(tmp_path / "out", gpt2), ours(tmp_path / "made", gpt2))
    settings = json.loads((tmp_path / "made" / "adapter_config.json").read_text())
    for changes, wrong in (
        ({"num_virtual_tokens": 4}, CorruptAdapter),
        ({"num_virtual_tokens": "3"}, InvalidStudy),
        ({"num_transformer_submodules": 2}, InvalidStudy),
        ({"of_a_later_peft": 1}, InvalidStudy),
        ({"peft_type": "P_TUNING"}, InvalidStudy),
    ):
        (tmp_path / "made" / "adapter_config.json").write_text(json.dumps(settings | changes))
        with pytest.raises(wrong):
            Predictor.of(Adapter.load(tmp_path / "made"), gpt2)


def test_a_prefix_made_by_peft_is_refused_where_peft_counts_it_into_a_sliding_window(
    backbones: Backbones, tmp_path: Path
) -> None:
    backbone = Backbone.load(str(backbones.path("mistral")))
    virtual_tokens_by_peft(backbone, "prefix", tmp_path)
    with raises(InvalidStudy, code="peft.type-unsupported", type="PREFIX_TUNING"):
        Predictor.of(Adapter.load(tmp_path), backbone)


@pytest.mark.parametrize("targets", [["embed_tokens"], ["embed_tokens", "q_proj"]], ids="+".join)
def test_a_lora_on_the_embedding_opens_with_the_frozen_embedding_that_peft_saves(
    llama: Backbone, tmp_path: Path, targets: list[str]
) -> None:
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        expected = made_by_peft(llama, lora(target_modules=targets, fan_in_fan_out=False), tmp_path)
    frozen = "base_model.model.model.embed_tokens.base_layer.weight"
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert frozen in tensors
    assert difference(ours(tmp_path, llama), expected) <= TOLERANCE
    engine = Engine(llama)
    answers = engine.predict([(str(tmp_path), text) for text in TEXTS])
    assert difference(np.stack([answer.outputs for answer in answers]), expected.numpy()) <= TOLERANCE
    other = tensors | {frozen: tensors[frozen] + 1}
    save_file(other, tmp_path / "adapter_model.safetensors")
    with raises(WrongBackbone, code="backbone.mismatch", tensor=frozen):
        Predictor.of(Adapter.load(tmp_path), llama)


def test_a_resized_vocabulary_is_an_error_that_says_so(llama: Backbone, tmp_path: Path) -> None:
    model = base(llama.path)
    model.resize_token_embeddings(model.config.vocab_size + 8)
    with pytest.warns(UserWarning, match="resized"):
        get_peft_model(model, lora(target_modules=["q_proj"], fan_in_fan_out=False)).save_pretrained(tmp_path)
    with raises(InvalidStudy, code="peft.settings-unusable", tensor="base_model.model.model.embed_tokens.weight"):
        Predictor.of(Adapter.load(tmp_path), llama)


def test_settings_that_peft_does_not_know_are_an_error(gpt2: Backbone, tmp_path: Path) -> None:
    made_by_peft(gpt2, lora(), tmp_path)
    file = tmp_path / "adapter_config.json"
    whole = json.loads(file.read_text())
    for change in ({"peft_type": "INVENTED"}, {"peft_type": None}):
        file.write_text(json.dumps(whole | change))
        with raises(InvalidStudy, code="peft.settings-unusable"):
            Predictor.of(Adapter.load(tmp_path), gpt2)
