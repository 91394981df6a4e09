"""Pages of the reference that are generated from the code: commands, study files, metrics, Python API, HTTP API.

This module does not import MkDocs: GENERATED has a function for each page, which returns Markdown.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, cast

import typer.main
from pydantic import TypeAdapter

import afina
from afina import cli
from afina.cli.help import EXAMPLES, GROUPS, GroupedCommand
from afina.data.reading_options import MOST, ReadingOptions
from afina.methods import METHODS
from afina.stats.metrics import OF_KIND
from afina.studies.published import Published
from afina.studies.runs.spec import Ask
from afina.studies.study import Study
from afina.studies.trials import Tune
from afina.training.settings import Training
from site_docstrings import described_fields


def cli_page() -> str:
    """Return the page `reference/cli.md`, made of the help texts of all commands."""
    top: Any = typer.main.get_command(cli.app)
    parts = [
        "# Commands\n\nThis page is generated from the command line. `afina COMMAND --help` prints the same text.\n",
        *_command(top, "afina", 2),
    ]
    return "\n".join(parts)


def _command(group: Any, path: str, level: int) -> Iterator[str]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        full = f"{path} {name}"
        context = command.make_context(full, [], resilient_parsing=True)
        yield f"{'#' * level} {full}\n"
        yield _help_text(command.help or "")
        if example := EXAMPLES.get(full.removeprefix("afina ")):
            yield f"```sh\n{example}\n```\n"
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"```text\n{full} {usage}\n```\n"
        panels: dict[str, list[str]] = {}
        for parameter in command.get_params(context):
            if record := parameter.get_help_record(context):
                grouped = (
                    GROUPS.get(parameter.name or "", "Options") if isinstance(command, GroupedCommand) else "Options"
                )
                panel = grouped if parameter.opts[0].startswith("-") else "Arguments"
                said, meaning = (" ".join(part.split()) for part in record)
                panels.setdefault(panel, []).append(f"| {_code(said)} | {_text(meaning)} |")
        for panel, rows in panels.items():
            yield "\n".join([f"| {panel} | Meaning |", "| --- | --- |", *rows, ""])
        if hasattr(command, "commands"):
            yield from _command(command, full, level + 1)


def _help_text(text: str) -> str:
    r"""Return a help text as Markdown. Paragraphs that begin with click's `\b`, or are indented, become code blocks."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        kept = paragraph.lstrip("\n").startswith("\b")
        lines = [line for line in paragraph.replace("\b", "").splitlines() if line.strip()]
        if kept or all(line.startswith("  ") for line in lines):
            said = "\n".join(line.strip() for line in lines)
            parts.append(f"```sh\n{said}\n```\n")
        else:
            parts.append(_prose(" ".join(line.strip() for line in lines)) + "\n")
    return "\n".join(parts)


SECTIONS: tuple[tuple[str, str, type], ...] = (
    ("", "Keys of the study", Study),
    ("data", "Keys of [data]", ReadingOptions),
    ("train", "Keys of [train]", Training),
    ("ask", "Keys of [ask]", Ask),
    ("tune", "Keys of [tune]", Tune),
    ("published", "Keys of [published]", Published),
)

STUDY_FILES = """# Study files

A study file is a TOML file for `afina study`. `afina study quickstart` and the other presets are such files. An option
`--set KEY=VALUE` replaces one key, with a dot between the section and the key: `--set train.epochs=3`.

```toml
name = "reviews"
backbone = "embedded"
task = "reviews.csv"
seeds = [0, 1]

[train]
epochs = 3

[methods.lora]
r = 8

[methods.full]
```

This page is generated from the code.
"""


