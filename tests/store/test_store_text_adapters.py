"""Adapters that answer with texts: published, shown, compared, checked, exported, and opened by other libraries."""

from __future__ import annotations

import contextlib
import io
import re
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from afina import Adapter, AdapterStore, Backbone, Predictor, digest
from afina.errors import WrongBackbone
from afina.models.manifest import Manifest
from afina.predicting import golden_test
from afina.store.model_card import model_card
from afina.store.versions import Version
from command import Command
from crowd import adapter
from fakes import write_csv
from raises import raises
from servers import TOLD

TEXT = "the soup was bright."


class Kept(NamedTuple):
    """A store with two versions of an adapter that tells, and their directories."""

    store: AdapterStore
    first: Path
    second: Path


def saved(gpt2: Backbone, path: Path, method: str, settings: Any = None, **changes: Any) -> Path:
    """The directory of an adapter that tells, with its golden probe."""
    made = adapter(gpt2, method, settings, **(TOLD | changes))
    predictor: Any = Predictor.of(made, gpt2)
    outputs = golden_test.outputs(predictor.classifier, gpt2, predictor.max_length, predictor.template)
    manifest = made.manifest.model_copy(update={"probe": tuple(map(tuple, outputs))}).sealed()
    beside = partial(predictor.method.accompany, predictor.classifier.model, gpt2)
    Adapter(manifest, made.tensors).save(path, beside)
    return path


@pytest.fixture(scope="module")
def kept(gpt2: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    tmp_path = tmp_path_factory.mktemp("kept")
    store, metrics = AdapterStore(tmp_path / "store", who="ada"), {"bleu": 0.1, "chrf": 0.2, "rouge_l": 0.3}
    paths = [saved(gpt2, tmp_path / f"told-{n}", "lora", {"r": 2}, seed=n, metrics=metrics) for n in (1, 2)]
    for path in paths:
        store.publish(path, "acme/told", message="why")
    return Kept(store, *paths)


def test_a_version_passes_its_golden_test_of_log_probabilities(kept: Kept) -> None:
    found = kept.store.check("acme/told@1")
    assert found.passed
    assert found.difference == pytest.approx(0, abs=1e-6)
    assert kept.store.verify() == []


@pytest.mark.parametrize("method", ["full", "prefix", "lora+bitfit"])
def test_an_adapter_of_any_method_is_kept_whole(gpt2: Backbone, tmp_path: Path, method: str) -> None:
    store = AdapterStore(tmp_path / "store", who="ada")
    store.publish(saved(gpt2, tmp_path / "made", method), "acme/told", message="why")
    assert store.check("acme/told@1").passed
    store.export("acme/told@1", str(tmp_path / "out"))
    (expected,), (found,) = (Predictor.load(tmp_path / name)([TEXT]) for name in ("made", "out"))
    assert found == expected
    assert "AutoTokenizer" in (tmp_path / "out" / "README.md").read_text("utf-8") or method != "full"


def test_a_bundle_and_an_exported_directory_come_back_with_the_same_digest(kept: Kept, tmp_path: Path) -> None:
    expected = kept.store.show("acme/told@1").digest
    for name in ("exported", "exported.tar"):
        kept.store.export("acme/told@1", str(tmp_path / name))
        made = kept.store.import_from(str(tmp_path / name), f"acme/{name.replace('.', '-')}", message="again")
        assert made.version.digest == expected


def test_show_puts_the_usual_metrics_first_and_names_answers(kept: Kept, afina: Command) -> None:
    shown = afina("store", "--store", str(kept.store.address.directory), "show", "acme/told@1").out
    assert re.search(r"^answers +told$", shown, re.MULTILINE)
    assert re.search(r"^metrics +rouge_l 0.3000, bleu 0.1000, chrf 0.2000$", shown, re.MULTILINE)
    assert "labels" not in shown


def test_diff_shows_the_changed_answers_line_by_line(kept: Kept, afina: Command, tmp_path: Path) -> None:
    rows = [(TEXT, "a bright soup"), (TEXT, "soup"), ("What a warm ferry!", "warm")]
    task = str(write_csv(tmp_path / "task.csv", rows, ("text", "told")))
    store = ("store", "--store", str(kept.store.address.directory))
    shown = afina(*store, "diff", "acme/told@1", "acme/told@2", "--task", task, "--target", "told").out
    assert "2 of 2 answers differ; equal to a reference: 0 no longer, 0 only now" in shown
    assert f"  {TEXT}\n    right   a bright soup (1 of 2)\n    before  " in shown
    (before,) = Predictor.load(kept.first)([TEXT])
    assert " ".join(str(before["answer"]).split())[:40] in shown


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's use of transformers
@pytest.mark.parametrize("merged", [False, True])
def test_the_code_of_the_model_card_gives_the_adapters_answer(
    kept: Kept, gpt2: Backbone, tmp_path: Path, *, merged: bool
) -> None:
    kept.store.export("acme/told@1", str(tmp_path / "out"), merged=merged)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace('"BACKBONE"', repr(gpt2.address)).replace('"DIRECTORY"', repr(str(tmp_path / "out")))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code.replace('"a text"', repr(TEXT)), {})
    (answer,) = Predictor.load(kept.first)([TEXT])
    assert said.getvalue() == f"{answer['answer']}\n"


