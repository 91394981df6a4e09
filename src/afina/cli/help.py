"""`--help`: an example for each command, options in groups, and words for values; and the output of `afina` alone.

The module knows the names of options and commands; it does not know what they do.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

START = """Choose, train and use adapters of language models for your texts.

  afina choose --task reviews.csv --minutes 30        Which method is best for my texts?
  afina train --task reviews.csv                      Train one adapter.
  afina evaluate results/train --task more.csv        How good is the adapter?
  afina predict results/train "A lovely day."         Label a text.
  afina study quickstart --task reviews.csv           Compare several methods.

afina --help lists all commands; afina COMMAND --help shows the options of one command."""
"""The output of `afina` without arguments."""

EXAMPLES = {
    "study": "afina study quickstart --task reviews.csv --out results/reviews",
    "train": "afina train --task reviews.csv --method lora",
    "choose": "afina choose --task reviews.csv --minutes 30",
    "ask": r"afina ask --task reviews.csv --template 'Review: {text}\nSentiment:'",
    "evaluate": "afina evaluate results/train --task more.csv",
    "compare": "afina compare results/a results/b --task more.csv",
    "predict": 'afina predict results/train "A lovely day."',
    "params": "afina params --backbone embedded",
    "plan": "afina plan --backbone embedded --memory 8GiB",
    "methods": "afina methods",
    "show": "afina show results/reviews",
    "report": "afina report results/reviews --no-texts",
    "serve": "afina serve --backbone embedded --port 8000",
}
"""A command line by the name of its command."""

_DATA = "Columns and labels"
_RUN = "Training and asking in words"
_GENERATION = "Generated answers"
_OUTPUT = "Output"
GROUPS = {
    **dict.fromkeys(
        ("text", "text_pair", "label", "target", "labels", "kind", "separator", "missing", "merge_labels", "sheet"),
        _DATA,
    ),
    **dict.fromkeys(
        ("positive",),
        _DATA,
    ),
    **dict.fromkeys(
        ("overrides", "template", "words", "offset", "allow_leakage", "fresh", "jobs", "seed", "batch_size", "length"),
        _RUN,
    ),
    **dict.fromkeys(("epochs", "calibrate", "dtype", "check_probe"), _RUN),
    **dict.fromkeys(("max_new_tokens", "beams", "length_penalty", "no_repeat_ngram", "temperature"), _GENERATION),
    **dict.fromkeys(("top_p", "top_k", "sample_seed", "stop"), _GENERATION),
    **dict.fromkeys(("out", "as_json", "no_texts", "publish", "help"), _OUTPUT),
}
"""The heading of an option's group, by parameter; options without an entry are listed under "Options"."""

METAVARS = {
    "batch_size": "N",
    "dtype": "DTYPE",
    "epochs": "N",
    "file": "FILE",
    "host": "HOST",
    "labels": "LABEL,...",
    "length": "TOKENS",
    "memory": "SIZE",
    "method": "METHOD",
    "minutes": "MINUTES",
    "out": "PATH",
    "backbone": "ADDRESS",
    "port": "PORT",
    "seed": "N",
    "timeout": "SECONDS",
    "drain": "SECONDS",
    "shutdown": "SECONDS",
    "rate": "TOKENS",
    "batch_tokens": "TOKENS",
    "shared_tokens": "TOKENS",
}
"""The word for an option's value, by parameter, where the option itself has none."""


class GroupedCommand(TyperCommand):
    """A command whose `--help` has an example and shows options in groups."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        for parameter in self.params:
            if parameter.metavar is None and not getattr(parameter, "is_flag", False):
                parameter.metavar = METAVARS.get(parameter.name or "")

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description and the example."""
        super().format_help_text(ctx, formatter)
        if example := EXAMPLES.get(self.name or ""):
            with formatter.section("Example"):
                formatter.write(f"{' ' * formatter.current_indent}{example}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options in groups."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                argument = parameter.param_type_name == "argument"
                title = "Arguments" if argument else GROUPS.get(parameter.name or "", "Options")
                groups.setdefault(title, []).append(record)
        for title in sorted(groups, key=["Arguments", "Options", _DATA, _RUN, _GENERATION, _OUTPUT].index):
            with formatter.section(title):
                formatter.write_dl(groups[title])
