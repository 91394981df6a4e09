"""Facts that a change of the code must not change: what is read, trained, answered, chosen and reported.

    python benchmarks/unchanged.py FACTS.json                      write what this checkout gives
    python benchmarks/unchanged.py FACTS.json --against OLD.json   the same, and exit 1 where it differs from OLD.json
    python benchmarks/unchanged.py FACTS.json --only readers text  some parts only; `--against` then compares these

Both files have to come from one machine with one number of threads: trained weights differ between processors. The
script uses the command line and the public library alone, so that one version of it measures several checkouts: run it
with the Python of another checkout. `PARTS` lists what it looks at.

Two kinds of difference do not count as changes, and are printed apart: names of content (keys, digests, receipts, and
text that differs in hexadecimal numbers only) with fields that one checkout leaves out; and the words of errors.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
import transformers

import afina
import reader_corpus
from afina import Adapter, AdapterStore, Predictor, Results, Run, recommend
from vocabularies import TOKENIZERS, VOCABULARY, byte_pairs, sentences

METHODS = ("full", "lora", "ia3", "prelayer", "adapter")
SERVED = (
    ("lora", {}),
    ("lora", {"dora": True}),
    ("vera", {}),
    ("ia3", {}),
    ("prefix", {}),
    ("head", {}),
)
METRICS = {
    "classes": ("accuracy", "f1", "mcc"),
    "number": ("pearson", "rmse", "mae"),
    "labels": ("micro_f1", "macro_f1", "exact_match"),
}
STUDY = """
name = "tuned"
backbone = "gpt2"
task = "classes.csv"
seeds = [0, 1]

[train]
max_steps = 8
batch_size = 8
dtype = "float32"

[tune]
candidates = 4

[methods.lora]
[methods.ia3]
"""
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
    },
}
"""Of the random models, by family."""

CHAT = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
TEXTS = ["a loud film", "the late train was good", "x"]
DECODINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"beams": 3, "length_penalty": 1.5},
    "no repetition": {"no_repeat_ngram": 2, "max_new_tokens": 24},
    "sampled": {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "seed": 3},
    "penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.5},
    "stopped": {"stop": ["a", "e"], "max_new_tokens": 24},
}
TIMED = frozenset(
    (
        "seconds",
        "tokens_per_second",
        "memory",
        "environment",
        "content_digest",
        "study",
        "versions",
        "claims_digest",
        "stages",
        "needed",
        "available",
        "published",
        "created",
        "when",
        "at",
    )
)
"""Fields that differ between two executions of the same thing."""

NAMED = re.compile(r"(^|[ _-])(key|keys|digest|digests|receipt|format|content_digest)($|[ _-])")
"""Names of fields whose values name content, or the format of a file."""

HEXADECIMAL = re.compile(r"[0-9a-f]{8,}")


def main() -> None:
    """Write the facts; compare them where another file is given."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("facts", type=Path)
    asked.add_argument("--against", type=Path)
    asked.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    given = asked.parse_args()
    target = given.facts.resolve()
    against = json.loads(given.against.read_bytes()) if given.against else None
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as room:
        os.chdir(room)  # addresses are relative, so that keys are the same wherever this runs
        begin()
        for name in given.only:
            start = time.perf_counter()
            found[name] = json.loads(json.dumps(PARTS[name]()))
            print(f"{name}: {sum(1 for _ in leaves(found[name])):,} facts, {time.perf_counter() - start:.0f} s")
    target.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if against is not None:
        sys.exit(compared({name: against[name] for name in given.only}, found))