def test_the_model_card_says_how_to_generate(gpt2: Backbone) -> None:
    decoding = {"beams": 4, "length_penalty": 0.5, "no_repeat_ngram": 3, "stop": ["\n"]}
    told = TOLD | {"objective": {"kind": "text", "answer_tokens": 8, "chat": True, "decoding": decoding}}
    made: Manifest = adapter(gpt2, "lora", {"r": 2}, max_length=64, **told).manifest
    card = model_card(Version("acme/told", 1, "sha256:a", "now", None, "why", made.model_dump(mode="json"), {}))
    for expected in (
        "pipeline_tag: text-generation",
        "## Answers\n\nA text for each text.\n\n## How to use",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        'prompt = \'{text}\\nTold:\'.replace("{text}", "a text")',
        "add_special_tokens=False",
        "max_new_tokens=8, do_sample=False, num_beams=4, length_penalty=0.5, no_repeat_ngram_size=3, "
        "stop_strings=['\\n'], tokenizer=tokenizer, eos_token_id=end",
        "- cut the text so that the prompt has at most 64 tokens",
        '| template | `"{text}\\nTold:"` |',
        "| digest of the chat template | `unknown` |",
    ):
        assert expected in card, expected
    assert "decode the outputs" not in card


def test_a_tensor_of_another_backbone_is_refused(gpt2: Backbone, kept: Kept, tmp_path: Path) -> None:
    made = Adapter.load(kept.first)
    name = next(name for name in made.tensors if "lora_A" in name)
    tensors = dict(made.tensors) | {name: made.tensors[name][:, :-1].contiguous()}
    manifest = made.manifest.model_copy(update={"tensors_digest": digest.of_tensors(tensors)}).sealed()
    Adapter(manifest, tensors).save(tmp_path / "other")
    with raises(WrongBackbone, code="backbone.mismatch"):
        kept.store.publish(tmp_path / "other", "acme/other", message="why")


@pytest.mark.slow
def test_an_adapter_that_peft_saved_for_a_language_model_is_imported_and_answers(kept: Kept, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    kept.store.export("acme/told@1", str(foreign))
    for name in ("manifest.json", "README.md"):
        (foreign / name).unlink()
    made = kept.store.import_from(str(foreign), "acme/foreign", message="by peft")
    assert made.version.manifest["objective"] == {"kind": "text"}
    ours = Predictor.load(kept.first)
    theirs = Predictor.load(kept.store.adapter("acme/foreign@1"))
    prompt = f"{TEXT}\nTold:"
    (expected,), (found,) = ours([TEXT]), theirs([prompt])
    assert str(found["answer"]).startswith(str(expected["answer"]))
