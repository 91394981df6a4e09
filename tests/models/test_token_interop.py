"""Token classifiers of afina open in transformers and peft with the same logits, and theirs in afina."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForTokenClassification

from afina import Backbone
from afina.data.batch import Loader
from afina.methods import make
from afina.methods.method import Method
from afina.models.architectures import ARCHITECTURES
from afina.models.classifier import Classifier
from fakes import Backbones, difference
from grid import some_slow
from tagging import OBJECTIVE, loader, logits_of, opened

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Specified to not (save|load).*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
]
TOLERANCE = 1e-5
FAMILIES = [family for family, entry in ARCHITECTURES.items() if entry.token_head is not None]
CASES = [*((family, "lora") for family in ("llama", "bert", "modernbert")), ("gpt2", "ia3"), ("gpt2", "lora+bitfit")]


def changed(backbone: Backbone, method: Method) -> Classifier:
    """A token classifier with random values in everything that trains."""
    made = opened(backbone, method)
    with torch.no_grad():
        for name, parameter in method.trainable(made.model).items():
            parameter.add_(torch.randn_like(parameter) * (0.02 if "lambda" in name else 0.1))
    return made


def written(made: Classifier, method: Method, backbone: Backbone, path: Path) -> Path:
    """A directory as an adapter's, without the manifest."""
    path.mkdir()
    method.accompany(made.model, backbone, path)
    state = {name: tensor.detach().contiguous() for name, tensor in method.state(made.model).items()}
    save_file(state, path / method.tensor_file, {"format": "pt"})
    return path


@torch.inference_mode()
def theirs(model: Any, batches: Loader) -> np.ndarray:
    """The logits of the words by the model's own forward, one text at a time."""
    model.eval()
    (packed,) = batches.batches(0, 1)
    found = []
    for ids, targets in zip(packed.by_sequence(packed.tokens), packed.by_sequence(packed.targets), strict=True):
        found.append(model(input_ids=ids[None]).logits[0][targets >= 0])
    return torch.cat(found).numpy()


def plain(backbone: Backbone) -> Any:
    torch.manual_seed(7)  # a head unlike the adapter's, unless the adapter brings its own
    return AutoModelForTokenClassification.from_pretrained(backbone.path, num_labels=OBJECTIVE.width)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), CASES)
def test_peft_opens_an_adapter_of_afina_with_the_same_logits_and_afina_opens_what_peft_saved(
    backbones: Backbones, family: str, name: str, tmp_path: Path
) -> None:
    backbone, method = Backbone.load(str(backbones.path(family))), make(name).for_family(family)
    made, batches = changed(backbone, method), loader(Backbone.load(str(backbones.path(family))), 8)
    path = written(made, method, backbone, tmp_path / "ours")
    assert json.loads((path / "adapter_config.json").read_text())["task_type"] == "TOKEN_CLS"
    expected = logits_of(made, batches)
    model = PeftModel.from_pretrained(plain(backbone), path)
    assert difference(theirs(model, batches), expected) <= TOLERANCE
    assert difference(theirs(plain(backbone), batches), expected) > 1000 * TOLERANCE
    if "+" in name:
        return  # peft saves further copies of biases, under names that only the method `peft` reads
    model.save_pretrained(tmp_path / "theirs")
    again = opened(backbone, method, seed=1)
    method.restore(again.model, load_file(tmp_path / "theirs" / method.tensor_file))
    assert difference(logits_of(again, batches), expected) <= TOLERANCE


@pytest.mark.parametrize("family", some_slow(FAMILIES, {"gpt2", "bert"}))
def test_transformers_opens_a_full_fine_tuning_with_its_tags(backbones: Backbones, family: str, tmp_path: Path) -> None:
    backbone, method = Backbone.load(str(backbones.path(family))), make("full").for_family(family)
    made, batches = changed(backbone, method), loader(backbone, 8)
    path = written(made, method, backbone, tmp_path / "ours")
    model, loading = AutoModelForTokenClassification.from_pretrained(path, output_loading_info=True)
    assert not any(loading[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.architectures == [type(model).__name__]
    assert tuple(model.config.id2label.values()) == OBJECTIVE.output_names
    assert model.config.problem_type is None
    assert difference(theirs(model, batches), logits_of(made, batches)) <= TOLERANCE
