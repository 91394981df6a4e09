"""Only its entry in models/architectures knows a family: nothing else names one, a module of one, or a head."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES

import afina
from afina.models.architectures import ARCHITECTURES, Architecture, blocks_of, head_of, is_head, is_output
from afina.models.objective import Opening
from afina.models.pretrained import meta_from_config
from fakes import configuration

SOURCE = Path(afina.__file__).parent

TABLES = {f"models/architectures/{file}.py" for file in ("entry", "decoders", "encoders", "well_known")}
"""The entries, and the published configurations of well-known backbones."""

ADDRESSES = {"problems.py"}
"""Files that name a backbone by its address, which may be a family's word."""

SCORES = {
    "data/readers/columns.py": "a column's name",
    "data/readers/hub_datasets.py": "a column's name",
    "data/readers/label_column.py": "a column's name",
    "data/texts_to_label.py": "a field of a task of Label Studio",
    "models/token_classification.py": "a field of an answer",
    "server/answer_formats.py": "a field of an answer",
    "server/protocols/huggingface.py": "a field of an answer",
    "studies/executors/worker.py": "a message",
}
"""Files where a head's name is another word, and which."""

PREFIXES = {"models", "methods", "training", "predicting", "generating", "engine", "store"}
"""Packages that have a model or its tensors in hand: no attribute there is called as a head is."""

OWN = {"score"}
"""Attributes of a class of afina's own that is no model."""

PLAIN = {"norm", "dense", "query", "key", "value", "output", "classifier", "head", "layers", "attention"}
"""Names of modules that are also words of their own."""


def _prose(tree: ast.Module) -> set[int]:
    """Docstrings, also those of a constant, which stands before them."""
    found = set()
    for node in ast.walk(tree):
        for statement in getattr(node, "body", ()) if not isinstance(node, ast.Lambda | ast.IfExp) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                found.add(id(statement.value))
    return found


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each string that is no docstring, with its line."""
    prose = _prose(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def offences(files: Mapping[str, str], entries: Mapping[str, Architecture]) -> set[str]:
    """Where a file names a family, or, in a string without spaces, a module of a family or a head; and which word."""
    heads = {
        part for entry in entries.values() for head in entry.heads for path in head.modules for part in path.split(".")
    } - PLAIN
    modules = {
        name.rpartition(".")[2]
        for entry in entries.values()
        for name in (*entry.block.linear, *entry.norms, *entry.embeddings, *entry.outer, entry.output_embedding)
    } | {entry.pooler for entry in entries.values() if entry.pooler}
    found = set()
    for file, text in files.items():
        if file in TABLES:
            continue
        tree = ast.parse(text)
        families = set(entries) - ({"gpt2"} if file in ADDRESSES else set())
        names = (modules - PLAIN) | (set() if file in SCORES else heads)
        for line, said in strings(tree):
            known = families if re.search(r"\s", said) else families | names
            found |= {f"{file}:{line} {word!r}" for word in set(re.findall(r"\w+", said)) & known}
        if file.partition("/")[0] in PREFIXES:
            called = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in heads)
            found |= {f"{file}:{node.lineno} .{node.attr}" for node in called if not _own(node)}
    return found


def _own(node: ast.Attribute) -> bool:
    return ast.unparse(node.value) in ("self", "super()") and node.attr in OWN


def source() -> dict[str, str]:
    return {
        path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py"))
    }


def test_no_file_but_the_table_names_a_family_a_module_or_a_head() -> None:
    assert offences(source(), ARCHITECTURES) == set()


def test_every_exception_is_still_one() -> None:
    files = source()
    for file in ADDRESSES:
        assert any("gpt2" in said for _, said in strings(ast.parse(files[file]))), file
    for file in SCORES:
        assert any(said == "score" for _, said in strings(ast.parse(files[file]))), file


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('if model.config.model_type == "gpt_neox": pass', "'gpt_neox'"),
        ('name = f"{model.family}: not llama"', "'llama'"),
        ('name.endswith("attn.c_attn.bias")', "'c_attn'"),
        ('HEAD = "score"', "'score'"),
        ('"score.weight" in state', "'score'"),
        ("model.score.weight", ".score"),
        ('"""A docstring may say gpt2 and score."""', None),
        ('x = "the scores of llamas"', None),
    ],
)
def test_the_law_finds_what_breaks_it(line: str, word: str | None) -> None:
    found = offences({"models/new.py": line}, ARCHITECTURES)
    assert found == ({f"models/new.py:1 {word}"} if word else set())


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_an_entry_names_what_the_model_has(family: str) -> None:
    complete(ARCHITECTURES[family], meta_from_config(configuration(family), 3))


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_an_entry_has_a_head_of_tokens_exactly_if_transformers_has_a_token_classifier(family: str) -> None:
    head = ARCHITECTURES[family].token_head
    assert (head is not None) == (family in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES)
    if head is None:
        return
    model = meta_from_config(configuration(family), 3, Opening("", "token_classifier"))
    outside = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    assert {name.rpartition(".")[0] for name in outside} == {*head.modules}
    assert head_of(model)[-1] is model.get_submodule(head.output)
    assert head_of(model)[-1].out_features == 3
    assert all(is_head(name) for name in outside)


def complete(entry: Architecture, model: Any) -> None:
    """Every path of an entry is in transformers' own model, of two blocks and three labels; it names every layer, and
    no layer of the body is called as a head."""
    body = model.base_model
    names = {name for name, _ in body.named_parameters()}
    assert entry == ARCHITECTURES[model.config.model_type]
    assert len(blocks_of(body)) == model.config.num_hidden_layers == 2
    assert head_of(model)[-1].out_features == 3
    assert {name for name, _ in model.named_parameters() if is_output(name)} <= {
        name for name, _ in model.named_parameters() if is_head(name)
    }
    assert not any(is_head(name) for name in names)
    layers = set()
    for block in blocks_of(body):
        inside = {path for path, _ in block.named_modules()}
        assert {entry.block.attention, entry.block.mlp, *entry.block.linear, *entry.block.norms} <= inside
        layers |= {path.rpartition(".")[0] for path, _ in block.named_parameters()}
        if entry.block.pre_norm is not None:
            assert {entry.block.pre_norm.first, entry.block.pre_norm.second} <= inside
    assert layers == {*entry.block.linear, *entry.block.norms}  # a family's first block may lack a norm
    outside = {name.rpartition(".")[0] for name in names if entry.block.find(name) is None}
    assert outside == {*entry.embeddings, *entry.outer, entry.embedding_norm, entry.block.final_norm} - {None}
    assert {path for path, _ in model.named_modules()} >= {*entry.head.modules}
    assert entry.pooler is None or any(name.startswith(f"{entry.pooler}.") for name in names)
    assert all(any(path.endswith(f".{target}") for path, _ in body.named_modules()) for target in entry.lora_targets)