def compared(then: Any, now: Any) -> int:
    """Print what differs; 1 if anything but names of content, absent fields and words of errors does."""
    old, new = dict(leaves(then)), dict(leaves(now))
    apart: dict[str, list[str]] = {"words of errors": [], "names of content": [], "absent fields": [], "facts": []}
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            table, _, last = name.rpartition("/")
            of_error = "/fields/" in name and not (f"{table}/#" in old and f"{table}/#" in new)  # the whole list
            empty = {old.get(name, 0), new.get(name, 0)} == {0}  # an absent field, or one without items
            fact = last == "outcome" or ((last.isdecimal() or (last == "#" and not empty)) and not of_error)
            apart["facts" if fact else "absent fields"].append(name)
        elif old[name] != new[name]:
            apart[kind_of_difference(name, old[name], new[name])].append(name)
    for kind, names in apart.items():
        for name in names[:40]:
            print(f"{kind}: {name}: was {old.get(name, '(absent)')!r}, is {new.get(name, '(absent)')!r}")
    differing = {kind: len(names) for kind, names in apart.items()}
    print(", ".join(f"{count} {kind}" for kind, count in differing.items()), f"differ, of {len(old):,}")
    return int(bool(apart["facts"]))


def kind_of_difference(name: str, old: Any, new: Any) -> str:
    """A key of `apart` in `compared`, for a fact that both have."""
    last = name.rpartition("/")[2]
    if last in ("words of error", "error", "message"):
        return "words of errors"
    both = isinstance(old, str) and isinstance(new, str)
    if NAMED.search(last) or (both and HEXADECIMAL.sub("", old) == HEXADECIMAL.sub("", new)):
        return "names of content"
    return "facts"


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a JSON document with its path, and the length of each list."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}/{str(key).replace('/', '|')}")
    elif isinstance(value, list):
        yield f"{name}/#", len(value)
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{name}/{place}")
    else:
        yield name, value


def without(value: Any, dropped: frozenset[str] = TIMED) -> Any:
    """A JSON document without the fields of these names, however deep."""
    if isinstance(value, dict):
        return {name: without(inner, dropped) for name, inner in value.items() if name not in dropped}
    return [without(one, dropped) for one in value] if isinstance(value, list | tuple) else value


# Models and tasks


def begin() -> None:
    """Write random models and tasks of each kind, of invented sentences, to the current directory."""
    transformers.utils.logging.disable_progress_bar()
    for family in CONFIGURATIONS:
        save_model(family)
    shutil.copytree("gpt2", "chat")
    words = transformers.AutoTokenizer.from_pretrained("chat")
    words.chat_template = CHAT
    words.save_pretrained("chat")
    drawn, rows = random.Random(0), sentences(120)
    write("classes.csv", [(text, ("bad", "good")[label]) for text, label in rows])
    write("number.csv", [(text, f"{label + drawn.random():.3f}") for text, label in rows])
    several = [";".join(name for name in ("loud", "late", "good") if drawn.random() < 0.4) for _ in rows]
    write("labels.csv", [(text, made or "late") for (text, _), made in zip(rows, several, strict=True)])
    replies = [(text, f"It is {('bad', 'good')[label]}, said {text.split()[-1]}") for text, label in rows]
    write("replies.csv", replies, "prompt,completion")


def save_model(family: str) -> None:
    """Random weights, also of norms and biases, so that no parameter is idle."""
    common = {"vocab_size": VOCABULARY, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}
    config = transformers.AutoConfig.for_model(family, **common, **CONFIGURATIONS[family])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(family)
    TOKENIZERS.get(family, byte_pairs)().save_pretrained(family)


def write(path: str, rows: Sequence[Sequence[Any]], header: str = "text,label") -> None:
    """Write a csv file."""
    Path(path).write_bytes(reader_corpus.as_csv(rows, header))


def run_of(method: str, task: str = "classes.csv", *, backbone: str = "gpt2", **more: Any) -> Run:
    """A few steps. `training`: settings beside the usual ones."""
    training = {"max_steps": 6, "batch_size": 8, "dtype": "float32", "learning_rate": 5e-3} | more.pop("training", {})
    return Run(backbone=backbone, task=task, method=method, training=training, **more)


