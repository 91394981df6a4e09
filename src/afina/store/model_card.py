"""Make the model card of a version from its manifest: a `README.md` in the Hub's format.

The model card shows only the last part of the path of a directory, such as the backbone's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import isnan
from pathlib import Path
from typing import Any

from afina import hub
from afina.data.addresses import GLUE, HUB, SST2, named
from afina.data.readers.hub_datasets import REPOSITORY
from afina.models.adapter import PEFT_TENSORS
from afina.models.backbone_spec import PACKAGED, RANDOM
from afina.models.manifest import Manifest
from afina.repr_html import figure
from afina.stats.metrics import METRICS
from afina.store import card_kinds
from afina.store.versions import Version

_PEFT, _TRANSFORMERS, _AFINA = "peft", "transformers", "afina"
_WHOLE = "model.safetensors"
"""The name of the tensor file of an adapter that is a whole model."""

_HUB_NAME = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*(?:@[\w./-]+)?", re.ASCII)
_PATH = re.compile(r"(?:/|~|\.\.?/|[A-Za-z]:[\\/]|\\\\|file:)", re.ASCII)
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-!|~>$])")


def model_card(version: Version, *, merged: bool = False) -> str:
    """Return the model card of a version in Markdown.

    Args:
        merged: whether the card describes the backbone with the adapter merged into its weights.

    Raises pydantic's ValidationError if the manifest is malformed.
    """
    made, message = _read(version.manifest), version.why or ""
    made = made.model_copy(update={"tensor_file": _WHOLE}) if merged else made
    joined = "merged into" if merged else "on"
    backbone = f" {joined} {_code(_model(made.backbone))}" if made.backbone else ""
    added = f"Added {_code(version.created)}" + (f" by {_escaped(version.who)}" if version.who else "")
    about = [
        f"{card_kinds.of(made).title}: an adapter of method {_code(made.method)}{backbone}, version "
        f"{version.number} of {_code(version.name)} in a store of afina.",
        f"{added}{f': {_escaped(message)}' if message.strip() else '.'}",
    ]
    parts = [
        f"# {_escaped(f'{version.name}, version {version.number}')}",
        *about,
        *_labels(made),
        *_usage(made, merged),
        *_abstention(made),
        *_training(made),
        *_metrics(made),
        *_environment(made),
        "## Digest",
        f"{_code(version.digest)}, "
        + (
            "of the adapter that was merged; these files are not checked against it."
            if merged
            else "of everything that the answers depend on; afina checks the files against it when it opens them."
        ),
    ]
    return _front_matter(made, str(version)) + "\n" + "\n\n".join(parts) + "\n"


def _read(manifest: Mapping[str, Any]) -> Manifest:
    return Manifest.model_validate({key: value for key, value in manifest.items() if key != "digest"})


def _front_matter(made: Manifest, name: str) -> str:
    figures = {key: value for key, value in made.metrics.items() if key in METRICS and not isnan(value)}
    figures = figures if made.task else {}
    kind, config = _dataset(made.task or "")
    tag = card_kinds.of(made).pipeline_tag
    at_hub = made.backbone is not None and not _is_local(made.backbone)
    results = [
        {
            "task_type": tag,
            "dataset_type": kind,
            "dataset_name": _texts(made.task),
            "dataset_config": config,
            "metric_type": key,
            "metric_value": value,
            "metric_name": METRICS[key].words,
        }
        for key, value in figures.items()
    ]
    facts = {
        "base_model": str(made.backbone).partition("@")[0] if at_hub else None,
        "datasets": [kind] if config or (made.task or "").startswith(HUB) else None,
        "library_name": _library(made),
        "pipeline_tag": tag,
        "tags": ["afina", made.method, *([made.family] if made.family else [])],
        "metrics": list(figures) or None,
        "model_name": name,
    }
    return hub.front_matter(facts, results)


def _library(made: Manifest) -> str:
    """Return the `library_name` for the Hub's metadata: the library that reads an adapter's files, such as peft."""
    return {PEFT_TENSORS: _PEFT, _WHOLE: _TRANSFORMERS}.get(made.tensor_file, _AFINA)


def _labels(made: Manifest) -> Iterator[str]:
    kind = card_kinds.of(made)
    yield f"## {kind.heading}"
    yield kind.labels
    if names := kind.rows(made.label_names):
        yield "\n".join(f"{index}. {_escaped(label)}" for index, label in enumerate(names))


def _usage(made: Manifest, merged: bool) -> Iterator[str]:
    library, kind = _library(made), card_kinds.of(made)
    local = made.backbone is None or _is_local(made.backbone)
    asks = local and made.backbone not in PACKAGED and made.vocabulary_digest is None
    named_ = f", `BACKBONE` for one of {_code(_model(made.backbone))}" if made.backbone and local else ""
    if made.backbone is not None and made.backbone in PACKAGED:
        named_ = (
            f", `BACKBONE` for the directory of {_code(made.backbone)}, in afina {_code(_directory(made.backbone))}"
        )
    yield "## How to use"
    yield f"`DIRECTORY` stands for a local copy of these files{'' if merged else named_}."
    if not merged:
        yield f'```sh\nafina predict DIRECTORY "a text"{" --backbone BACKBONE" if asks else ""}\n```'
    if library == _PEFT:
        repository, _, revision = ("BACKBONE" if local else str(made.backbone)).partition("@")
        base = f'"{repository}"' + (f', revision="{revision}"' if revision else "")
        yield _python(
            f"from peft import PeftModel\nfrom transformers import {kind.imports}",
            f'base = {kind.base(base, made)}\nmodel = PeftModel.from_pretrained(base, "DIRECTORY")',
            kind.answering(made, base) if kind.answering else "",
        )
    elif library == _TRANSFORMERS:
        yield _python(
            f"from transformers import {kind.imports}",
            f'model = {kind.auto_class}.from_pretrained("DIRECTORY")',
            kind.answering(made, '"DIRECTORY"') if kind.answering else "",
        )
    if library != _AFINA and (held := list(_beside(made))):
        yield f"With this code, you need to do yourself what afina does beside the model:\n\n{_bullets(held)}"


def base_for_peft(manifest: Mapping[str, Any]) -> str | None:
    """Return a sentence on how to give peft the backbone, if peft cannot open the backbone's address; else None."""
    made = _read(manifest)
    if made.tensor_file != PEFT_TENSORS or made.backbone is None:
        return None
    if made.backbone not in PACKAGED and not made.backbone.startswith(RANDOM):
        return None
    base = card_kinds.of(made).base(_directory(made.backbone), made)
    return (
        f"peft and AutoPeftModel cannot open the base model {made.backbone!r}, an address of afina. In Python, "
        f"give peft {base} as the base."
    )


