"""Methods of other packages: the one that the documentation shows works as any does; what is wrong is told."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from afina import METHODS, Backbone, methods
from afina.data.batch import pack
from afina.methods import NEEDS_SETTINGS, entry_point_methods, make
from afina.methods.lora import Lora
from afina.methods.method import REQUIRED, Method
from command import Command
from fakes import opened

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference" / "methods.md"


def shown(language: str, part: str) -> str:
    """The block of that language with that part in it."""
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (each for each in blocks if part in each)
    return str(block)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the documentation's package is installed in."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    (source / "afina_mlp_out.py").write_text(shown("python", "class MlpOut"), encoding="utf-8")
    (source / "pyproject.toml").write_text(shown("toml", "[build-system]"), encoding="utf-8")
    offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", target, source], check=True)
    return target


def run(installed: Path, *arguments: str) -> str:
    paths = os.pathsep.join([str(installed), *sys.path])
    command = [sys.executable, "-m", "afina", *arguments]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
def test_the_package_of_the_documentation_brings_a_method_to_every_command(
    installed: Path, gpt2: Backbone, toy: str, tmp_path: Path
) -> None:
    assert json.loads(run(installed, "methods", "--json"))["mlp-out"]["defaults"] == {"output": ""}
    assert json.loads(run(installed, "params", "--backbone", "gpt2", "--json"))["methods"]["mlp-out"]["trainable"] == (
        12 * (4 * 768 * 768 + 768) + 2 * 768
    )
    few = ["--task", toy, "--backbone", gpt2.address, "--set", "max_steps=2", "--set", "head=random"]
    run(installed, "train", *few, "--method", "mlp-out", "--out", str(tmp_path / "out"))
    (label,) = run(installed, "predict", str(tmp_path / "out"), "a warm soup").splitlines()
    assert json.loads(label)["label"] in ("0", "1", "bad", "good")


class Entry:
    """An entry point that loads what it is given."""

    def __init__(self, name: str, loaded: Any) -> None:
        self.name, self.value, self.loaded = name, f"somewhere:{name}", loaded

    def load(self) -> Any:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


class Nameless(Lora):
    name = "Not a key"


class Unfinished(Method):
    name = "unfinished"


class Undescribed(Lora):
    name = "undescribed"
    title = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("loaded", "why"),
    [
        (ImportError("no module named nonsense"), "cannot be imported (ImportError: no module named nonsense)"),
        (SyntaxError("invalid syntax"), "cannot be imported (SyntaxError: invalid syntax)"),
        (dict, "no subclass of afina.methods.method.Method"),
        (Lora(), "no subclass of afina.methods.method.Method"),
        (Unfinished, "lacks attach"),
        (Undescribed, "lacks title"),
        (Nameless, "its name 'Not a key' is no key: lower-case letters, digits and hyphens"),
        (Lora, "there is a method lora already"),
    ],
)
def test_what_is_no_method_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch, loaded: Any, why: str) -> None:
    monkeypatch.setattr(methods, "entry_points", lambda group: [Entry("theirs", loaded)])
    assert entry_point_methods(METHODS) == ({}, {"theirs": f"somewhere:theirs: {why}"})


def test_a_refused_method_is_told_where_methods_are_listed_and_where_it_is_named(
    afina: Command, monkeypatch: pytest.MonkeyPatch, toy: str
) -> None:
    monkeypatch.setattr("afina.methods.REFUSED", {"theirs": "somewhere:theirs: lacks attach"})
    assert "Cannot be used: method theirs of another package: somewhere:theirs: lacks attach." in afina("methods").err
    answer = afina("train", "--task", toy, "--method", "theirs")
    assert "method theirs of another package cannot be used: somewhere:theirs: lacks attach." in answer.error


# What a method has to implement


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


def test_a_method_of_another_package_works_with_what_it_implements(
    gpt2: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(methods, "entry_points", lambda group: [Entry("biases", Biases)])
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