def executed(run: Run, out: str) -> tuple[dict[str, Any], Path]:
    """What a run comes to, without what is measured in seconds and bytes; its adapter."""
    record = run.execute(out, listen=lambda _: None)
    path = Path(out) / record.adapter
    adapter = Adapter.load(path)
    manifest = without(adapter.manifest.model_dump(mode="json"))
    told = without(record.model_dump(mode="json"))
    return {"run key": run.key, "record": told, "manifest": manifest, "digest": adapter.digest}, path


# Parts


def readers() -> dict[str, Any]:
    """What the files of `reader_corpus` give: rows, kinds, targets, notes and errors."""
    _, adapter = executed(run_of("head", training={"max_steps": 1}), "readers")
    Path("corpus").mkdir()
    with chdir("corpus"):
        return reader_corpus.facts(Path("..") / adapter, Path("../gpt2"))


def runs() -> dict[str, Any]:
    """Five methods on the shapes of GPT-2 and LLaMA: every run's key, record, manifest and digest."""
    found = {}
    for method in METHODS:
        for family, dtype in (("gpt2", "float32"), ("llama", "bfloat16")):
            run = run_of(method, backbone=family, training={"dtype": dtype})
            found[f"{method} {family} {dtype}"] = executed(run, "runs")[0]
    found["lora gpt2 bfloat16"] = executed(run_of("lora", training={"dtype": "bfloat16"}), "runs")[0]
    return found


def embedded() -> dict[str, Any]:
    """A run on the embedded model."""
    run = Run(backbone="embedded", task="classes.csv", method="lora", training={"max_steps": 4, "dtype": "float32"})
    return executed(run, "embedded")[0]


def minilm() -> dict[str, Any]:
    """Three methods on the packaged encoder, and what they answer."""
    found = {}
    for method in ("lora", "head", "linear_probe"):
        run = Run(backbone="minilm", task="classes.csv", method=method, training={"max_steps": 4, "dtype": "float32"})
        made, adapter = executed(run, "minilm")
        found[method] = made | {"answers": Predictor.load(adapter)(TEXTS)}
    return found


def int8() -> dict[str, Any]:
    """Runs on a frozen base of int8, and answers that are computed in int8."""
    found = {}
    for method in ("lora", "head"):
        for family in CONFIGURATIONS:
            run = run_of(method, backbone=family, training={"precision": "int8"})
            made, adapter = executed(run, "int8")
            found[f"{method} {family}"] = made | {"answers": Predictor.load(adapter)(TEXTS)}
            said = command("predict", adapter, *TEXTS, "--dtype", "int8")
            found[f"{method} {family} int8"] = [json.loads(line) for line in said.splitlines()]
    return found


def kinds() -> dict[str, Any]:
    """Nine headline metrics, three of each kind of task with labels."""
    found = {}
    for kind, metrics in METRICS.items():
        data = {"kind": kind, "separator": ";"} if kind == "labels" else {"kind": kind}
        for metric in metrics:
            made, adapter = executed(run_of("lora", f"{kind}.csv", data=data, metric=metric), "kinds")
            found[f"{kind} {metric}"] = made | {"answers": Predictor.load(adapter)(TEXTS)}
    return found


def written(method: str, backbone: str, **more: Any) -> tuple[dict[str, Any], Path]:
    """A run on the task of texts to write."""
    run = run_of(method, "replies.csv", backbone=backbone, **more)
    return executed(run, "text")


def text() -> dict[str, Any]:
    """Runs of a task of texts to write, and answers by every decoding."""
    asked = (("lora", "gpt2", {}), ("full", "llama", {"training": {"dtype": "bfloat16"}}), ("prefix", "llama", {}))
    asked += (("lora", "chat", {"ask": {"template": "chat"}}), ("zero-shot", "gpt2", {}))
    found: dict[str, Any] = {}
    for method, backbone, more in asked:
        name = f"{method} {backbone}"
        found[name], adapter = written(method, backbone, **more)
        for decoding, settings in DECODINGS.items():
            found[name][decoding] = list(Predictor.load(adapter).generating(**settings)(TEXTS))
    return found


