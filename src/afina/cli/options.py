"""Options that several commands share, the fields of a task that they stand for, and where an adapter is opened from.

Knows no command.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afina.data.kinds import KINDS
from afina.errors import InvalidStudy
from afina.store.versions import PREFIX

if TYPE_CHECKING:
    from afina.models.adapter import Adapter


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]
BackboneOption = Annotated[
    str, typer.Option("--backbone", help="Hub id, directory, 'embedded', or random:DIRECTORY.", metavar="ADDRESS")
]
TaskOption = Annotated[
    str,
    typer.Option(
        "--task",
        help="csv, tsv, jsonl, parquet or xlsx file, directory, glue/NAME, hub:OWNER/NAME, or snippets:NAME.",
        metavar="ADDRESS",
    ),
]
OwnBackbone = Annotated[
    str | None, typer.Option("--backbone", help="Where its backbone is, if not at the address it names.")
]
EvaluationOption = Annotated[
    str | None,
    typer.Option("--eval", help="A file to evaluate on; then all of --task's file trains.", metavar="FILE"),
]
MethodOption = Annotated[
    str | None, typer.Option("--method", help="Of a study's directory: whose adapter, by its name there.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Of a study's directory: which seed's; the first.")]
TextColumn = Annotated[str | None, typer.Option("--text", help="Column of the text.", metavar="NAME")]
PairColumn = Annotated[str | None, typer.Option("--text-pair", help="Column of a second text.", metavar="NAME")]
LabelColumn = Annotated[str | None, typer.Option("--label", help="Column of the label.", metavar="NAME")]
Labels = Annotated[
    str | None, typer.Option("--labels", help="Labels in their order, comma separated; the second is 'positive'.")
]
KindOption = Annotated[
    str | None,
    typer.Option(
        "--kind",
        help=f"{', '.join(KINDS[:-1])} or {KINDS[-1]}; by default what the labels look like.",
        metavar="KIND",
    ),
]
SeparatorOption = Annotated[
    str | None, typer.Option("--separator", help="Between several labels of one text, as ';'.", metavar="MARK")
]
MissingOption = Annotated[
    str | None,
    typer.Option(
        "--missing",
        help="Where a text or label is missing: refuse (an error), skip (leave the row out), or keep words as 'NA'.",
        metavar="HOW",
    ),
]
MergeOption = Annotated[
    bool, typer.Option("--merge-labels", help="Read labels that differ only by case or spaces as the most frequent.")
]
SheetOption = Annotated[
    str | None, typer.Option("--sheet", help="Of an xlsx file with several sheets, the one to read.", metavar="NAME")
]
MetricOption = Annotated[
    str | None,
    typer.Option("--metric", help="What heads the figures, as f1, mcc, rmse; by default the task's.", metavar="NAME"),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        "--template",
        help=r"What a text stands in, with {text} for it, such as 'Review: {text}\nSentiment:'; '{text}' for nothing.",
        metavar="TEMPLATE",
    ),
]
WordsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--words",
        help="Words that answer for a label, as positive=great,good; may be repeated. By default its name.",
        metavar="LABEL=WORD,...",
    ),
]
PublishOption = Annotated[
    str | None,
    typer.Option("--publish", help="Keep the best adapter in the store (AFINA_STORE) as this.", metavar="CLIENT/TASK"),
]
NoTexts = Annotated[
    bool,
    typer.Option(
        "--no-texts", help="Row numbers instead of texts in the report; --publish leaves hashes of texts out."
    ),
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Train again what is recorded; the new run takes the recorded one's place.")
]
JobsOption = Annotated[
    int, typer.Option("--jobs", help="Runs at once; the processors are shared out among them.", min=1, metavar="N")
]
AllowLeakage = Annotated[
    bool, typer.Option("--allow-leakage", help="Go on though evaluation texts occur in the training split.")
]
PositiveOption = Annotated[
    str | None,
    typer.Option("--positive", help="Of two labels, the one that F1 and AUROC are about; the second.", metavar="LABEL"),
]
KeepTrained = Annotated[
    bool,
    typer.Option("--allow-leakage", help="Keep the texts that the adapter was trained on, which are else left out."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field of the study, such as train.epochs=1.", metavar="KEY=VALUE"),
]


def data_options(
    text: str | None,
    text_pair: str | None,
    label: str | None,
    labels: str | None,
    allow_leakage: bool,
    evaluation: str | None = None,
    kind: str | None = None,
    separator: str | None = None,
    positive: str | None = None,
) -> dict[str, Any]:
    """How a task is to be read, in the words of `Task.load` and of a study's [data]; the last four where given."""
    order = [name.strip() for name in labels.split(",")] if labels is not None else None
    given = {"text": text, "text_pair": text_pair, "label": label, "labels": order, "allow_leakage": allow_leakage}
    later = {"evaluation": evaluation, "kind": kind, "separator": separator, "positive": positive}
    return given | {name: value for name, value in later.items() if value is not None}


def file_options(missing: str | None, merge_labels: bool, sheet: str | None) -> dict[str, Any]:
    """How a file is to be read, in the same words, where given."""
    given = {"missing": missing, "merge_labels": merge_labels, "sheet": sheet}
    return {name: value for name, value in given.items() if value}


def template_option(template: str) -> str:
    r"""A template as it is typed: `\n` for the end of a line."""
    return template.replace("\\n", "\n")


def words_option(words: list[str] | None) -> dict[str, list[str]] | None:
    """The words of each label, with the space that stands before a word. Raises InvalidStudy."""
    if not words:
        return None
    found: dict[str, list[str]] = {}
    for item in words:
        label, equals, listed = item.partition("=")
        given = [f" {word.strip()}" for word in listed.split(",") if word.strip()]
        if not equals or not label.strip() or not given:
            raise InvalidStudy(
                f"`words` {item}: expected LABEL=WORD,WORD, such as positive=great,good.",
                code="option.invalid",
                option="words",
                found=item,
            )
        found.setdefault(label.strip(), []).extend(given)
    return found


def ask_options(template: str | None, words: list[str] | None) -> dict[str, Any]:
    """How a text is asked about, in the words of a study's [ask]; what is not said is not in it."""
    asked: dict[str, Any] = {} if template is None else {"template": template_option(template)}
    return asked | ({"head": "words", "words": words_option(words)} if words else {})


AdapterArgument = Annotated[
    str,
    typer.Argument(
        help="Directory of an adapter, made by afina or by peft, or of a study; or store:CLIENT/TASK@VERSION_OR_ALIAS.",
        metavar="ADAPTER",
    ),
]


def locate(adapter: str, method: str | None, seed: int | None) -> Callable[[], Adapter]:
    """What opens the adapter, once it is known to be there; `method` and `seed` choose within a study.

    Raises what looking for it does, in no time.
    """
    if adapter.startswith(PREFIX):
        if method is not None or seed is not None:
            option = "method" if method is not None else "seed"
            raise InvalidStudy(
                f"{adapter}: a version is one adapter, so `{option}` cannot choose there. Leave it out.",
                code="option.inapplicable",
                option=option,
            )
        from afina.store.adapter_store import AdapterStore

        store = AdapterStore()
        return partial(store.adapter, store.show(adapter))
    from afina.studies.results import find_adapter

    return partial(_load, find_adapter(Path(adapter), method, seed))


def _load(place: Path) -> Adapter:
    from afina.models.adapter import Adapter

    return Adapter.load(place)
