"""What `afina plan` foresees of a run that learns to write texts, against what the run then measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from afina import METHODS, Run
from afina.data.reading_options import ReadingOptions
from afina.data.tokenize import Encoded, encode
from afina.generating.generation import ContinuousBatch
from afina.generating.generation_memory import GenerationLoad
from afina.generating.next_token import OwnNextTokenModel
from afina.models.architectures import output_embedding_of
from afina.models.backbone import Backbone
from afina.models.decoding import Decoding
from afina.models.kernels.linear import can_pack
from afina.models.language_model import open_without_weights
from afina.models.manifest import read_manifest
from afina.studies.planning.forecast_runs import forecast_run
from afina.training.dry_run import Alive, _fake
from afina.training.settings import Training
from fakes import VOCABULARY, Backbones, configuration, save, sentences, write_csv
from language import OBJECTIVE, TEMPLATE, answer, opened

DATA = ReadingOptions(kind="text", label="summary")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [(text, answer(text)) for text, _ in sentences(60)]
    return str(write_csv(tmp_path_factory.mktemp("texts") / "rows.csv", rows, ("text", "summary")))


def run_of(backbones: Backbones, task: str, family: str, method: str, **changes: Any) -> Run:
    settings = {"epochs": 1, "batch_size": 8, "dtype": "float32", "learning_rate": 5e-3}
    hyperparameters = {"type": "MISS", "settings": {"r": 4}} if method == "peft" else {}
    return Run(
        backbone=str(backbones.path(family)),
        task=task,
        method=method,
        hyperparameters=hyperparameters,
        data=DATA,
        training=Training(**(settings | changes)),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method", "dtype"),
    [
        ("gpt2", "full", "float32"),
        ("gptj", "full", "bfloat16"),
        ("llama", "lora", "float32"),
        ("qwen3", "lora", "bfloat16"),
        ("gpt2", "prefix", "float32"),
        ("llama", "prompt", "bfloat16"),
        ("llama", "peft", "float32"),
        ("gpt2", "zero-shot", "float32"),
    ],
)
def test_a_forecast_is_what_the_run_measures(
    backbones: Backbones, task: str, tmp_path: Path, family: str, method: str, dtype: str
) -> None:
    check(run_of(backbones, task, family, method, dtype=dtype), tmp_path)


SETTINGS: dict[str, dict[str, Any]] = {
    "accumulated": {"accumulate": 2, "batch_size": 4},
    "in parts": {"token_budget": 100},
    "checkpointed": {"checkpointing": True, "accumulate": 2, "token_budget": 100},
}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "method"), [*zip(SETTINGS, ("lora", "full", "lora"), strict=True)])
def test_a_forecast_heeds_how_the_run_trains(
    backbones: Backbones, task: str, tmp_path: Path, case: str, method: str
) -> None:
    check(run_of(backbones, task, "gpt2", method, **SETTINGS[case]), tmp_path)


def check(run: Run, out: Path) -> None:
    """What is foreseen of a run, and what it then measures, are the same."""
    one, record = forecast_run(run, calibrate=False), run.execute(out)
    adapter = out / record.adapter
    assert (one.trainable, one.body, one.head) == (record.trainable, record.body, record.head)
    assert one.state_bytes == record.memory.state_bytes
    assert one.activation_tokens == record.memory.activation_tokens
    assert one.activation_bytes == record.memory.activation_bytes
    assert one.disk_bytes == (adapter / read_manifest(adapter).tensor_file).stat().st_size
    assert one.peak - one.terms.process >= one.state_bytes


@pytest.mark.slow
def test_activations_do_not_grow_with_the_vocabulary(backbones: Backbones, task: str, tmp_path: Path) -> None:
    words = backbones.tokenizer("gpt2")
    wide = save(configuration("gpt2", vocab_size=4 * VOCABULARY), words, tmp_path / "wide")
    few, many = (
        run_of(backbones, task, "gpt2", "lora").model_copy(update=each) for each in ({}, {"backbone": str(wide)})
    )
    one, other = (forecast_run(run, calibrate=False) for run in (few, many))
    assert other.activation_bytes == one.activation_bytes
    assert other.state_bytes - one.state_bytes == 4 * 3 * VOCABULARY * 32


def longest_first(prompts: Encoded) -> list[Any]:
    return sorted((prompts[index] for index in range(len(prompts))), key=lambda each: -len(each))


@pytest.mark.slow
@pytest.mark.parametrize(("beams", "method"), [(1, "prefix"), (3, None)])
def test_the_memory_of_generation_is_foreseen(backbones: Backbones, beams: int, method: str | None) -> None:
    backbone, most = Backbone.load(str(backbones.path("gpt2"))), 40
    adds = METHODS[method]() if method else None
    prompts = encode(backbone.tokenizer, [text for text, _ in sentences(30)], max_length=40, template=TEMPLATE)
    batch = ContinuousBatch[int](OwnNextTokenModel(opened(backbone, adds).eval()), ())  # no token ends an answer
    for number, prompt in enumerate(longest_first(prompts)):
        batch.add(number, prompt, Decoding(max_new_tokens=most, beams=beams))
    with Alive() as measured:
        while batch.active:
            batch.step()
    empty = open_without_weights(backbone.address, 1, OBJECTIVE.opening)
    if adds:
        empty.wrap(adds.attach)
    rehearsal = GenerationLoad(prompts, most, beams).rehearsal(empty.before, empty.layout)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        model = _fake(empty, METHODS["zero-shot"]()).eval()
        with Alive() as alive:
            rehearsal.run(model)
    assert 0.9 * measured.peak <= alive.peak <= 1.2 * measured.peak


@pytest.mark.slow
def test_the_copy_of_the_output_embedding_in_bfloat16_is_foreseen(backbones: Backbones) -> None:
    backbone = Backbone.load(str(backbones.path("gpt2")))
    prompts = encode(backbone.tokenizer, ["the soup"], max_length=40, template=TEMPLATE)
    peaks = {}
    for dtype in (torch.float32, torch.bfloat16):
        empty = open_without_weights(backbone.address, 1, OBJECTIVE.opening)
        rehearsal = GenerationLoad(prompts, 2, 1).rehearsal(empty.before, empty.layout)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
            model = _fake(empty.to(dtype), METHODS["zero-shot"]()).eval()
            with Alive() as alive:
                rehearsal.run(model)
        peaks[dtype] = alive.peak
        copied = can_pack(output_embedding_of(empty.model), dtype)
        assert copied == (dtype == torch.bfloat16 and torch.backends.mkldnn.is_available())
        assert not copied or alive.peak >= 2 * output_embedding_of(empty.model).weight.numel()
