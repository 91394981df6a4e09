"""The card of a version: the Hub reads it, its values are the manifest's, and it tells nothing of a machine's paths."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from huggingface_hub import ModelCard

from afina import AdapterStore
from afina.models.adapter import Adapter
from afina.store.model_card import base_for_peft, model_card
from afina.store.versions import Version
from fakes import Runs
from stores import adapter

MADE = Version(
    name="acme/reviews",
    number=3,
    digest=f"sha256:{'a' * 64}",
    created="2025-02-03T04:05:06+00:00",
    who="ada",
    why="first that beats the baseline",
    manifest={},
    parts={},
)
MANIFEST: dict[str, Any] = {
    "method": "lora",
    "hyperparameters": {"r": 4, "alpha": 16.0, "targets": ["c_attn"]},
    "label_names": ["bad", "good"],
    "backbone": "openai-community/gpt2@main",
    "backbone_digest": "sha256:b",
    "tokenizer_digest": "sha256:c",
    "family": "gpt2",
    "tensor_file": "adapter_model.safetensors",
    "tensors_digest": "sha256:d",
    "max_length": 128,
    "task": "glue/cola",
    "train_digest": "sha256:e",
    "evaluation_digest": "sha256:f",
    "seed": 7,
    "training": {"epochs": 3, "learning_rate": 0.001},
    "metrics": {"mcc": 0.512345678, "accuracy": 0.8123456, "examples": 1043.0},
    "versions": {"torch": "2.13.0"},
    "environment": {"platform": "Linux x86_64", "git_commit": None},
}


def card(manifest: Mapping[str, Any] = MappingProxyType({}), **made: Any) -> str:
    return model_card(replace(MADE, manifest=MANIFEST | dict(manifest), **made))


def read(text: str) -> Any:
    """What the Hub's own library reads of it; without leave to pass over what is wrong."""
    return ModelCard(text, ignore_metadata_errors=False).data


def test_the_hub_reads_what_the_manifest_says() -> None:
    data = read(card())
    assert data.base_model == "openai-community/gpt2"
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-classification")
    assert data.tags == ["afina", "lora", "gpt2"]
    assert (data.datasets, data.metrics) == (["nyu-mll/glue"], ["mcc", "accuracy"])
    assert data.model_name == "acme/reviews@3"
    found = [(each.metric_type, each.metric_value, each.metric_name) for each in data.eval_results]
    assert found == [("mcc", 0.512345678, "Matthews correlation"), ("accuracy", 0.8123456, "accuracy")]
    places = {(each.task_type, each.dataset_type, each.dataset_config) for each in data.eval_results}
    assert places == {("text-classification", "nyu-mll/glue", "cola")}


def test_what_a_reader_is_told() -> None:
    text = card()
    for told in (
        "Added `2025-02-03T04:05:06+00:00` by ada: first that beats the baseline",
        "0. bad\n1. good",
        'afina predict DIRECTORY "a text"\n',
        'from_pretrained("openai-community/gpt2", revision="main", num_labels=2)',
        'PeftModel.from_pretrained(base, "DIRECTORY")',
        '| hyperparameters | `{"alpha": 16.0, "r": 4, "targets": ["c_attn"]}` |',
        "| digest of the training texts | `sha256:e` |",
        "| seed | 7 |",
        "| learning\\_rate | `0.001` |",
        "| Matthews correlation | 0.5123 |",
        "| examples | 1,043 |",
        "| torch | `2.13.0` |",
        "cut each text to 128 tokens",
        MADE.digest,
    ):
        assert told in text, told
    assert "git" not in text.replace("git\\_", ""), "what is unknown is left out"


