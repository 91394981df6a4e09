"""afina compares ways of adapting a pretrained language model to a text task, with their costs and intervals.

The names in `__all__` are the public library. Each name is imported on first use (PEP 562), so `import afina` is fast
and the command line starts without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from afina import repr_html

__version__ = "0.2.0"

_HOMES = {
    "Adapter": "afina.models.adapter",
    "AdapterStore": "afina.store.adapter_store",
    "AfinaError": "afina.errors",
    "Backbone": "afina.models.backbone",
    "Classifier": "afina.models.classifier",
    "Engine": "afina.engine.engine",
    "Lines": "afina.report.progress",
    "METHODS": "afina.methods",
    "MarkedText": "afina.pages.marked_text",
    "Predictor": "afina.predicting.predictor",
    "Record": "afina.studies.runs.record",
    "Results": "afina.studies.results",
    "Run": "afina.studies.runs.run",
    "Study": "afina.studies.study",
    "Task": "afina.data.task",
    "TextClassifier": "afina.estimators.estimator",
    "TextRegressor": "afina.estimators.estimator",
    "TokenClassifier": "afina.estimators.estimator",
    "next_texts": "afina.studies.labelling.next_texts",
    "doubts": "afina.studies.labelling.find_doubts",
    "recommend": "afina.studies.choosing.recommend",
}

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from afina.data.task import Task as Task
    from afina.engine.engine import Engine as Engine
    from afina.errors import AfinaError as AfinaError
    from afina.estimators.estimator import TextClassifier as TextClassifier
    from afina.estimators.estimator import TextRegressor as TextRegressor
    from afina.estimators.estimator import TokenClassifier as TokenClassifier
    from afina.methods import METHODS as METHODS
    from afina.models.adapter import Adapter as Adapter
    from afina.models.backbone import Backbone as Backbone
    from afina.models.classifier import Classifier as Classifier
    from afina.pages.marked_text import MarkedText as MarkedText
    from afina.predicting.predictor import Predictor as Predictor
    from afina.report.progress import Lines as Lines
    from afina.store.adapter_store import AdapterStore as AdapterStore
    from afina.studies.choosing.recommend import recommend as recommend
    from afina.studies.labelling.find_doubts import doubts as doubts
    from afina.studies.labelling.next_texts import next_texts as next_texts
    from afina.studies.results import Results as Results
    from afina.studies.runs.record import Record as Record
    from afina.studies.runs.run import Run as Run
    from afina.studies.study import Study as Study


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'afina' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _as_html(results: Any) -> str:
    from afina.report.report import Report

    return Report.of(results).inline()


def _make_watcher() -> Any:
    from afina.notebook.display import watcher

    return watcher()


repr_html.register(results_as_html=_as_html, make_watcher=_make_watcher)
