"""Encoders: what the files lack, what an encoder cannot do, and the pooling of each text."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from afina import Backbone, hub
from afina.data.batch import pack
from afina.errors import InvalidStudy, NotFound
from afina.events import Progress
from afina.methods import make
from afina.models.architectures import REFUSED, head_of, is_head, is_output
from afina.models.backbone_spec import unused_notes
from afina.models.classifier import Classifier
from afina.models.kernels.layout import Layout, pool
from afina.models.objective import Opening
from afina.models.objectives import Classes
from afina.models.pretrained import meta_from_config
from afina.models.verbalizer import Verbalizer
from afina.report.progress import doing
from afina.studies.runs.prepared import opened
from fakes import ENCODERS, Backbones, configuration
from raises import raises

LABELS = ("no", "perhaps", "yes")


@pytest.fixture
def bert(backbones: Backbones) -> Backbone:
    return Backbone.load(str(backbones.path("bert")))


def changed(backbone: Backbone, place: Path, **settings: Any) -> Path:
    """A copy of a backbone with another configuration."""
    shutil.copytree(backbone.path, place)
    config = json.loads((place / "config.json").read_text()) | settings
    (place / "config.json").write_text(json.dumps(config))
    return place


def without(backbone: Backbone, place: Path, part: str, **settings: Any) -> Backbone:
    """A copy of a backbone whose files lack the weights with `part` in their names."""
    changed(backbone, place, **settings)
    tensors = {name: one for name, one in load_file(place / "model.safetensors").items() if part not in name}
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    return Backbone.load(str(place))


def test_a_pooler_that_the_files_lack_is_the_same_at_each_opening(bert: Backbone, tmp_path: Path) -> None:
    lacking = without(bert, tmp_path / "bert", "pooler")
    assert lacking.drawn == ()
    torch.manual_seed(1)
    first = Classifier.open(lacking, LABELS, seed=0)
    torch.manual_seed(2)
    second = Classifier.open(lacking, LABELS, seed=5)
    assert lacking.drawn == ("pooler.dense.bias", "pooler.dense.weight")
    weight = first.body.pooler.dense.weight
    assert torch.equal(weight, second.body.pooler.dense.weight)
    assert weight.std() > 0
    assert not first.body.pooler.dense.bias.any()
    torch.manual_seed(3)
    assert Backbone.load(str(lacking.path)).digest == Backbone.load(str(lacking.path)).digest_of(first.body)
    assert lacking.weights_digest != bert.weights_digest
    assert torch.equal(Classifier.open(bert, LABELS, seed=0).body.pooler.dense.bias, pooler(bert)["bias"])


def test_a_run_says_which_weights_are_drawn(bert: Backbone, tmp_path: Path) -> None:
    said: list[Progress] = []
    for backbone in (bert, without(bert, tmp_path / "bert", "pooler")):
        opened(backbone, Classes(LABELS), Verbalizer(), make("head"), 0, said.append)
    assert [each.phase for each in said] == ["draw"]
    assert doing(said[0]).startswith("draws pooler.dense.bias, pooler.dense.weight, ")


def pooler(backbone: Backbone) -> dict[str, torch.Tensor]:
    tensors = load_file(backbone.path / "model.safetensors")
    return {kind: tensors[f"bert.pooler.dense.{kind}"] for kind in ("weight", "bias")}


def test_files_that_lack_another_weight_are_refused(bert: Backbone, tmp_path: Path) -> None:
    lacking = without(bert, tmp_path / "bert", "layer.1.output.dense.weight")
    with raises(NotFound, code="backbone.unreadable", tensor="encoder.layer.1.output.dense.weight"):
        Classifier.open(lacking, LABELS, seed=0)
    smaller = changed(bert, tmp_path / "smaller", intermediate_size=40)
    with raises(NotFound, code="backbone.unreadable", tensor="encoder.layer.0.intermediate.dense.bias"):
        Classifier.open(Backbone.load(str(smaller)), LABELS, seed=0)


def test_a_checkpoint_of_the_hub_with_a_vocabulary_file_and_other_heads_is_the_same_backbone(
    bert: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bert-base-uncased and sentence-transformers have it: `cls` heads, a buffer, gamma, files of others."""
    tensors = load_file(bert.path / "model.safetensors")
    assert any(name.startswith("cls.predictions") for name in tensors)
    tensors["bert.embeddings.position_ids"] = torch.arange(bert.longest)[None]
    tensors = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): one for name, one in tensors.items()}
    (tmp_path / "1_Pooling").mkdir()
    shutil.copy(bert.path / "config.json", tmp_path)
    words = bert.tokenizer.get_vocab()
    contents = {
        "vocab.txt": "\n".join(sorted(words, key=lambda word: words[word])) + "\n",
        "tokenizer_config.json": json.dumps({"tokenizer_class": "BertTokenizer"}),
        "modules.json": json.dumps([{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]),
        "1_Pooling/config.json": json.dumps({"pooling_mode_mean_tokens": True}),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    asked: list[str] = []

    def download(repository: str, *, allow_patterns: list[str], **_: Any) -> str:
        asked.append(repository)
        assert all(any(fnmatch(name, one) for one in allow_patterns) for name in contents)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    found = Backbone.load("acme/bert-base")
    assert asked == ["acme/bert-base"]
    assert found.weights_digest == bert.weights_digest
    assert found.drawn == ()
    for texts in (("What a warm ferry!",), ("the novel", "was dull.")):
        assert found.tokenizer(*texts) == bert.tokenizer(*texts)


def test_the_directory_of_the_model_inside_one_of_sentence_transformers_is_named(
    bert: Backbone, tmp_path: Path
) -> None:
    shutil.copytree(bert.path, tmp_path / "0_Transformer")
    with raises(NotFound, code="backbone.missing") as caught:
        Backbone.load(str(tmp_path))
    assert "Give the directory 0_Transformer inside" in str(caught.value)
    assert Backbone.load(str(tmp_path / "0_Transformer")).digest == bert.digest


def test_parts_of_setfit_and_sentence_transformers_that_are_not_used_are_named(bert: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "setfit"
    shutil.copytree(bert.path, path)
    assert unused_notes(str(path)) == []
    for name in ("1_Pooling", "2_Dense"):
        (path / name).mkdir()
        (path / name / "config.json").write_text("{}")
    (path / "model_head.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert Backbone.load(str(path)).digest == bert.digest
    (note,) = unused_notes(str(path))
    assert note == (
        f"backbone {path}: its encoder is used, and not 2_Dense and model_head.pkl; "
        "only methods with the hyperparameter pooling read 1_Pooling."
    )


def test_a_checkpoint_with_a_head_for_other_labels_opens_under_a_new_head(bert: Backbone, tmp_path: Path) -> None:
    five = Classifier.open(bert, tuple("abcde"), seed=0)
    five.model.save_pretrained(tmp_path)
    bert.tokenizer.save_pretrained(tmp_path)
    opened = Classifier.open(Backbone.load(str(tmp_path)), LABELS, seed=0)
    assert torch.equal(opened.model.classifier.weight, Classifier.open(bert, LABELS, seed=0).model.classifier.weight)


def test_a_head_that_pretraining_trains_is_kept_and_another_is_drawn_from_the_seed(
    backbones: Backbones, tmp_path: Path
) -> None:
    modern = Backbone.load(str(backbones.path("modernbert")))
    inner = load_file(modern.path / "model.safetensors")
    model = Classifier.open(modern, LABELS, seed=0).model
    assert torch.equal(model.head.dense.weight, inner["head.dense.weight"])
    assert torch.equal(model.head.norm.weight, inner["head.norm.weight"])
    lacking = without(modern, tmp_path / "modernbert", "head.")
    first, again, other = (Classifier.open(lacking, LABELS, seed=seed).model.head for seed in (0, 0, 1))
    assert torch.equal(first.dense.weight, again.dense.weight)
    assert not torch.equal(first.dense.weight, other.dense.weight)
    assert (first.norm.weight == 1).all()


def test_an_encoder_neither_answers_in_words_nor_writes_texts(bert: Backbone) -> None:
    with raises(InvalidStudy, code="backbone.encoder-unsupported", family="bert"):
        bert.open(LABELS, 0, [[5], [6], [7]])
    with raises(InvalidStudy, code="backbone.encoder-unsupported", family="bert"):
        bert.open(("answer",), 0, opening=Opening("", "language_model"))
    with raises(InvalidStudy, code="backbone.encoder-unsupported", family="bert"):
        meta_from_config(configuration("bert"), 1, Opening("", "language_model"))


def test_a_decoder_and_a_pooling_that_the_entry_does_not_know_are_refused(
    bert: Backbone, backbones: Backbones, tmp_path: Path
) -> None:
    decoder = {"is_decoder": True, "position_embedding_type": "relative_key", "chunk_size_feed_forward": 2}
    for number, (field, value) in enumerate(decoder.items()):
        place = changed(bert, tmp_path / str(number), **{field: value})
        with raises(InvalidStudy, code="backbone.unsupported", field=field):
            Backbone.load(str(place))
    modern = Backbone.load(str(backbones.path("modernbert")))
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    both = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    with raises(InvalidStudy, code="backbone.unsupported", rope_type="dynamic"):
        Backbone.load(str(changed(modern, tmp_path / "rope", rope_parameters=both)))


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_with_relative_scores_is_refused_with_the_reason(bert: Backbone, tmp_path: Path, family: str) -> None:
    place = changed(bert, tmp_path / family, model_type=family)
    with raises(InvalidStudy, code="backbone.unsupported", family=family) as caught:
        Backbone.load(str(place))
    assert REFUSED[family] in str(caught.value)


def test_the_output_layer_of_one_family_is_not_a_module_of_another_familys_head() -> None:
    assert is_output("base_model.model.classifier.weight")
    assert is_output("classifier.out_proj.bias")
    for inner in ("classifier.dense.weight", "pre_classifier.weight", "head.dense.weight", "head.norm.weight"):
        assert is_head(inner)
        assert not is_output(inner)


@pytest.mark.parametrize("family", ENCODERS)
def test_the_positions_of_an_encoder_leave_room_for_the_longest_text(backbones: Backbones, family: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    classifier = Classifier.open(backbone, LABELS, seed=0).eval()
    longest = np.full(backbone.longest, 7)
    with torch.inference_mode():
        assert classifier(pack([longest, longest[:3]])).isfinite().all()
    assert len(head_of(classifier.model)[-1].weight) == len(LABELS)


@pytest.mark.parametrize("before", [0, 2])
def test_every_kind_of_pooling_is_of_each_text_alone(before: int) -> None:
    lengths = [3, 1, 5]
    ends = np.cumsum([0, *(length + before for length in lengths)])
    layout = Layout(torch.from_numpy(ends.astype(np.int32)), before)
    hidden = torch.randn(int(ends[-1]), 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    texts = [hidden[start + before : end] for start, end in pairwise(ends)]
    torch.testing.assert_close(pool(hidden, layout, "first"), torch.stack([text[0] for text in texts]))
    torch.testing.assert_close(pool(hidden, layout, "last"), torch.stack([text[-1] for text in texts]))
    mean = pool(hidden, layout, "mean")
    torch.testing.assert_close(mean, torch.stack([text.mean(0) for text in texts]))
    (gradient,) = torch.autograd.grad(mean.sum(), hidden)
    (expected,) = torch.autograd.grad(torch.stack([text.mean(0) for text in texts]).sum(), hidden)
    torch.testing.assert_close(gradient, expected)