@pytest.mark.parametrize(
    ("file", "library", "opened"),
    [
        ("adapter_model.safetensors", "peft", "PeftModel.from_pretrained"),
        ("model.safetensors", "transformers", 'AutoModelForSequenceClassification.from_pretrained("DIRECTORY")'),
        ("delta.safetensors", "afina", None),
    ],
)
def test_a_library_is_named_only_where_it_opens_the_files(file: str, library: str, opened: str | None) -> None:
    text = card({"tensor_file": file})
    assert read(text).library_name == library
    assert opened in text if opened else "```python" not in text


PATHS = {
    "backbone": {"backbone": "/home/ada/models/tiny"},
    "random": {"backbone": "random:/home/ada/models/tiny"},
    "windows": {"backbone": "C:\\Users\\ada\\models\\tiny"},
    "task": {"task": "/home/ada/texts/tiny.csv"},
    "relative": {"task": "secret/ada/tiny.csv"},
    "glue": {"task": "glue/cola:/home/ada/tiny"},
    "data": {"data": {"evaluation": "secret/ada/tiny.csv", "text": "sentence"}},
    "settings": {"hyperparameters": {"base_model_name_or_path": "/home/ada/tiny", "deep": [{"a": "~/ada/tiny"}]}},
    "training": {"training": {"from": "../ada/tiny"}},
    "environment": {"environment": {"where": "/home/ada/tiny"}},
}


@pytest.mark.parametrize("changes", PATHS.values(), ids=PATHS)
def test_a_path_stands_by_its_last_part_only(changes: dict[str, Any]) -> None:
    text = card(changes, who=None)
    read(text)
    assert "tiny" in text
    assert not re.search(r"ada\b|home|secret|Users", text)


def test_a_base_is_claimed_only_where_it_is_the_hubs() -> None:
    for address in ("/models/tiny", "embedded", "random:tiny", "a/b/c", None):
        text = card({"backbone": address})
        assert read(text).base_model is None
    assert '```sh\nafina predict DIRECTORY "a text"\n```' in card({"backbone": "embedded"})
    assert """`BACKBONE` for the directory of `embedded`, in afina `Backbone.load('embedded').path`""" in card(
        {"backbone": "embedded"}
    )
    given = card({"backbone": "/models/tiny"})
    assert '"a text" --backbone BACKBONE' in given
    assert "`BACKBONE` for one of `tiny`" in given
    assert 'from_pretrained("BACKBONE", num_labels=2)' in given


def test_an_export_says_what_to_give_peft_as_a_base_that_only_afina_knows(tmp_path: Path) -> None:
    given = "AutoModelForSequenceClassification.from_pretrained(Backbone.load('embedded').path, num_labels=2)"
    assert f"give peft {given} as the base" in str(base_for_peft(MANIFEST | {"backbone": "embedded"}))
    assert base_for_peft(MANIFEST | {"backbone": "embedded", "tensor_file": "model.safetensors"}) is None
    store = AdapterStore(tmp_path / "store")
    for name, backbone in (("drawn", "random:tiny"), ("hub", "owner/name")):
        store.publish(adapter(tmp_path / name, backbone=backbone), f"acme/{name}", message="why")
    (note,) = store.export("acme/drawn", str(tmp_path / "drawn out"))[1]
    assert "Backbone.load('random:tiny').path" in note
    assert store.export("acme/hub", str(tmp_path / "hub out"))[1] == ()


def test_a_directory_named_as_a_hub_id_is_no_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(card({"backbone": "models/tiny"})).base_model == "models/tiny"
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert read(card({"backbone": "models/tiny"})).base_model is None


def test_a_data_set_of_the_hub_is_named_with_its_configuration() -> None:
    data = read(card({"task": "hub:owner/moods:small"}))
    assert data.datasets == ["owner/moods"]
    assert {(each.dataset_type, each.dataset_config) for each in data.eval_results} == {("owner/moods", "small")}
    data = read(card({"task": "mine.csv"}))
    assert data.datasets is None
    assert {(each.dataset_type, each.dataset_config) for each in data.eval_results} == {("mine.csv", None)}