def _directory(backbone: str) -> str:
    return f"Backbone.load({backbone!r}).path"


def _python(imported: str, *parts: str) -> str:
    code = "\n".join(part for part in parts if part)
    return f"```python\n{imported}\n\n{code}\n```"


def _beside(made: Manifest) -> Iterator[str]:
    """Yield the steps of prediction, such as adding an offset, that users of other libraries have to do themselves."""
    kind = card_kinds.of(made)
    long = kind.long_texts.format(most=made.max_length)
    if kind.answering:
        if made.max_length:
            yield long
        return
    if made.template is not None:
        yield f"put each text into the template {_code(made.template)}"
    if made.offset is not None:
        yield f"add the offset {_code(_json(made.offset))} to the logits"
    if more := {key: value for key, value in (made.objective or {}).items() if key != "kind"}:
        yield f"decode the outputs with {_code(_json(more))}"
    if made.max_length:
        yield long


def _abstention(made: Manifest) -> Iterator[str]:
    """Yield the threshold of abstention, and what the training promised for it; nothing if every text is answered."""
    threshold = (made.objective or {}).get("abstain_below")
    if threshold is None:
        return
    yield "## Texts without an answer"
    if threshold > 1:
        yield "The adapter answers no text, because no confidence kept the promise of the training."
    else:
        yield (
            f"The adapter answers a text if its confidence is at least {_code(_json(threshold))}. The other texts are "
            'not answered (`"answered": false`), and their label is a best guess.'
        )
    promise: Any = made.training.get("abstention")
    with suppress(KeyError, TypeError, ValueError):  # the manifest may be of another program
        texts, answered, errors = (int(promise["calibration"][name]) for name in ("texts", "answered", "errors"))
        yield (
            f"The promise, with {100 * float(promise['confidence']):.3g} % confidence: at most "
            f"{100 * float(promise['error']):.3g} % of the answers are wrong for texts like the {texts:,} calibration "
            f"texts, which were not trained on. Of the calibration texts, {answered:,} were answered, {errors:,} of "
            "them wrongly. For other texts, the promise need not hold."
        )


