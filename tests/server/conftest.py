"""Servers of tests; what they are is in `servers.py`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from afina import Adapter, Backbone
from crowd import adapter
from fakes import Backbones
from servers import PRICE, TAGS, Listening, Served, listening, probed, serving

CHAT = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture(scope="session")
def chatting(backbones: Backbones, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The tiny GPT-2 with a chat template."""
    path = tmp_path_factory.mktemp("chatting") / "gpt2"
    shutil.copytree(backbones.path("gpt2"), path)
    words = AutoTokenizer.from_pretrained(path)
    words.chat_template = CHAT
    words.save_pretrained(path)
    return Backbone.load(str(path))


@pytest.fixture(scope="session")
def crowd(gpt2: Backbone) -> dict[str, Adapter]:
    """By what they are published as; those of a client have another number of labels each."""
    made = {
        "acme/reviews@1": adapter(gpt2, "lora", {"r": 2}, seed=1),
        "acme/reviews@2": adapter(gpt2, "lora", {"r": 4}, seed=2),
        "acme/tags@1": adapter(gpt2, "bitfit", seed=3, **TAGS),
        "acme/price@1": adapter(gpt2, "ia3", seed=4, **PRICE),
        "bolt/mail@1": adapter(gpt2, "lora", {"r": 2}, seed=5, labels=("spam", "ham", "news")),
    }
    return {name: probed(one, gpt2) for name, one in made.items()}


@pytest.fixture
def serve(gpt2: Backbone, crowd: dict[str, Adapter], tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Begin a server of a test's own, with settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving(gpt2, crowd, tmp_path, **settings))


@pytest.fixture
def listen(gpt2: Backbone, crowd: dict[str, Adapter], tmp_path: Path) -> Iterator[Callable[..., Listening]]:
    """Likewise, one on a port."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(listening(gpt2, crowd, tmp_path, **settings))


@pytest.fixture(scope="module")
def served(gpt2: Backbone, crowd: dict[str, Adapter], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for tests that leave it as it is."""
    with serving(gpt2, crowd, tmp_path_factory.mktemp("served")) as made:
        yield made
