"""What differs between two versions: fields of their manifests, sizes and digests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from afina.data.reading_options import ReadingOptions
from afina.errors import CorruptAdapter
from afina.models.manifest import Manifest
from afina.store.diff import diff, differing
from afina.store.versions import Blob, Version


def invented(**changes: Any) -> Manifest:
    given: dict[str, Any] = {"method": "lora", "hyperparameters": {}, "label_names": ("bad", "good")}
    given |= {"backbone": "here", "backbone_digest": "sha256:one", "tokenizer_digest": None, "family": "gpt2"}
    return Manifest(**(given | {"tensor_file": "t", "tensors_digest": "sha256:t", "max_length": 8} | changes))


def changed(manifest: Manifest, **changes: Any) -> Manifest:
    return manifest.model_copy(update=changes)


def version(number: int, manifest: Manifest, size: int = 10) -> Version:
    content = manifest.model_dump(mode="json") | {"digest": manifest.digest}
    parts = {"body": Blob("sha256:b", size)}
    return Version("acme/reviews", number, manifest.digest, "2027-01-31", None, None, content, parts)


def test_versions_differ_in_digests_sizes_and_fields() -> None:
    pair = version(1, invented()), version(2, invented(method="full", label_names=("good", "new")), size=20)
    found = diff(*pair)
    told = found.as_json()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["first"], told["second"], told["bytes"]) == ("acme/reviews@1", "acme/reviews@2", [10, 20])
    assert told["digests"] == [each.digest for each in pair]
    assert told["fields"] == {"others": {"method": ["lora", "full"]}, "labels": {"added": ["new"], "removed": ["bad"]}}
    assert (told["notes"], told["flips"]) == ([], None)


def test_the_same_adapter_and_an_unknown_backbone_are_noted() -> None:
    same = version(1, invented())
    assert diff(same, version(2, invented(seed=1))).notes == ("Both are the same adapter.",)
    (note,) = diff(same, version(2, invented(backbone_digest=None))).notes
    assert note.startswith("An adapter states no digest of its backbone")
    words = version(2, invented(backbone_digest=None, vocabulary_digest="sha256:v"))
    assert diff(same, words).notes == ()


def test_a_changed_manifest_is_not_compared() -> None:
    forged = version(1, invented())
    forged.manifest["label_names"].reverse()  # type: ignore[index]
    with pytest.raises(CorruptAdapter, match="acme/reviews@1"):
        diff(forged, version(2, invented()))


def test_common_labels_in_another_order_are_told() -> None:
    first, second = invented(label_names=("a", "b", "c")), invented(label_names=("c", "a", "b"))
    assert differing(first, second) == {"labels": {"reordered": [["a", "b", "c"], ["c", "a", "b"]]}}


def test_every_field_that_says_what_an_adapter_is_and_differs_is_told_in_its_group() -> None:
    first = invented(
        seed=0, task="t", data=ReadingOptions(text="a"), metrics={"accuracy": 0.5, "f1": 1.0}, versions={"x": "1"}
    )
    second = changed(
        first,
        seed=1, task="u", data=ReadingOptions(label="b"), metrics={"accuracy": 0.6, "f1": 1.0}, versions={"x": "2"},
        hyperparameters={"lora": {"r": 4}, "bitfit": {}}, training={"steps": 3}, max_length=9, template="{text}?",
        words={"bad": ("no",)}, offset=(0.0, 1.0), objective={"kind": "classes", "temperature": 2.0},
        train_digest="sha256:t", tokenizer_digest="sha256:k",
    )  # fmt: skip
    assert differing(first, second) == {
        "metrics": {"accuracy": [0.5, 0.6]},
        "hyperparameters": {"lora.r": [None, 4], "bitfit": [None, {}]},
        "training": {"steps": [None, 3]},
        "data": {
            "task": ["t", "u"],
            "data.text": ["a", None],
            "data.label": [None, "b"],
            "train_digest": [None, "sha256:t"],
            "seed": [0, 1],
        },
        "backbone": {"tokenizer_digest": [None, "sha256:k"]},
        "others": {
            "template": [None, "{text}?"],
            "words": [None, {"bad": ["no"]}],
            "offset": [None, [0.0, 1.0]],
            "objective": [None, {"kind": "classes", "temperature": 2.0}],
            "max_length": [8, 9],
        },
        "versions": {"x": ["1", "2"]},
    }
    assert differing(first, first) == {}


def test_what_is_no_number_is_told_in_json() -> None:
    first = invented(metrics={"loss": float("nan")})
    assert differing(first, first) == {}
    second = changed(first, metrics={"loss": 1.0}, training={"rates": [0.0, float("inf")]})
    assert differing(first, second)["metrics"] == {"loss": [None, 1.0]}
    assert differing(first, second)["training"] == {"rates": [None, [0.0, None]]}
