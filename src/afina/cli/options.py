"""Options that several commands share, and the fields of a task that these options set.

The commands themselves are in the other modules.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from afina.cli import problems
from afina.cli.option_names import option_flag
from afina.cli.terminal import print_assumed_precision, print_choice
from afina.data.reading_options import OPTIONS
from afina.store.versions import PREFIX

if TYPE_CHECKING:
    from afina.models.adapter import Adapter


Command = TypeVar("Command", bound=Callable[..., None])

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
_PRETRAINED = "Pretrained model: Hub id, directory, random:DIRECTORY or 'embedded' (from the package index)."
BackboneOption = Annotated[str, typer.Option("--backbone", help=_PRETRAINED, metavar="ADDRESS")]
OneBackbone = Annotated[list[str], typer.Option("--backbone", help=_PRETRAINED, metavar="ADDRESS")]
"""The option `--backbone` of commands with one backbone: a list, so that `only` can refuse a second backbone."""

NewBackbone = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone", help=f"{_PRETRAINED} [default: bge; embedded where a language model is needed]", metavar="ADDRESS"
    ),
]
"""`OneBackbone` of a command to which the results of another one can give the backbone."""

EMBEDDED = ["embedded"]
"""The default value of an option of type `OneBackbone`."""

_SEVERAL = (
    "Pretrained model: Hub id, directory, random:DIRECTORY, 'bge' or 'embedded' (from the package index); repeat to "
    "compare several."
)
BackbonesOption = Annotated[
    list[str] | None, typer.Option("--backbone", help=f"{_SEVERAL} [default: embedded]", metavar="ADDRESS")
]
ComparedBackbones = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone", help=f"{_SEVERAL} [default: bge and embedded; embedded to write texts]", metavar="ADDRESS"
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
SendTexts = Annotated[
    bool,
    typer.Option(
        "--send-texts",
        help="Allow the method endpoint to send your texts to its url. Without this option, no text is sent.",
    ),
]


def task_if_given(
    task_file: Annotated[
        str | None,
        typer.Argument(
            help="Labelled texts: a csv, tsv, jsonl, parquet, xlsx or conll file, a directory, glue/NAME, "
            "hub:OWNER/NAME, snippets:NAME, aclsum:NAME, e2e:PLACE or squad:PLACE.",
            metavar="FILE",
        ),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="The same as FILE.", metavar="ADDRESS")] = None,
) -> str | None:
    """Return the task that the user gave, as FILE or with `--task`; None if the user gave none."""
    if task_file is not None and task is not None:
        raise problems.TASK_TWICE(option="task", found=task_file, other=task)
    return task if task_file is None else task_file


@wraps(task_if_given, assigned=())
def required_task(**given: str | None) -> str:
    """Return the task of `task_if_given`. Raises InvalidData if the user gave none."""
    found = task_if_given(**given)
    if found is None:
        raise problems.TASK_MISSING(_or="")
    return found


def asking_endpoint(
    url: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            help="Address of a model behind an API, such as https://api.openai.com/v1.",
            metavar="URL",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--endpoint-model", help="The server's name of this model.", metavar="NAME")
    ] = None,
    price_in: Annotated[
        float | None, typer.Option("--price-in", help="Price of a million tokens of prompts.", metavar="PRICE")
    ] = None,
    price_out: Annotated[
        float | None, typer.Option("--price-out", help="Price of a million tokens of answers.", metavar="PRICE")
    ] = None,
    endpoint_settings: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint-set",
            help="Another setting of the method endpoint, such as key=MY_KEY or shots=16; may be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
) -> dict[str, Any] | None:
    """Return the settings of a model behind an API as in a study file; None if the user gave none."""
    from afina.studies.study_file import override

    given: dict[str, Any] = {"url": url, "model": model, "price_in": price_in, "price_out": price_out}
    override(given, endpoint_settings or [])
    found = {name: value for name, value in given.items() if value is not None}
    return found or None


Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a field of the study, such as train.epochs=1; may be repeated.", metavar="KEY=VALUE"
    ),
]


def check_different(backbones: list[str]) -> list[str]:
    """Return the given backbones. Raises InvalidStudy if a backbone is given twice."""
    again = next((one for one in backbones if backbones.count(one) > 1), None)
    if again is not None:
        raise problems.BACKBONE_TWICE(option="backbone", found=again)
    return backbones


def only(backbones: list[str]) -> str:
    """Return the backbone that was given. Raises InvalidStudy if several backbones are given."""
    if len(backbones) > 1:
        raise problems.SEVERAL_BACKBONES(option="backbone", found=backbones)
    return backbones[0]


def reading_option(name: str, about: str | None = None) -> Any:
    """Return the command-line option for a field of `ReadingOptions`; `about` replaces its help."""
    declared = OPTIONS[name].metadata
    return typer.Option(option_flag(name), help=about or declared["description"], metavar=declared["metavar"])


def takes(**groups: Callable[..., Any]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command the options of each function in `groups`.

    The command gets the result of each function as the parameter that is named by the function's key in `groups`.
    """
    options = {name: inspect.signature(made, eval_str=True).parameters for name, made in groups.items()}

    def decorated(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters
        shown = [each for name, one in own.items() for each in (options[name].values() if name in groups else (one,))]

        @wraps(command)
        def run(**given: Any) -> None:
            made = {name: make(**{one: given.pop(one) for one in options[name]}) for name, make in groups.items()}
            command(**given, **made)

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in shown]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return cast(Command, run)

    return decorated


_KEEPS = "Include texts that the adapter was trained on; by default, these texts are left out."