def study_files_page() -> str:
    """Return the page of the keys of study files, made of the pydantic models' schemas and docstrings."""
    parts = [STUDY_FILES]
    for section, title, model in SECTIONS:
        described = described_fields(model.__doc__ or "")
        parts += [f"## {title}\n", "| Key | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
        schema = TypeAdapter(model).json_schema()
        for name, each in schema["properties"].items():
            if section == "" and name in {key for key, _, _ in SECTIONS}:
                continue
            default = "required" if name in schema.get("required", ()) else _code(_toml(each.get("default")))
            meaning = " ".join(filter(None, (each.get("description"), described.get(name))))
            parts.append(f"| `{name}` | {_type(each)} | {default} | {_text(meaning)} |")
        parts.append("")
    parts += [
        "## Keys of [methods.NAME]\n",
        "NAME is the name of a run in the report. The key `method` names the method; its default is NAME. A table of a",
        "method also takes any key of `[train]` and `[ask]`, for this run alone, and the method's hyperparameters.",
        "`backbones` lists the study's backbones that the method runs on; the default is all. `by_backbone.ADDRESS` is",
        "a table of keys that differ on one backbone ([Compare models](../how-to/compare-models.md)).\n",
        "| Method | Hyperparameters and their defaults |",
        "| --- | --- |",
    ]
    for name, method in METHODS.items():
        given = ", ".join(_code(f"{each.name} = {_toml(each.default)}") for each in fields(cast(Any, method)))
        parts.append(f"| `{name}` | {given or 'none'} |")
    return "\n".join(parts) + "\n"


OF_TOML = {"array": "list", "object": "table", "number": "float"}
"""TOML's names of the JSON schema types that have another name in TOML."""

OF_JSON = {"array": "list"}


def _type(schema: Mapping[str, Any], names: Mapping[str, str] = OF_TOML) -> str:
    """Return the type and the limits of a JSON schema in words, for a table."""
    if "anyOf" in schema:
        return " or ".join(_type(one, names) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return ", ".join(_code(json.dumps(one)) for one in schema["enum"])
    if "const" in schema:
        return _code(json.dumps(schema["const"]))
    kind = schema.get("type", "object" if "$ref" in schema else "any")
    said = names.get(kind, kind)
    if kind == "array" and isinstance(schema.get("items"), dict):
        said = f"list of {_type(schema['items'], names)}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema and schema[key] != MOST]
    return said + (f" ({', '.join(limits)})" if limits else "")


def _toml(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "{}"
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str)


KINDS = {
    "classes": "Classes: one label a text",
    "number": "Number",
    "labels": "Labels: any number of labels a text",
    "text": "Text: an answer in words",
}

METRICS_INTRODUCTION = """# Metrics

`--metric NAME`, `metric = "NAME"` of a study file and `TextClassifier(metric=...)` take one of these keys. The first
key of each kind is the default. [Figures](figures.md) has the definitions. [Coverage](../background/coverage.md) says
how often the intervals contain the truth. This page is generated from the code.
"""


def metrics_page() -> str:
    """Return the page of metrics, with a table for each kind of task."""
    parts = [METRICS_INTRODUCTION]
    for kind, metrics in OF_KIND.items():
        parts += [
            f"## {KINDS.get(kind, kind)}\n",
            "| Key | Metric | Range | Better | Undefined without |",
            "| --- " * 5 + "|",
        ]
        for one in metrics:
            low, high = (f"{end:g}" if math.isfinite(end) else ("-∞" if end < 0 else "∞") for end in one.range)
            unit = ", in the unit of the label" if one.of_unit else ""
            better = ("lower" if one.lower else "higher") if one.directed else "neither"
            parts.append(f"| `{one.name}` | {one.words} | {low} to {high}{unit} | {better} | {one.needs} |")
        parts.append("")
    return "\n".join(parts)


PYTHON_INTRODUCTION = """# Python API

These names are the public library: `from afina import Study`. [Errors](errors.md) lists the exceptions with their
codes. A name is imported on first use, so `import afina` does not load torch. This page is generated from the
docstrings.
"""


def python_page() -> str:
    """Return the page of the Python API. For each public name, mkdocstrings replaces a directive by the docstring."""
    parts = [PYTHON_INTRODUCTION]
    for name in sorted(set(afina.__all__) - {"__version__", "METHODS"}, key=str.lower):
        parts.append(f"::: {afina._HOMES[name]}.{name}\n")
    parts.append("## METHODS\n\n`METHODS` has the class of each method by its key.\n")
    parts += ["| Key | Title | Summary |", "| --- | --- | --- |"]
    parts += [f"| `{key}` | {one.title} | {_text(one.summary)} |" for key, one in METHODS.items()]
    return "\n".join(parts) + "\n"


HTTP_INTRODUCTION = """# HTTP API

`afina serve` answers these requests. A request carries an API key: `Authorization: Bearer KEY`. The server gives the
same description as OpenAPI at `/openapi.json`. [Server](serve.md) has examples with curl. This page is generated from
the code.
"""


TAGS = {"health": "Health and metrics", "afina": "afina's own protocol", "page": "The server's page"}


def http_page() -> str:
    """Return the page of the HTTP API, made of the server's OpenAPI description."""
    from afina.server.http.app import make_app

    described = make_app(cast(Any, None)).openapi()
    schemas = described["components"]["schemas"]
    tags: dict[str, list[str]] = {}
    for path, methods in described["paths"].items():
        for verb, operation in methods.items():
            one = "\n".join(_operation(path, verb, operation, schemas))
            tags.setdefault((operation.get("tags") or ["other"])[0], []).append(one)
    operations = [operation for methods in described["paths"].values() for operation in methods.values()]
    parts = [HTTP_INTRODUCTION, "## Statuses\n", "| Status | Meaning |", "| --- | --- |", *_statuses(operations), ""]
    for tag, said in tags.items():
        parts += [f"## {TAGS.get(tag, tag)}\n", *said]
    return "\n".join(parts)


def _operation(path: str, verb: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{verb.upper()} {path}`\n"
    yield _prose(operation.get("description", "")) + "\n"
    if given := operation.get("parameters"):
        yield _rows("Parameter", ((one["name"], one["schema"], one.get("required"), one) for one in given))
    for media, body in operation.get("requestBody", {}).get("content", {}).items():
        yield f"The body is `{media}`.\n"
        schema = _resolved(body.get("schema", {}), schemas)
        if schema.get("properties"):
            yield _rows("Field", _fields(schema, schemas))
        example = body.get("example") or schema.get("example")
        if example is not None:
            said = example if isinstance(example, str) else json.dumps(example, ensure_ascii=False, indent=2)
            yield f"```json\n{said.rstrip()}\n```\n"
    yield "Statuses: " + ", ".join(f"{status}" for status in operation["responses"]) + ".\n"


def _statuses(operations: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a row of a table for each HTTP status and its meaning."""
    said = {(status, one["description"]) for each in operations for status, one in each["responses"].items()}
    for status, meaning in sorted(said):
        yield f"| {status} | {_text(meaning)} |"


def _resolved(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _fields(
    schema: Mapping[str, Any], schemas: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Mapping[str, Any], bool, Mapping[str, Any]]]:
    """Yield each field of a JSON schema, nested fields included, whose names are joined by dots."""
    for key, one in schema.get("properties", {}).items():
        yield f"{prefix}{key}", one, key in schema.get("required", []), one
        for within in [one, one.get("items", {}), *one.get("anyOf", [])]:
            if "$ref" in within:
                yield from _fields(_resolved(within, schemas), schemas, f"{prefix}{key}.")
            elif "$ref" in within.get("items", {}) and within is not one:
                yield from _fields(_resolved(within["items"], schemas), schemas, f"{prefix}{key}.")


def _rows(head: str, given: Iterator[tuple[str, Mapping[str, Any], Any, Mapping[str, Any]]]) -> str:
    rows = [
        f"| `{name}` | {_type(schema, OF_JSON)} | {'yes' if must else 'no'} | {_text(said.get('description', ''))} |"
        for name, schema, must, said in given
    ]
    return "\n".join([f"| {head} | Type | Required | Meaning |", "| --- | --- | --- | --- |", *rows, ""])


def _code(text: str) -> str:
    """Return a text as HTML code for a cell of a Markdown table."""
    return f"<code>{_escaped(text)}</code>".replace("|", "&#124;")


def _text(text: str) -> str:
    """Return a text as Markdown for a cell of a table."""
    return _prose(" ".join(text.split())).replace("|", "&#124;")


def _prose(text: str) -> str:
    """Return a text in which Markdown shows HTML, `*`, `_` and `[` unchanged. Code between backquotes stays code."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    for sign, entity in {"&": "&amp;", "<": "&lt;", ">": "&gt;", "*": "&#42;", "_": "&#95;", "[": "&#91;"}.items():
        text = text.replace(sign, entity)
    return text


GENERATED: dict[str, Callable[[], str]] = {
    "reference/cli.md": cli_page,
    "reference/study-files.md": study_files_page,
    "reference/metrics.md": metrics_page,
    "reference/python-api.md": python_page,
    "reference/http-api.md": http_page,
}
"""The function that returns the Markdown of a generated page, by the page's path in the site."""
