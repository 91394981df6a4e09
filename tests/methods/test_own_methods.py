"""What a method has to implement; a stranger implements no more."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from afina import METHODS, Backbone, methods
from afina.data.batch import pack
from afina.methods import NEEDS_SETTINGS, entry_point_methods, make
from afina.methods.method import REQUIRED, Method
from fakes import opened


def public() -> set[str]:
    """Names that the base class defines or declares."""
    return {name for name in {*vars(Method), *Method.__annotations__} if not name.startswith("_")}


def test_a_method_has_to_implement_attach_and_to_state_three_words() -> None:
    assert Method.__abstractmethods__ == {"attach"}
    assert {name for name in public() if not hasattr(Method, name)} == set(REQUIRED)


@pytest.mark.parametrize("kind", [*METHODS.values(), *NEEDS_SETTINGS.values()], ids=lambda kind: str(kind.name))
def test_what_a_method_overrides_takes_what_the_base_class_says(kind: type[Method]) -> None:
    for name in public():
        given, expected = (inspect.getattr_static(one, name, None) for one in (kind, Method))
        if inspect.isfunction(expected):
            assert [*inspect.signature(given).parameters] == [*inspect.signature(expected).parameters], name


@dataclass(frozen=True)
class Biases(Method):
    """All that a stranger has to write."""

    name: ClassVar[str] = "biases"
    title: ClassVar[str] = "Biases"
    summary: ClassVar[str] = "the biases train"

    def attach(self, model: Any) -> Any:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith(".bias") or "score" in name)
        return model


class Entry:
    """An entry point of another package."""

    def __init__(self, loaded: type[Method]) -> None:
        self.name, self.value, self.loaded = loaded.name, f"somewhere:{loaded.__name__}", loaded

    def load(self) -> type[Method]:
        return self.loaded


def test_a_method_of_another_package_works_with_what_it_implements(
    gpt2: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(methods, "entry_points", lambda group: [Entry(Biases)])
    found, refused = entry_point_methods(METHODS)
    assert (found, refused) == ({"biases": Biases}, {})
    monkeypatch.setitem(METHODS, "biases", Biases)
    method = make("biases").for_family(gpt2.family)
    classifier = opened(gpt2, method)
    assert len(method.trainable(classifier.model)) == 14
    with torch.no_grad():
        for parameter in method.trainable(classifier.model).values():
            parameter.add_(0.1)
    again = opened(gpt2, method)
    method.restore(again.model, method.state(classifier.model))
    batch = pack([torch.arange(1, 6).numpy(), torch.arange(6, 9).numpy()])
    with torch.inference_mode():
        torch.testing.assert_close(again(batch), classifier(batch))
    method.accompany(classifier.model, gpt2, tmp_path)
    assert (list(tmp_path.iterdir()), method.tensor_file) == ([], "delta.safetensors")