def _training(made: Manifest) -> Iterator[str]:
    rows = [
        ("method", _code(made.method)),
        ("hyperparameters", _code(_json(_public(made.hyperparameters))) if made.hyperparameters else ""),
        ("backbone", _code(_model(made.backbone))),
        ("digest of the backbone", _code(made.backbone_digest)),
        ("digest of the tokenizer", _code(made.tokenizer_digest)),
        ("digest of the chat template", _code(card_kinds.chat_template(vars(made)))),
        ("longest text, in tokens", f"{made.max_length:,}" if made.max_length else ""),
        ("template", _code(_json(made.template) if "\n" in (made.template or "") else made.template)),
        ("task", _code(_texts(made.task))),
        ("how it was read", _code(_json(_public(made.data.given, files=True))) if made.data.given else ""),
        ("digest of the training texts", _code(made.train_digest)),
        ("digest of the evaluation texts", _code(made.evaluation_digest)),
        ("seed", "" if made.seed is None else str(made.seed)),
        *((_escaped(key), _code(_json(_public(value)))) for key, value in made.training.items() if value is not None),
    ]
    yield "## Training"
    yield _table(("field", "value"), [row for row in rows if row[1]])


def _metrics(made: Manifest) -> Iterator[str]:
    if made.metrics:
        yield "## Metrics"
        yield (
            f"On the evaluation texts of {_code(_texts(made.task))}:"
            if made.task
            else "As the author of the adapter stated:"
        )
        rows = [
            (_called(key, made), figure(value)) if key in METRICS else (key, f"{value:,.10g}")
            for key, value in sorted(made.metrics.items(), key=lambda one: card_kinds.of(made).place(one[0]))
        ]
        yield _table(("metric", "value"), [(_escaped(key), figure) for key, figure in rows])


def _called(key: str, made: Manifest) -> str:
    """Return the name of a metric for the model card; if there are two labels, the name of F1 includes the second."""
    of = f" of {made.label_names[1]}" if key == "f1" and len(made.label_names) == 2 else ""
    return f"{METRICS[key].words}{of}"


def _environment(made: Manifest) -> Iterator[str]:
    there = {**made.versions, **made.environment}
    if there:
        yield "## Environment"
        yield _table(
            ("field", "value"),
            [(_escaped(key), _code(str(_public(value)))) for key, value in there.items() if value is not None],
        )


def _dataset(task: str) -> tuple[str, str | None]:
    """Return the name and the configuration of a task's data set for the Hub's metadata."""
    if task.startswith(HUB):
        repository, _, config = task.removeprefix(HUB).partition(":")
        return repository, config or None
    if task == SST2 or task.startswith(GLUE):
        return REPOSITORY, task.removeprefix(GLUE).partition(":")[0]
    return _texts(task), None


def _is_local(backbone: str) -> bool:
    """Return whether a backbone's address is local, such as a directory, and not a repository on the Hub.

    An address that may be a directory or a repository is local if a directory of that name exists.
    """
    return not _HUB_NAME.fullmatch(backbone) or backbone in PACKAGED or Path(backbone).is_dir()


def _model(backbone: str | None) -> str:
    """Return a backbone's address for the model card; a path is shortened to its last part."""
    prefix = RANDOM if (backbone or "").startswith(RANDOM) else ""
    given = (backbone or "").removeprefix(prefix)
    return f"{prefix}{_last(given)}" if _is_local(given) else f"{prefix}{given}"


def _texts(task: str | None) -> str:
    """Return a task's address for the model card; a path in the address is shortened to its last part."""
    given = task or ""
    origin, colon, directory = given.partition(":")
    if given.startswith(GLUE) and colon:
        return f"{origin}:{_last(directory)}"
    return given if given.startswith(HUB) or named(given) is not None else _last(given)


def _last(path: str) -> str:
    return re.split(r"[\\/]+", path.rstrip("\\/"))[-1]


def _public(value: Any, *, files: bool = False) -> Any:
    """Return a JSON value for the model card, in which each path is shortened to its last part.

    Args:
        files: whether every string with a slash counts as a path.
    """
    if isinstance(value, Mapping):
        return {key: _public(each, files=files) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_public(each, files=files) for each in value]
    if isinstance(value, str) and (_PATH.match(value) or (files and re.search(r"[\\/]", value))):
        return _last(value)
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _table(heads: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, ("---", "---"), *rows)]
    return "\n".join(lines)


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _escaped(text: str) -> str:
    """Escape a text for Markdown: return one line that Markdown shows literally, also in a table cell."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"^(\d+)\.", r"\1\\.", _SPECIAL.sub(r"\\\1", line))


def _code(text: str | None) -> str:
    """Return a text as one line of code in Markdown, also for a table cell; "" for None or "".

    A text with a backquote or a bar is put into `<code>`, not backquotes, because Markdown ends a table cell at a bar
    even in backquotes.
    """
    if not text:
        return ""
    line = " ".join(text.split())
    if re.search(r"[`|]", line) or not line:
        return f"<code>{_escaped(line)}</code>"
    return f"`{line}`"
