"""Options that several commands share, and the fields of a task that these options set.

The module does not know any command.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from afina.cli import problems
from afina.cli.terminal import option_flag, print_assumed_precision, print_choice
from afina.data.reading_options import OPTIONS
from afina.store.versions import PREFIX

if TYPE_CHECKING:
    from afina.models.adapter import Adapter


Command = TypeVar("Command", bound=Callable[..., None])

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
_PRETRAINED = "Pretrained model: Hub id, directory, random:DIRECTORY or 'embedded' (from the package index)."
BackboneOption = Annotated[str, typer.Option("--backbone", help=_PRETRAINED, metavar="ADDRESS")]
OneBackbone = Annotated[list[str], typer.Option("--backbone", help=_PRETRAINED, metavar="ADDRESS")]
"""A list, so that a second backbone is refused (`only`) and does not replace the first."""

EMBEDDED = ["embedded"]
"""The default of `OneBackbone`."""

BackbonesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone",
        help="Pretrained model: Hub id, directory, random:DIRECTORY or 'embedded' (the default); repeat to compare "
        "several.",
        metavar="ADDRESS",
    ),
]
TaskOption = Annotated[
    str,
    typer.Option(
        "--task",
        help="Labelled texts: a csv, tsv, jsonl, parquet or xlsx file, a directory, glue/NAME, hub:OWNER/NAME, "
        "snippets:NAME, aclsum:NAME, e2e:PLACE or squad:PLACE.",
        metavar="ADDRESS",
    ),
]
SeveralBackbones = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone", help="Use another backbone; may be repeated to compare several backbones.", metavar="ADDRESS"
    ),
]
OwnBackbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="Address of the backbone: needed if the backbone has moved, or for a study of several backbones.",
    ),
]
MethodOption = Annotated[
    str | None, typer.Option("--method", help="For the directory of a study: the method whose adapter is used.")
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="For the directory of a study: the seed; by default the first.")
]
StudyBackbone = Annotated[
    str | None,
    typer.Option("--backbone", help="For the directory of a study of several backbones: the address of the backbone."),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="Headline metric, such as f1, mcc or rmse; the default depends on the task.",
        metavar="NAME",
    ),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        "--template",
        help=r"Prompt template with {text}, such as 'Review: {text}\nSentiment:'; '{text}' for the text alone.",
        metavar="TEMPLATE",
    ),
]
WordsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--words",
        help="Verbalizer: words for the labels, such as 0=negative,1=positive or positive=great,good; can be "
        "repeated. Default: the label's name.",
        metavar="LABEL=WORD,...",
    ),
]
PublishOption = Annotated[
    str | None,
    typer.Option(
        "--publish", help="Publish the best adapter to the store (AFINA_STORE) under this name.", metavar="CLIENT/TASK"
    ),
]
NoTexts = Annotated[
    bool,
    typer.Option("--no-texts", help="Show row numbers instead of texts in the report, and publish no hashes of texts."),
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Train recorded runs again and replace their records.")]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        help="Number of runs at the same time; the runs share the processors. Default: 1, or as many as fit on a Ray "
        "cluster.",
        min=1,
        metavar="N",
    ),
]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor",
        help="Where runs are executed: local, ray or ray=ADDRESS (a Ray cluster; needs the extra 'afina[ray]').",
        metavar="NAME",
    ),
]
ShipBackboneOption = Annotated[
    bool,
    typer.Option("--ship-backbone", help="With Ray: copy the directory of the backbone to the storage, for the nodes."),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="With Ray: where nodes read and write the files of runs: a directory that this machine and all nodes see, "
        "or s3://BUCKET/PREFIX. Required unless this machine is the only node.",
        metavar="ADDRESS",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a field of the study, such as train.epochs=1; may be repeated.", metavar="KEY=VALUE"
    ),
]


def check_different(backbones: list[str]) -> list[str]:
    """Return the backbones. Raises InvalidStudy if one is given twice."""
    again = next((one for one in backbones if backbones.count(one) > 1), None)
    if again is not None:
        raise problems.BACKBONE_TWICE(option="backbone", found=again)
    return backbones


def only(backbones: list[str]) -> str:
    """Return the only backbone. Raises InvalidStudy if several are given."""
    if len(backbones) > 1:
        raise problems.SEVERAL_BACKBONES(option="backbone", found=backbones)
    return backbones[0]


def reading_option(name: str, about: str | None = None) -> Any:
    """Return a reading option of the command line; `about` replaces its help."""
    declared = OPTIONS[name].metadata
    return typer.Option(option_flag(name), help=about or declared["description"], metavar=declared["metavar"])


_KEEPS = "Include texts that the adapter was trained on; by default, these texts are left out."


def takes_reading(*, measures: bool = False) -> Callable[[Command], Command]:
    """Return a decorator: the command gets the reading options, and takes those that are given as `data`, by name.

    Args:
        measures: Whether the command reads texts to measure an adapter on, whose kind is known.
    """
    names = [name for name, one in OPTIONS.items() if one.metadata["flag"]]
    if measures:
        names = [name for name in names if OPTIONS[name].metadata["measures"] and name != "kind"]
    lists = {name for name in names if str(OPTIONS[name].type).startswith("tuple")}
    more = []
    for name in names:
        default = OPTIONS[name].default
        shown = reading_option(name, _KEEPS if measures and name == "allow_leakage" else None)
        annotation: Any = Annotated[bool, shown] if default is False else Annotated[str | None, shown]
        more.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))

    def decorated(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters

        @wraps(command)
        def run(*given: Any, **options: Any) -> None:
            data = {name: value for name in names if (value := options.pop(name)) not in (None, False)}
            for name in lists & data.keys():
                data[name] = [part.strip() for part in data[name].split(",")]
            command(*given, **options, data=data)

        kept = (one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, one in own.items() if name != "data")
        run.__signature__ = inspect.Signature([*kept, *more])  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in run.__signature__.parameters.values()}  # type: ignore[attr-defined]
        return cast(Command, run)

    return decorated


def template_option(template: str) -> str:
    r"""Return the template with a line break for each typed `\n`."""
    return template.replace("\\n", "\n")


def words_option(words: list[str] | None) -> dict[str, list[str]] | None:
    """Return the words of each label, each with a leading space.

    Raises:
        InvalidStudy: An item is not LABEL=WORD,WORD.
    """
    if not words:
        return None
    found: dict[str, list[str]] = {}
    for item in words:
        for label, given in _words_by_label(item):
            if not label or not given:
                raise problems.WORDS_MALFORMED(option="words", found=item)
            found.setdefault(label, []).extend(f" {word}" for word in given)
    return found


def _words_by_label(item: str) -> list[tuple[str, list[str]]]:
    """Return each label of `a=x,y,b=z` with its words; a label may contain commas if it is the first."""
    first, _, rest = item.partition("=")
    found: list[tuple[str, list[str]]] = [(first.strip(), [])]
    for part in rest.split(","):
        label, another, word = part.rpartition("=")
        if another:
            found.append((label.strip(), []))
        found[-1][1].extend([word.strip()] if word.strip() else [])
    return found


def ask_options(template: str | None, words: list[str] | None) -> dict[str, Any]:
    """Return the options of asking that were given, under their names in [ask] of a study file."""
    asked: dict[str, Any] = {} if template is None else {"template": template_option(template)}
    return asked | ({"head": "words", "words": words_option(words)} if words else {})


NewTokensOption = Annotated[
    int | None,
    typer.Option("--max-new-tokens", help="Most tokens of a generated answer; default: as in training.", metavar="N"),
]
BeamsOption = Annotated[int | None, typer.Option("--beams", help="Beams of beam search.", metavar="N")]
LengthPenaltyOption = Annotated[
    float | None,
    typer.Option("--length-penalty", help="In beam search, above 1 favours longer answers.", metavar="X"),
]
NgramOption = Annotated[
    int | None,
    typer.Option("--no-repeat-ngram", help="No n-gram of this size occurs twice in prompt and answer.", metavar="N"),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option("--temperature", help="Sample answers at this temperature; 0: the best token.", metavar="X"),
]
TopPOption = Annotated[
    float | None,
    typer.Option("--top-p", help="Sample among the most probable tokens with this probability.", metavar="P"),
]
TopKOption = Annotated[
    int | None, typer.Option("--top-k", help="Sample among this number of most probable tokens.", metavar="N")
]
SampleSeedOption = Annotated[int | None, typer.Option("--sample-seed", help="Seed of sampling.", metavar="N")]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", help=r"End an answer before this string, such as '\n'; may be repeated.", metavar="STRING"),
]


def decoding_options(
    max_new_tokens: int | None,
    beams: int | None,
    length_penalty: float | None,
    no_repeat_ngram: int | None,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    seed: int | None,
    stop: list[str] | None,
) -> dict[str, Any]:
    """Return the options of generation that were given, as fields of `Decoding`."""
    given: dict[str, Any] = {"max_new_tokens": max_new_tokens, "beams": beams, "length_penalty": length_penalty}
    given |= {"no_repeat_ngram": no_repeat_ngram, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    given |= {"seed": seed, "stop": [template_option(one) for one in stop] if stop else None}
    return {name: value for name, value in given.items() if value is not None}


AdapterArgument = Annotated[
    str,
    typer.Argument(
        help="Directory of an adapter of afina or peft, or of a study; or store:CLIENT/TASK@VERSION_OR_ALIAS.",
        metavar="ADAPTER",
    ),
]


PeftPrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="How the backbone's frozen weights were stored in training, such as nf4 (4-bit of bitsandbytes). Only for "
        "adapters of peft, whose files do not name it. Default: float.",
    ),
]


def locate(
    adapter: str, method: str | None, seed: int | None, backbone: str | None = None, precision: str | None = None
) -> Callable[[], Adapter]:
    """Check at once that the adapter exists, and return a function that opens it.

    Args:
        adapter: Directory of an adapter or a study, or store:CLIENT/TASK@VERSION.
        method: The method, in a study.
        seed: The seed, in a study.
        backbone: The address of the backbone; in a study of several, it chooses.
        precision: As in `Adapter.load`.

    Raises:
        InvalidStudy: `method`, `seed` or `precision` is given for a version of a store.
        NotFound: There is no such adapter.
    """
    if adapter.startswith(PREFIX):
        given = {"method": method, "seed": seed, "precision": precision}
        if option := next((name for name, value in given.items() if value is not None), None):
            raise problems.OPTION_OF_DIRECTORIES(adapter=adapter, option=option)
        from afina.store.adapter_store import AdapterStore

        store = AdapterStore()
        return partial(store.adapter, store.show(adapter))
    from afina.studies.adapter_paths import find_adapter

    found = find_adapter(Path(adapter), method, seed, backbone)
    print_choice(adapter, found.note)
    return partial(_load, found.path, precision)


def _load(place: Path, precision: str | None) -> Adapter:
    from afina.models.adapter import Adapter, is_of_peft

    opened = Adapter.load(place, precision)
    if precision is None and is_of_peft(place):
        print_assumed_precision(str(place))
    return opened