def choose() -> dict[str, Any]:
    """Recommendations where only linear models fit in memory: their figures, and what is said."""
    found = {}
    for kind in ("classes", "number", "labels", "replies"):
        data = {"separator": ";"} if kind == "labels" else {}
        recommend(f"{kind}.csv", 5, memory=1 << 20, backbone="gpt2", out=f"chosen/{kind}", data=data)
        made = json.loads(Path("chosen", kind, "recommendation.json").read_bytes())
        found[kind] = without(made)
    return found


def tuned() -> dict[str, Any]:
    """The trials of a tuned study, what its runs came to, and its tables."""
    Path("tuned.toml").write_text(STUDY)
    command("study", "tuned.toml", "--out", "tuned")
    results = Results.read("tuned")
    return {
        "trials": without([one.model_dump(mode="json") for one in results.tuned]),
        "request": json.loads(Path("tuned/study.json").read_bytes()),
        "records": without([one.model_dump(mode="json") for one in results.records]),
        "verdicts": json.loads(Path("tuned/tables.json").read_bytes())["verdicts"],
    }


def reports() -> dict[str, Any]:
    """The tables and words of the reports of the docs, made again from their records."""
    found = {}
    for kept in ("example-report", "methods-report"):
        shutil.copytree(Path(afina.__file__).parents[2] / "docs" / kept, kept)
        for name in ("report.md", "report.html", "tables.csv", "tables.json"):
            Path(kept, name).unlink()
        shown = command("show", kept).splitlines()
        command("report", kept)
        tables = json.loads(Path(kept, "tables.json").read_bytes())
        lines = Path(kept, "report.md").read_text().splitlines()
        found[kept] = {"tables": tables, "report": lines, "csv": Path(kept, "tables.csv").read_text(), "shown": shown}
    return found


# Servers


def served() -> dict[str, Any]:
    """Six adapters of one backbone, published and asked by several protocols; what a version says of itself."""
    names, published = [], []
    for number, (method, hyperparameters) in enumerate(SERVED):
        run = run_of(method, hyperparameters=hyperparameters, backbone="llama", name=f"served-{number}")
        names.append(f"acme/task-{number}")
        published.append((names[-1], executed(run, "served")[1]))
    found: dict[str, Any] = {}
    with serving("labels-store", "llama", published) as ask:
        for name in names:
            model = f"{name}@production"
            inputs = [{"name": "text", "shape": [3], "datatype": "BYTES", "data": TEXTS}]
            found[f"/predict {name}"] = ask("/predict", {"model": model, "inputs": TEXTS[0]})
            found[f"/classify {name}"] = ask("/classify", {"model": model, "input": TEXTS})
            found[f"/v2 infer {name}"] = ask(f"/v2/models/{name}/infer", {"inputs": inputs})
        found |= routes(ask, names[0])
    shown = json.loads(command("store", "show", f"{names[0]}@1", "--store", "labels-store", "--json"))
    return {"answers": found, "version": without(shown)}


