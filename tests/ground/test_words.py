"""Words of errors: pydantic's types of error, and names that are nearly right."""

from __future__ import annotations

from typing import Any, Literal, get_args

import pytest
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import core_schema

from afina import schema
from afina.data.kinds import KINDS
from afina.device import DTYPES
from afina.errors import CannotWrite, UnknownName, nearest
from afina.methods import METHODS
from afina.models.backbone_spec import PACKAGED
from afina.schema import WrongValue
from afina.stats.metrics import METRICS
from afina.studies.study_file import presets


class Part(BaseModel):
    size: int = Field(default=1, ge=1)


class Whole(BaseModel):
    seeds: tuple[int, ...] = ()
    names: list[str] = Field(default_factory=list, max_length=2)
    rate: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    share: float = Field(default=0.5, lt=1)
    name: str = Field(default="x", min_length=1, pattern="^[a-z]*$")
    sure: bool = False
    kind: Literal["classes", "number"] = "classes"
    part: Part = Part()
    tables: dict[str, int] = Field(default_factory=dict)


@pytest.mark.parametrize(
    "given",
    [
        {"seeds": 1}, {"seeds": [0.5]}, {"seeds": ["x"]}, {"seeds": [None]}, {"seeds": [10**30 + 0.5]},
        {"names": "a"}, {"names": ["a", "b", "c"]}, {"names": [1]}, {"rate": "x"}, {"rate": 0}, {"rate": float("nan")},
        {"share": 1}, {"name": ""}, {"name": 3}, {"name": "A"}, {"sure": "x"}, {"sure": []}, {"kind": "x"},
        {"part": 3}, {"part": {"size": 0}}, {"tables": [1]}, {"tables": {"a": "x"}},
    ],
    ids=str,
)  # fmt: skip
def test_an_invalid_value_is_told_without_the_words_of_pydantic(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        Whole(**given)
    said = WrongValue.of(error.value).message
    assert said.startswith("expected ")
    assert not any(word in said for word in ("input", "Input", "valid ", "tuple", "dictionary", "instance", "string"))


def test_the_types_of_error_that_are_worded_are_types_of_pydantic() -> None:
    assert schema._EXPECTED.keys() <= set(get_args(core_schema.ErrorType))


@pytest.mark.parametrize(
    ("given", "known", "meant"),
    [
        ("acc", METRICS, "accuracy"), ("Accuracy", METRICS, "accuracy"), ("AUC", METRICS, "auroc"),
        ("F1", METRICS, "f1"),
        ("balanced-accuracy", METRICS, "balanced_accuracy"), ("ROUGE-L", METRICS, "rouge_l"), ("MSE", METRICS, "rmse"),
        ("LORA", METHODS, "lora"), ("linear-probe", METHODS, "linear_probe"), ("probe", METHODS, "linear_probe"),
        ("zeroshot", METHODS, "zero-shot"), ("IA3", METHODS, "ia3"), ("fine-tuning", METHODS, "full"),
        ("lorra", METHODS, "lora"), ("Quickstart", presets(), "quickstart"), ("Embedded", PACKAGED, "embedded"),
        ("MiniLM", PACKAGED, "minilm"), ("SmolLM2-135M", PACKAGED, "embedded"), ("regression", KINDS, "number"),
        ("multi-label", KINDS, "labels"), ("Classes", KINDS, "classes"), ("fp32", DTYPES, "float32"),
        ("BF16", DTYPES, "bfloat16"), ("half", DTYPES, "bfloat16"), ("qqq", METHODS, None), ("", METHODS, None),
    ],
)  # fmt: skip
def test_a_name_that_is_nearly_right_is_suggested(given: str, known: Any, meant: str | None) -> None:
    assert nearest(given, known) == meant
    assert UnknownName("name", given, known).fields["nearest"] == meant


def test_a_baseline_is_no_method_and_no_other_method_is_suggested() -> None:
    for name in ("tfidf", "TF-IDF", "majority"):
        error = UnknownName("method", name, METHODS)
        assert error.fields["nearest"] is None
        assert "baseline" in str(error)
        assert "Did you mean" not in str(error)


def test_only_a_full_disk_asks_for_space() -> None:
    assert "Free disk space" in str(CannotWrite("a", "the disk is full", full=True))
    assert "Free disk space" not in str(CannotWrite("a", "it is a directory"))