HOSTILE = (
    "a|b",
    "<script>alert(1)</script>",
    "[x](http://evil)",
    "*bold* `code`",
    "---\nlicense: mit",
    "# head",
    "&amp;",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_others_wrote_is_shown_and_not_rendered(text: str) -> None:
    told = card(
        {
            "label_names": [text, "good"],
            "task": f"{text}.csv",
            "training": {text: text},
            "template": f"{text} {{text}}",
        },
        why=text,
        who=text,
    )
    data, plain = read(told), read(card())
    assert {**vars(data), "eval_results": None, "datasets": None} == {
        **vars(plain),
        "eval_results": None,
        "datasets": None,
    }
    body = told[ModelCard(told).content.index("\n---\n", 4) + 5 :]
    outside = re.sub(r"`[^`\n]*`", "", re.sub(r"\\.", "", body))
    assert not re.search(r"<(?!/?code>)|\[x\]|\*bold|^license", outside, re.MULTILINE)
    assert [line for line in body.splitlines() if line.startswith("#")] == [
        *("# acme/reviews, version 3", "## Labels", "## How to use", "## Training", "## Metrics", "## Environment"),
        "## Digest",
    ]
    for line in re.sub(r"\\.", "", body).splitlines():
        assert not line.startswith("|") or line.count("|") == 3, line


def test_a_trained_adapter_with_its_card_beside_it_is_still_the_adapter(
    runs: Runs, trained: Path, tmp_path: Path
) -> None:
    manifest = json.loads((trained / "manifest.json").read_text())
    text = model_card(replace(MADE, manifest=manifest, digest=manifest["digest"]))
    assert {each.metric_type: each.metric_value for each in read(text).eval_results} == {
        key: value for key, value in manifest["metrics"].items() if key != "examples"
    }
    assert str(runs.root.parent) not in text
    shutil.copytree(trained, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text(text, encoding="utf-8")
    assert Adapter.load(tmp_path / "copy").digest == manifest["digest"]


def test_an_adapter_that_peft_made_has_a_card_without_figures() -> None:
    unknown = dict.fromkeys(("task", "train_digest", "evaluation_digest", "seed", "backbone_digest"))
    text = card(unknown | {"method": "peft", "metrics": {}, "versions": {}, "environment": {}, "max_length": 0})
    assert read(text).eval_results is None
    assert "## Metrics" not in text
    assert "## Environment" not in text


def test_the_threshold_of_abstention_and_its_promise_are_told() -> None:
    calibration = {"texts": 1200, "answered": 900, "errors": 20}
    promise = {"error": 0.05, "confidence": 0.95, "threshold": 0.875, "calibration": calibration}
    objective = {"kind": "classes", "temperature": 1.0, "abstain_below": 0.875}
    text = card({"objective": objective, "training": {"abstain_error": 0.05, "abstention": promise}})
    assert "answers a text if its confidence is at least `0.875`" in text
    assert "with 95 % confidence: at most 5 % of the answers are wrong for texts like the 1,200 calibration" in text
    assert "900 were answered, 20 of them wrongly" in text
    nothing = card({"objective": objective | {"abstain_below": 2.0}})
    assert "answers no text" in nothing
    for malformed in (None, 3, [], {}, promise | {"calibration": {}}, promise | {"error": "few"}):
        text = card({"objective": objective, "training": {"abstention": malformed}})
        assert ("at least `0.875`" in text, "The promise" in text) == (True, False)
    assert "Texts without an answer" not in card()


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        ({"kind": "number", "mean": 1.5, "scale": 2.0}, "A number for each text:"),
        ({"kind": "labels", "thresholds": [0.25, 0.5]}, "Any number of these labels"),
    ],
)
def test_the_kind_of_task_is_told(objective: dict[str, Any], told: str) -> None:
    names = ["stars"] if objective["kind"] == "number" else ["bad", "good"]
    text = card({"objective": objective, "label_names": names, "metrics": {}})
    assert told in text
    assert "decode the outputs with `{" in text