def routes(ask: Ask, name: str) -> dict[str, Any]:
    """Every other route, and requests that are refused; `/openapi.json` without its sentences."""
    paths = ["/v1/models", f"/v1/models/{name}@1", "/v1/models/acme/none", "/info", "/health", "/health/live"]
    paths += ["/health/ready", "/v2", "/v2/health/live", "/v2/health/ready", f"/v2/models/{name}", "/keys", "/nowhere"]
    paths += [f"/v2/models/{name}/versions/1", f"/v2/models/{name}/ready", f"/shadows/{name}", "/predict", "/?a=1"]
    found = {f"GET {path}": ask(path) for path in paths}
    model = f"{name}@1"
    bodies: dict[str, tuple[str, Any]] = {
        "one text": ("/predict", {"model": model, "inputs": "one"}),
        "pair": ("/predict", {"model": model, "inputs": [["one", "two"]]}),
        "no body": ("/predict", b""),
        "no json": ("/predict", b"{"),
        "no object": ("/predict", []),
        "unknown field": ("/predict", {"model": model, "inputs": "one", "top": 3}),
        "unknown model": ("/predict", {"model": "acme/none", "inputs": "one"}),
        "unknown version": ("/predict", {"model": f"{name}@9", "inputs": "one"}),
        "no model": ("/predict", {"inputs": "one"}),
        "empty text": ("/predict", {"model": model, "inputs": ""}),
        "many texts": ("/predict", {"model": model, "inputs": ["x"] * 5000}),
        "classify without input": ("/classify", {"model": model}),
        "classify of a number": ("/classify", {"model": model, "input": 3}),
        "infer without inputs": (f"/v2/models/{name}/infer", {}),
        "infer of another shape": (
            f"/v2/models/{name}/infer",
            {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": TEXTS}]},
        ),
        "completion of labels": ("/v1/completions", {"model": model, "prompt": "x"}),
        "embeddings": ("/v1/embeddings", {"model": model, "input": "x"}),
        "tasks": ("/tasks", {"text": TEXTS[0], "models": [model, "acme/task-1@1"]}),
        "tasks without models": ("/tasks", {"text": TEXTS[0]}),
        "a key without scope": ("/keys", {"client": "acme"}),
        "bulk": (f"/bulk?model={model}", b'{"text": "one"}\n\n{"text": ""}\n{"no": 1}\n'),
        "bulk without model": ("/bulk", b'{"text": "one"}\n'),
    }
    found |= {said: ask(path, body) for said, (path, body) in bodies.items()}
    found |= {
        f"GET {path} with all scopes": ask(path, powers=True) for path in ("/nowhere", f"/shadows/{name}", "/keys/no")
    }
    series = ask("/metrics", powers=True)["told"]
    found["metrics"] = [line for line in series if line.startswith("# TYPE")]
    found["keys"] = ask("/keys", powers=True)
    found["without a key"] = ask("/predict", {"model": model, "inputs": "x"}, headers={"Authorization": ""})
    found["a large body"] = ask("/predict", b"{}", headers={"Content-Length": f"{1 << 30}"})
    found["a wrong key"] = ask("/predict", {"model": model, "inputs": "x"}, headers={"Authorization": "Bearer afina"})
    found["description"] = without(ask("/openapi.json")["told"], frozenset(("description", "summary", "version")))
    return found


def openai() -> dict[str, Any]:
    """OpenAI's completions, chats and responses of text adapters, whole and as streams, and what is refused."""
    adapters = [("acme/replies", written("lora", "chat")[1])]
    adapters.append(("acme/talk", written("lora", "chat", ask={"template": "chat"}, name="talk")[1]))
    adapters.append(("acme/reviews", executed(run_of("lora", backbone="chat"), "text")[1]))
    found: dict[str, Any] = {}
    with serving("texts-store", "chat", adapters) as ask:
        for name, (path, body) in {**COMPLETIONS, **CHATS, **RESPONSES}.items():
            found[name] = ask(path, body)
            found[f"{name}, streamed"] = ask(path, body | {"stream": True})
    return found


COMPLETION = {"model": "acme/replies@production", "prompt": "a loud film", "max_tokens": 12}
COMPLETIONS: dict[str, tuple[str, dict[str, Any]]] = {
    f"completion {name}": ("/v1/completions", COMPLETION | more)
    for name, more in {
        "plain": {},
        "several": {"prompt": TEXTS, "n": 2, "temperature": 0.8, "seed": 1},
        "logprobs": {"logprobs": 2},
        "echo": {"echo": True, "logprobs": 1, "max_tokens": 3, "prompt": [[5, 6, 7]]},
        "stop": {"stop": ["a", "e"]},
        "penalties": {"frequency_penalty": 1.0, "presence_penalty": 0.5},
        "bias": {"logit_bias": {"11": -100}},
        "choice": {"structured_outputs": {"choice": ["good", "bad"]}},
        "regex": {"structured_outputs": {"regex": "[0-9]{3}"}},
        "usage": {"stream_options": {"include_usage": True}},
        "no tokens": {"max_tokens": 0},
        "unknown field": {"colour": "red"},
        "unsupported": {"suffix": "x"},
        "beams": {"use_beam_search": True, "n": 2},
        "labels": {"model": "acme/reviews@production"},
        "unknown model": {"model": "acme/none"},
        "wrong type": {"prompt": 3},
        "many": {"n": 1000},
    }.items()
}
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a loud film"}]
TOOL = {
    "name": "rate",
    "description": "rate it",
    "parameters": {"type": "object", "properties": {"stars": {"enum": [1, 2]}}, "required": ["stars"]},
}
CHATS: dict[str, tuple[str, dict[str, Any]]] = {
    f"chat {name}": (
        "/v1/chat/completions",
        {"model": "acme/talk@production", "messages": MESSAGES, "max_completion_tokens": 12} | more,
    )
    for name, more in {
        "plain": {},
        "several": {"n": 2, "temperature": 0.8, "seed": 1},
        "logprobs": {"logprobs": True, "top_logprobs": 2},
        "object": {"response_format": {"type": "json_object"}, "max_completion_tokens": 40},
        "tool": {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required"},
        "usage": {"stream_options": {"include_usage": True}},
        "no messages": {"messages": []},
        "role": {"messages": [{"role": "robot", "content": "x"}]},
        "image": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "no chat": {"model": "acme/replies@production"},
    }.items()
}
RESPONSES: dict[str, tuple[str, dict[str, Any]]] = {
    f"response {name}": (
        "/v1/responses",
        {"model": "acme/talk@production", "input": "a loud film", "max_output_tokens": 12} | more,
    )
    for name, more in {
        "plain": {},
        "items": {"input": MESSAGES, "instructions": "be kind"},
        "sampled": {"temperature": 0.8, "top_p": 0.9},
        "logprobs": {"include": ["message.output_text.logprobs"], "top_logprobs": 1},
        "tool": {"tools": [{"type": "function", **TOOL}], "tool_choice": "required"},
        "stored": {"previous_response_id": "resp_1"},
        "unsupported": {"background": True},
        "no input": {"input": []},
    }.items()
}

Ask = Callable[..., dict[str, Any]]
"""`ask(path, body)`: the answer of a server to a GET, or to a POST of JSON or bytes."""


@contextmanager
def serving(store: str, backbone: str, adapters: Sequence[tuple[str, Path]]) -> Iterator[Ask]:
    """`afina serve` on a store in which the adapters are in production."""
    opened = AdapterStore(store, who="ada")
    for name, adapter in adapters:
        opened.publish(adapter, name, message="first")
        opened.alias(f"{name}@1", "production")
    scopes = [part for scope in ("predict", "publish", "metrics", "admin") for part in ("--scope", scope)]
    secret, powerful = (
        command("keys", "create", "acme", "--store", store, *more).strip().splitlines()[-1] for more in ([], scopes)
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["serve", "--store", store, "--backbone", backbone, "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with Path(f"{store}.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "afina", *arguments], stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health/ready").read()
                break
            except OSError:
                time.sleep(0.1)
        yield lambda path, body=None, headers=None, powers=False: answer(
            url + path, powerful if powers else secret, body, headers or {}
        )
    finally:
        server.terminate()
        server.wait()


def answer(url: str, secret: str, body: Any, headers: Mapping[str, str]) -> dict[str, Any]:
    """Status, receipt and content of an answer, without what is drawn for the request."""
    heads = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json", **headers}
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, heads)) as answered:
            status, told, content = answered.status, answered.headers, answered.read().decode()
    except urllib.error.HTTPError as error:
        status, told, content = error.code, error.headers, error.read().decode()
    kept = {name: told[name] for name in ("Content-Type", "Allow", "WWW-Authenticate", "Retry-After") if name in told}
    found = {"status": status, "headers": kept, "told": content_of(told.get_content_type(), content)}
    return found | ({"receipt": told["Afina-Receipt"]} if "Afina-Receipt" in told else {})


DRAWN = frozenset(
    ("created", "created_at", "completed_at", "item_id", "call_id", "system_fingerprint", "sequence_number")
)


def content_of(media: str, content: str) -> Any:
    """JSON, JSON lines or events, without ids and times; other text in lines."""
    if media == "application/json":
        return undrawn(json.loads(content)) if content else ""
    if media == "text/event-stream":
        return streamed([line.removeprefix("data: ") for line in content.splitlines() if line.startswith("data: ")])
    if media == "application/x-ndjson":
        return [undrawn(json.loads(line)) for line in content.splitlines()]
    return content.splitlines()


def streamed(data: Sequence[str]) -> dict[str, Any]:
    """What the events of a stream say in all: how many tokens an event holds depends on the machine."""
    events = [undrawn(json.loads(one)) for one in data if one.startswith("{")]
    kinds = [one.get("type", one.get("object", "error")) for one in events]
    found: dict[str, Any] = {
        "kinds": [kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind != before]
    }
    found["end"] = [one for one in data if not one.startswith("{")]
    for event, kind in zip(events, kinds, strict=True):
        if "choices" in event:
            found["rest"] = {name: inner for name, inner in event.items() if name != "choices"}
            for choice in event["choices"]:
                join(found.setdefault(f"choice {choice['index']}", {}), choice)
        elif kind.endswith(".delta"):
            join(found.setdefault(kind, {}), event)
        else:
            hidden = frozenset(("logprobs",) if kind.endswith(".added") else ())  # of the tokens that are there so far
            found.setdefault(f"whole {kind}", []).append(without(event, hidden))
    return found


def join(whole: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add a part of a stream: texts and lists are continued, objects are joined, other values are replaced."""
    for name, inner in part.items():
        if isinstance(inner, dict):
            whole[name] = whole.get(name) or {}
            join(whole[name], inner)
        elif name == "tool_calls":
            join(whole.setdefault(name, {}), {str(one["index"]): one for one in inner})
        elif isinstance(inner, list):
            whole[name] = [*(whole.get(name) or []), *inner]
        elif name in ("text", "content", "delta", "arguments") and isinstance(inner, str):
            whole[name] = (whole.get(name) or "") + inner
        elif inner is not None or name not in whole:
            whole[name] = inner


def undrawn(value: Any) -> Any:
    """Without what is drawn for a request: ids of answers, and times."""
    if isinstance(value, dict):
        kept = {name: inner for name, inner in value.items() if name not in DRAWN or isinstance(inner, dict)}
        if re.fullmatch(r"(.*[-_])?[0-9a-f-]{16,}(_[0-9]+)?", str(kept.get("id", ""))):
            del kept["id"]
        return {name: undrawn(inner) for name, inner in kept.items()}
    return [undrawn(one) for one in value] if isinstance(value, list) else value


def command(*arguments: object) -> str:
    """What the command line prints. Exits where it fails."""
    code, said = reader_corpus.command(*arguments)
    if code:
        sys.exit(f"afina {' '.join(map(str, arguments))}: {said}")
    return said


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    part.__name__: part
    for part in (readers, runs, kinds, text, int8, choose, tuned, reports, served, openai, minilm, embedded)
}
"""What is looked at, by the name in `--only`."""

if __name__ == "__main__":
    main()
