"""The format of `--help` (an example, options in groups, placeholders), and the output of `afina` without arguments.

The module depends only on the names of options and commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any, ClassVar

from typer.core import TyperCommand, TyperGroup

from afina.cli import option_names, problems
from afina.cli.terminal import USAGE_ERROR
from afina.data.reading_options import OPTIONS

START = """Choose, train and use adapters of language models for your texts.

  afina choose reviews.csv                     Which method is best for my texts?
  afina train reviews.csv                      Train one adapter.
  afina evaluate results/train more.csv        How good is the adapter?
  afina predict results/train "A lovely day."  Label a text.
  afina study quickstart reviews.csv           Compare several methods.

afina --help lists all commands; afina COMMAND --help shows the options of one command."""
"""The output of the command `afina` without arguments."""

EXAMPLES = {
    "study": "afina study quickstart reviews.csv --out results/reviews",
    "train": "afina train reviews.csv --method lora",
    "choose": "afina choose reviews.csv --minutes 10",
    "inspect": "afina inspect reviews.csv",
    "doubts": "afina doubts reviews.csv",
    "next": "afina next pool.csv --labelled labelled.csv --count 50 --out next.csv",
    "ask": r"afina ask reviews.csv --template 'Review: {text}\nSentiment:'",
    "evaluate": "afina evaluate results/train more.csv",
    "compare": "afina compare results/a results/b more.csv",
    "predict": 'afina predict results/train "A lovely day."',
    "params": "afina params --backbone embedded",
    "plan": "afina plan --backbone embedded --backbone minilm --memory 8GiB",
    "methods": "afina methods",
    "show": "afina show results/reviews",
    "report": "afina report results/reviews --no-texts",
    "texts": "afina texts results/reviews --given bad --predicted good",
    "studio": "afina studio reviews",
    "serve": "afina serve --backbone bge --port 8000",
    "replay": "afina replay \"$RECEIPT\" 'A lovely day.'",
    "shadow": "afina shadow acme/reviews 2",
    "drift": "afina drift acme/reviews --server http://127.0.0.1:8000 --key-file key",
    "store": "afina store publish results/train acme/reviews --message 'first version'",
    "store init": "afina store init --store adapters",
    "store publish": "afina store publish results/train acme/reviews --message 'first version'",
    "store list": "afina store list acme",
    "store show": "afina store show acme/reviews@production",
    "store history": "afina store history acme/reviews",
    "store alias": "afina store alias acme/reviews@3 production",
    "store canary": "afina store canary acme/reviews --promote",
    "store rollback": "afina store rollback acme/reviews --message 'too many errors'",
    "store diff": "afina store diff acme/reviews@1 acme/reviews@2 more.csv",
    "store check": "afina store check acme/reviews@2",
    "store verify": "afina store verify",
    "store backup": "afina store backup backups/adapters",
    "store recover": "afina store recover backups/adapters --store recovered",
    "store delete": "afina store delete acme/reviews@1 --reason 'labels were wrong'",
    "store gc": "afina store gc",
    "store erase": "afina store erase acme --reason 'contract has ended'",
    "store import": "afina store import peft-adapter acme/reviews --message 'trained with peft'",
    "store export": "afina store export acme/reviews@2 exported",
    "store export-audit": "afina store export-audit audit.jsonl",
    "keys": "afina keys create acme --rate 60000",
    "keys create": "afina keys create acme --rate 60000",
    "keys list": "afina keys list acme",
    "keys revoke": "afina keys revoke 0123456789abcdef",
}
"""The example in the `--help` of each command, by the name of the command without `afina`."""

_DATA = "Columns and labels"
_RUN = "Training and prompting"
_GENERATION = "Generated answers"
_OUTPUT = "Output"
GROUPS = {
    **dict.fromkeys(OPTIONS.keys() - {"evaluation", "unlabelled", "without"}, _DATA),
    **dict.fromkeys(
        (
            "overrides",
            "template",
            "words",
            "offset",
            "allow_leakage",
            "fresh",
            "jobs",
            "seed",
            "batch_size",
            "max_length",
        ),
        _RUN,
    ),
    **dict.fromkeys(("epochs", "calibrate", "dtype", "precision", "products"), _RUN),
    **dict.fromkeys(("check_probe", "devices", "executor", "shard", "ship_backbone"), _RUN),
    "storage": _RUN,
    **dict.fromkeys(
        ("generation_timeout", "max_new_tokens", "beams", "length_penalty", "no_repeat_ngram", "temperature"),
        _GENERATION,
    ),
    **dict.fromkeys(("top_p", "top_k", "sample_seed", "stop"), _GENERATION),
    **dict.fromkeys(("out", "as_json", "no_texts", "publish", "help"), _OUTPUT),
}
"""The heading under which `--help` lists an option, by parameter name; options without an entry are below "Options"."""

METAVARS = {
    "alias": "ALIAS",
    "batch_size": "N",
    "client": "CLIENT",
    "dtype": "DTYPE",
    "epochs": "N",
    "file": "FILE",
    "folds": "N",
    "host": "HOST",
    "limit": "SIZE",
    "max_length": "TOKENS",
    "memory": "SIZE",
    "message": "TEXT",
    "method": "METHOD",
    "minutes": "MINUTES",
    "name": "NAME",
    "out": "PATH",
    "pair": "TEXT",
    "backbone": "ADDRESS",
    "port": "PORT",
    "preload": "NAME",
    "precision": "PRECISION",
    "products": "PRODUCTS",
    "reason": "TEXT",
    "scope": "SCOPE",
    "seed": "N",
    "text": "TEXT",
    "timeout": "SECONDS",
    "generation_timeout": "SECONDS",
    "max_new_tokens": "TOKENS",
    "drain": "SECONDS",
    "key_seconds": "SECONDS",
    "shutdown": "SECONDS",
    "rate": "TOKENS",
    "who": "NAME",
    "batch_tokens": "TOKENS",
    "shared_tokens": "TOKENS",
    "whole_tokens": "TOKENS",
    "text_tokens": "TOKENS",
}
"""The placeholder of an option's value in `--help`, by parameter name, for options that declare no metavar."""