def _reading(names: Sequence[str], abouts: Mapping[str, str]) -> Callable[..., dict[str, Any]]:
    """Return a function that takes the reading options `names` and returns those that the user gave.

    `abouts`: the `--help` text of an option, if it differs from that in `ReadingOptions`.
    """
    parameters = []
    for name in names:
        default, shown = OPTIONS[name].default, reading_option(name, abouts.get(name))
        annotation: Any = Annotated[bool, shown] if default is False else Annotated[str | None, shown]
        one = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        parameters.append(one)

    def made(**options: Any) -> dict[str, Any]:
        data = {name: value for name, value in options.items() if value not in (None, False)}
        for name in data:
            if str(OPTIONS[name].type).startswith("tuple"):
                data[name] = [part.strip() for part in data[name].split(",")]
        return data

    made.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return made


_OF_COMMANDS = [name for name, one in OPTIONS.items() if one.metadata["flag"]]

reading = _reading([name for name in _OF_COMMANDS if name != "unlabelled"], {})
"""Takes the options that say how a task is read, and returns those that the user gave, by name."""

whole = _reading([name for name in _OF_COMMANDS if name not in ("unlabelled", "without")], {})
"""Takes the options of `reading` for a command that looks at all labelled texts, and so leaves none out."""

training = _reading(
    _OF_COMMANDS,
    {
        "unlabelled": "File of texts without labels. With --teacher, the trained model learns the teacher's "
        "predictions for these texts."
    },
)
"""Takes the options of `reading` and `--unlabelled`, for a command that trains a student of a teacher."""

choosing = _reading(
    _OF_COMMANDS, {"unlabelled": "File of texts without labels, on which a faster model is also trained."}
)
"""Takes the options of `reading` and `--unlabelled`, for a command that chooses a teacher and trains its student."""

labelling = _reading([name for name in _OF_COMMANDS if name not in ("unlabelled", "positive", "long")], {})
"""Takes the options that say how labelled texts are read, for a command that works on labels and trains no adapter."""

measuring = _reading(
    [name for name in _OF_COMMANDS if OPTIONS[name].metadata["measures"] and name != "kind"], {"allow_leakage": _KEEPS}
)
"""Takes the options for reading evaluation texts of an adapter; without `--kind`, because the adapter has one."""


def template_option(template: str) -> str:
    r"""Return the value of `--template` with a line break in place of each typed `\n`."""
    return template.replace("\\n", "\n")


def words_option(words: list[str] | None) -> dict[str, list[str]] | None:
    """Return the words of each label in the values of `--words`, each with a leading space. Raises InvalidStudy."""
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
    """Return the labels and words of a `--words` value such as `a=x,y,b=z`. Only the first label may have commas."""
    first, _, rest = item.partition("=")
    found: list[tuple[str, list[str]]] = [(first.strip(), [])]
    for part in rest.split(","):
        label, another, word = part.rpartition("=")
        if another:
            found.append((label.strip(), []))
        found[-1][1].extend([word.strip()] if word.strip() else [])
    return found


def asking(
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            help=r"Prompt template with {text}, such as 'Review: {text}\nSentiment:'; '{text}' for the text alone.",
            metavar="TEMPLATE",
        ),
    ] = None,
    words: WordsOption = None,
) -> dict[str, Any]:
    """Return the given `--template` and `--words`, as keys of the section [ask] of a study file."""
    asked: dict[str, Any] = {} if template is None else {"template": template_option(template)}
    return asked | ({"head": "words", "words": words_option(words)} if words else {})


def decoding(
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens", help="Most tokens of a generated answer; default: as in training.", metavar="N"
        ),
    ] = None,
    beams: Annotated[int | None, typer.Option("--beams", help="Beams of beam search.", metavar="N")] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option("--length-penalty", help="In beam search, above 1 favours longer answers.", metavar="X"),
    ] = None,
    no_repeat_ngram: Annotated[
        int | None,
        typer.Option(
            "--no-repeat-ngram", help="No n-gram of this size occurs twice in prompt and answer.", metavar="N"
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="Sample answers at this temperature; 0: the best token.", metavar="X"),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", help="Sample among the most probable tokens with this probability.", metavar="P"),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Sample among this number of most probable tokens.", metavar="N")
    ] = None,
    sample_seed: Annotated[int | None, typer.Option("--sample-seed", help="Seed of sampling.", metavar="N")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            "--stop", help=r"End an answer before this string, such as '\n'; may be repeated.", metavar="STRING"
        ),
    ] = None,
) -> dict[str, Any]:
    """Return the generation options that the user gave, as fields of `Decoding`."""
    given = {**locals(), "seed": sample_seed, "stop": [template_option(one) for one in stop] if stop else None}
    del given["sample_seed"]
    return {name: value for name, value in given.items() if value is not None}


def train_command(task: str, named: Mapping[str, Any], words: Sequence[str] = ()) -> str:
    """Return the command `afina train` for a shell, with the values of options by flag, and with `--words`.

    An option whose value is True is a flag, and one whose value is None, False or empty is left out.
    """
    chosen = [part for flag, value in named.items() if value for part in ((flag,) if value is True else (flag, value))]
    chosen += [part for item in words for part in ("--words", item)]
    return shlex.join(["afina", "train", f"--task={task}" if task.startswith("-") else task, *chosen])


def reading_flags(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of reading options by flag, as a user types them."""
    return {option_flag(name): ",".join(one) if isinstance(one, list | tuple) else one for name, one in data.items()}


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

    `method`, `seed` and `backbone` choose an adapter of a study; `precision` is as in `Adapter.load`. Raises
    NotFound, or InvalidStudy if `method`, `seed` or `precision` is given for a version of a store.
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
