"""A study of a text task: metrics of the record, their signatures, and the comparison of two methods."""

from __future__ import annotations

import json

import numpy as np
import pytest

from afina import Results, Study
from afina.stats.metrics import METRICS, of_kind
from afina.stats.overlap import signatures
from afina.studies.runs.record import Record
from command import HereExecutor
from fakes import Backbones, sentences, write_csv

ROWS = [(text, " ".join(text.split()[:3])) for text, _ in sentences(60)]


@pytest.fixture(scope="module")
def results(backbones: Backbones, tmp_path_factory: pytest.TempPathFactory) -> Results:
    where = tmp_path_factory.mktemp("texts")
    task = write_csv(where / "rows.csv", ROWS, ("text", "summary")).rename(where / "rows.csv")
    content = {
        "name": "texts",
        "backbone": str(backbones.path("gpt2")),
        "task": str(task),
        "data": {"kind": "text", "label": "summary"},
        "train": {"max_steps": 6, "batch_size": 8, "learning_rate": 5e-3, "dtype": "float32"},
        "methods": {"full": {}, "lora": {}},
    }
    return Study.parse(content, "here").run(where / "out", executor=HereExecutor())


def test_a_record_has_every_metric_of_its_predictions(results: Results) -> None:
    for result in results.results:
        assert tuple(result.record.metrics) == of_kind("text")
        assert np.isfinite(list(result.record.metrics.values())).all()
        result.check("results")
        for name, figure in result.record.metrics.items():
            if METRICS[name].values:
                assert result.values(name).mean() == pytest.approx(figure)


def test_a_record_has_sacrebleus_signatures_which_no_other_kind_writes(results: Results) -> None:
    made = results.results[0]
    assert made.record.signatures == signatures(made.targets)
    assert "nrefs:1" in made.record.signatures["bleu"]
    written = made.record.model_dump_json()
    assert Record.model_validate_json(written).signatures == made.record.signatures
    assert "signatures" not in json.loads(made.record.model_copy(update={"signatures": None}).model_dump_json())


def test_methods_are_compared_by_the_headline_metric(results: Results) -> None:
    first, second = results.results
    assert first.record.metric == "rouge_l"
    assert first.scores.mean() != second.scores.mean()