def command_name(context: Any) -> str:
    """Return the name of a click context's command with its groups and without `afina`, such as "store publish"."""
    names = []
    while context.parent is not None:
        names.append(context.info_name or "")
        context = context.parent
    return " ".join(reversed(names))


def _write_example(context: Any, formatter: Any) -> None:
    if example := EXAMPLES.get(command_name(context)):
        with formatter.section("Example"):
            formatter.write(f"{' ' * formatter.current_indent}{example}\n")


def _name_values(parameters: Iterable[Any]) -> None:
    for parameter in parameters:
        if parameter.metavar is None and not getattr(parameter, "is_flag", False):
            parameter.metavar = METAVARS.get(parameter.name or "")


class CommandGroup(TyperGroup):
    """A group of commands whose `--help` has an example."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        _name_values(self.params)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        super().format_help_text(ctx, formatter)
        _write_example(ctx, formatter)


def _check_once(parameters: Iterable[Any], arguments: Sequence[str]) -> None:
    """Raise InvalidData if an option that takes one value is given twice: the first value would be lost silently."""
    typed = list(takewhile(lambda one: one != "--", arguments))
    for parameter in parameters:
        if parameter.param_type_name == "option" and not (parameter.multiple or parameter.is_flag):
            found = [one for one in typed for name in parameter.opts if one == name or one.startswith(f"{name}=")]
            if len(found) > 1:
                raise problems.GIVEN_TWICE(count=len(found), argument=parameter.opts[0])


class GroupedCommand(TyperCommand):
    """A command whose `--help` has an example and shows options in groups.

    `error_status`: the exit status after an error; None: that of the error.
    """

    error_status: ClassVar[int | None] = None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. Raises InvalidData if an option is given twice, and names all that are missing."""
        option_names.begin(ctx)
        _check_once(self.get_params(ctx), args)
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except USAGE_ERROR as error:
            if hasattr(error, "param_type"):  # a parameter is missing; the error names the first
                self._fail_if_several_miss(ctx, typed)
            raise

    def _fail_if_several_miss(self, ctx: Any, typed: list[str]) -> None:
        found, _, _ = self.make_parser(ctx).parse_args(args=typed)
        missing: list[Any] = [
            one for one in self.get_params(ctx) if one.required and one.consume_value(ctx, found)[0] is None
        ]
        if len(missing) > 1:
            names = (f"{one.param_type_name} {one.get_error_hint()}" for one in missing)
            ctx.fail(f"Missing: {', '.join(names)}.")

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        _name_values(self.params)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        super().format_help_text(ctx, formatter)
        _write_example(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                argument = parameter.param_type_name == "argument"
                title = "Arguments" if argument else GROUPS.get(parameter.name or "", "Options")
                groups.setdefault(title, []).append(record)
        for title in sorted(groups, key=["Arguments", "Options", _DATA, _RUN, _GENERATION, _OUTPUT].index):
            with formatter.section(title):
                formatter.write_dl(groups[title])
