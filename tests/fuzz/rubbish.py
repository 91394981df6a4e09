"""Files that are nearly right: edited JSON, mangled bytes, tables with every odd cell. By hypothesis: they shrink."""

from __future__ import annotations

import copy
import json
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st
from pyarrow import parquet

ODD = (
    *(None, True, 0, -1, 1, 2, 10**30, -(10**400), 0.5, 1e308, float("nan"), float("inf"), "", " "),
    *("..", "../x", "/", ".", "\x00", "\ud800", "x" * 5_000, "text", "label", "{text}", "sha256:", []),
    *({}, [[]], {"": None}, ["a", 1]),
)
"""What nobody means to write, and somebody does."""

values = st.sampled_from(ODD).map(copy.deepcopy) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def edited(draw: st.DrawFn, original: Any) -> Any:
    """A JSON value with one to four things replaced, removed, renamed or added."""
    made = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 4))):
        here, parent, key = made, None, None
        while isinstance(here, dict | list) and here and (parent is None or draw(st.integers(0, 2))):
            parent = here
            key = draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
            here = here[key]
        if parent is None:
            return draw(values)
        what = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add")))
        if what == "replace":
            parent[key] = draw(values)
        elif what == "remove":
            del parent[key]
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=6))] = draw(values)
        else:
            parent.append(draw(values))
    return made


@st.composite
def mangled(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with one to three pieces cut out, put in, overwritten or repeated."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        what = draw(st.sampled_from(("cut", "insert", "overwrite", "repeat", "end")))
        new = draw(
            st.binary(max_size=8) | st.sampled_from((b"\x00", b"\xff", b'"', b"\n", b"\r", b"[" * 10_000, b"\t", b","))
        )
        if what == "end":
            data = data[:start]
        elif what == "repeat":
            data = data[:end] + data[start:end] * draw(st.integers(1, 3)) + data[end:]
        else:
            data = data[:start] + (new if what != "cut" else b"") + data[start if what == "insert" else end :]
    return data


def documents(original: Any) -> st.SearchStrategy[bytes]:
    """A JSON file: edited as a value, or as bytes."""
    whole = json.dumps(original, indent=1).encode()
    return edited(original).map(lambda value: json.dumps(value).encode()) | mangled(whole)


cells = st.sampled_from(
    (
        *("a fine day", "it broke", "good", "bad", "", " ", "0", "1", "1.5", "NaN", "nan", "None", '"'),
        *('""', "a,b", "a\tb", "a\nb", "\r", "\x00", "\ufeff", "\u2028", "é", "日本", "\ud800"),
        *("x" * 200_000, '"half', 'quoted "inside"', "text", "label"),
    )
) | st.text(max_size=12)

headers = st.sampled_from(
    (
        *(("text", "label"), ("sentence", "label"), ("label", "text"), ("text",), ("a", "b")),
        *(("text", "text", "label"), ("text", "text_pair", "label"), ("", "label"), ("TEXT", "Label")),
        *(("\ufefftext", "label"), ()),
    )
)


@st.composite
def tables(draw: st.DrawFn, separator: str) -> bytes:
    """A csv or tsv file: quoted as it should be, here and there, or not at all; in several encodings, or mangled."""
    names = draw(headers)
    rows = draw(st.lists(st.lists(cells, min_size=len(names), max_size=len(names)), max_size=8))
    quote = draw(st.sampled_from(("always", "needed", "never", "some")))

    def spelled(cell: str) -> str:
        needed = any(mark in cell for mark in (separator, '"', "\n", "\r"))
        if quote == "always" or (quote == "needed" and needed) or (quote == "some" and draw(st.booleans())):
            return '"' + cell.replace('"', '""') + '"'
        return cell

    end = draw(st.sampled_from(("\n", "\r\n", "\r", "\n\n")))
    text = end.join(separator.join(map(spelled, row)) for row in [list(names), *rows])
    encoding = draw(st.sampled_from(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16")))
    data = text.encode(encoding, "surrogatepass")
    return draw(mangled(data)) if draw(st.booleans()) else data


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A jsonl file of texts with labels, edited and mangled."""
    rows = draw(st.lists(edited({"text": "a fine day", "label": draw(cells)}), max_size=6))
    good = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(draw(st.integers(0, 6)))]
    data = "\n".join(json.dumps(row) for row in [*good, *rows]).encode()
    return draw(mangled(data)) if draw(st.booleans()) else data


@st.composite
def parquets(draw: st.DrawFn) -> bytes:
    """A parquet file with columns of any kind, or a mangled one."""
    count = draw(st.integers(0, 6))
    kinds = [
        pa.array([f"text {i}" for i in range(count)]),
        pa.array([None] * count),
        pa.array([b"\xff"] * count),
        pa.array([i % 2 for i in range(count)]),
        pa.array([float("nan")] * count),
        pa.array([["a"]] * count),
        pa.array([{"a": 1}] * count),
        pa.array([18_000] * count, type=pa.int32()).cast(pa.date32()),
        pa.array(["ab"[i % 2] for i in range(count)]).dictionary_encode(),
        pa.array([True] * count),
    ]
    columns = {name: draw(st.sampled_from(kinds)) for name in draw(headers)}
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return draw(mangled(data)) if draw(st.booleans()) else data


TOML = (
    *('name = "t"', 'backbone = "b"', 'task = "t.csv"', "seeds = [0]", "[methods.lora]"),
    *("[methods.full]", "[train]", "[data]", "[tune]", "[ask]", "epochs = 1", "max_steps = 2", "r = 4"),
    *("learning_rate = 1e-3", 'head = "words"', "batch_size = 8", 'template = "{text}"'),
    *("[methods.lora.search]", "r = [2, 4]", 'labels = ["a", "b"]', 'method = "lora"'),
    *("candidates = 2", "seeds = [0, 0]", "train_examples = 3", "validation = 0.2"),
    *('words = {a = ["b"]}', "[ask.words]", 'targets = ["x"]'),
)
KEYS = (
    *("name", "backbone", "task", "seeds", "epochs", "r", "alpha", "dropout", "learning_rate"),
    *("template", "words", "head", "data.labels", "train.epochs", "methods.lora.r", "methods", "tune"),
    *("tune.candidates", "ask.words", "train", "clip"),
)
SPELLED = (
    *("0", "-1", "1e400", "nan", "inf", '""', "[]", "{}", "[[]]", "true", "1979-05-27", '"x"'),
    *("99999999999999999999", "[1, 'a']"),
)


@st.composite
def studies(draw: st.DrawFn) -> bytes:
    """A study file of lines that belong in one, in any order, with odd values, or mangled."""
    odd = st.tuples(st.sampled_from(KEYS), st.sampled_from(SPELLED)).map(" = ".join)
    rest = draw(st.lists(st.sampled_from(TOML) | odd, max_size=8))
    start = list(TOML[:5]) if draw(st.integers(0, 3)) else []
    data = "\n".join([*start, *rest]).encode()
    return draw(mangled(data)) if draw(st.integers(0, 3)) == 0 else data
