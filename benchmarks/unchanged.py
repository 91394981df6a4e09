"""Facts that a change of the code must not change: digests, run keys, figures, answers, receipts and trials.

    python benchmarks/unchanged.py FACTS.json                      write what this checkout gives
    python benchmarks/unchanged.py FACTS.json --against OLD.json   the same, and exit 1 where it differs from OLD.json

Both files have to come from one machine with one number of threads: trained weights differ between processors. The
facts are of twelve runs (five methods on the shapes of GPT-2 and LLaMA, and one on the embedded model), nine metrics of
three kinds of task, six adapters behind a server, a published version, and the trials of a tuned study. The script uses
the command line and the public library alone, so that one version of it measures several checkouts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from afina import Adapter, AdapterStore, Predictor, Results, Run
from fakes import Backbones, sentences, write_csv

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
backbone = "gpt2-0.1-0"
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
TIMED = ("seconds", "tokens_per_second", "memory", "environment", "content_digest", "study")
"""Fields of a record that differ between two executions of one run."""


def main() -> None:
    """Write the facts; compare them where another file is given."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("facts", type=Path)
    asked.add_argument("--against", type=Path)
    asked.add_argument("--without-embedded", action="store_true", help="leave out the run on the embedded model")
    given = asked.parse_args()
    target = given.facts.resolve()
    against = json.loads(given.against.read_bytes()) if given.against else None
    with tempfile.TemporaryDirectory() as room:
        os.chdir(room)  # addresses are relative, so that keys are the same wherever this runs
        found = json.loads(json.dumps(facts(embedded=not given.without_embedded)))
    target.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(f"{sum(1 for _ in leaves(found)):,} facts in {target.name}")
    if against is not None:
        then, now = dict(leaves(against)), dict(leaves(found))
        differing = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
        for name in differing[:40]:
            print(f"{name}: was {then.get(name)!r}, is {now.get(name)!r}")
        print(f"{len(differing)} of {len(then):,} differ")
        sys.exit(bool(differing))


def leaves(value: Any, name: str = "") -> Any:
    """Every value of a JSON document with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}/{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{name}/{place}")
    else:
        yield name, value


def facts(*, embedded: bool) -> dict[str, Any]:
    """All of them; files appear in the current directory."""
    backbones = Backbones(Path())
    for family in ("gpt2", "llama"):
        backbones.path(family)
    write_tasks()
    return {
        "runs": runs(embedded=embedded),
        "kinds": kinds(),
        "served": served(),
        "tuned": tuned(),
    }


def write_tasks() -> None:
    """A task of each kind, of invented sentences."""
    drawn, rows = random.Random(0), sentences(120)
    write_csv(Path("classes.csv"), [(text, ("bad", "good")[label]) for text, label in rows])
    write_csv(Path("number.csv"), [(text, f"{label + drawn.random():.3f}") for text, label in rows])
    several = [";".join(name for name in ("loud", "late", "good") if drawn.random() < 0.4) for _ in rows]
    write_csv(Path("labels.csv"), [(text, made or "late") for (text, _), made in zip(rows, several, strict=True)])


def run_of(method: str, task: str = "classes.csv", *, family: str = "gpt2", dtype: str = "float32", **more: Any) -> Run:
    """A few steps."""
    training = {"max_steps": 6, "batch_size": 8, "dtype": dtype, "learning_rate": 5e-3}
    return Run(backbone=f"{family}-0.1-0", task=task, method=method, training=training, **more)


def executed(run: Run, out: str) -> tuple[dict[str, Any], Path]:
    """What a run comes to, without what is measured in seconds and bytes; its adapter."""
    record = run.execute(out, listen=lambda _: None)
    told = {key: value for key, value in record.model_dump(mode="json").items() if key not in TIMED}
    adapter = Adapter.load(Path(out) / record.adapter)
    manifest = adapter.manifest.model_dump(mode="json", exclude={"environment", "versions", "claims_digest"})
    return {"run key": run.key, "record": told, "manifest": manifest, "digest": adapter.digest}, Path(
        out
    ) / record.adapter


def runs(*, embedded: bool) -> dict[str, Any]:
    """Twelve runs: every one's key, record, manifest and digest."""
    found = {}
    for method in METHODS:
        for family, dtype in (("gpt2", "float32"), ("llama", "bfloat16")):
            found[f"{method} {family} {dtype}"] = executed(run_of(method, family=family, dtype=dtype), "runs")[0]
    found["lora gpt2 bfloat16"] = executed(run_of("lora", dtype="bfloat16"), "runs")[0]
    if embedded:
        run = Run(backbone="embedded", task="classes.csv", method="lora", training={"max_steps": 4, "dtype": "float32"})
        found["lora embedded"] = executed(run, "runs")[0]
    return found


def kinds() -> dict[str, Any]:
    """Nine headline metrics, three of each kind of task."""
    found = {}
    for kind, metrics in METRICS.items():
        data = {"kind": kind, "separator": ";"} if kind == "labels" else {"kind": kind}
        for metric in metrics:
            run = run_of("lora", f"{kind}.csv", data=data, metric=metric)
            made, adapter = executed(run, "kinds")
            answers = Predictor.load(adapter)(["a loud film", "the late train was good", "x"])
            found[f"{kind} {metric}"] = made | {"answers": answers}
    return found


def served() -> dict[str, Any]:
    """Six adapters of one backbone, published and asked by several protocols; what a version says of itself."""
    store = AdapterStore("store", who="ada")
    names = []
    for number, (method, hyperparameters) in enumerate(SERVED):
        run = run_of(method, hyperparameters=hyperparameters, family="llama", name=f"served-{number}")
        _, adapter = executed(run, "served")
        names.append(f"acme/task-{number}")
        store.publish(adapter, names[-1], message="first")
        store.alias(f"{names[-1]}@1", "production")
    secret = command("keys", "create", "acme", "--store", "store").strip().splitlines()[-1]
    shown = json.loads(command("store", "show", f"{names[0]}@1", "--store", "store", "--json"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["serve", "--store", "store", "--backbone", "llama-0.1-0", "--port", str(port)]
    with Path("serve.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "afina", *arguments], stdout=log, stderr=log)
    try:
        answers = ask_all(f"http://127.0.0.1:{port}", secret, names)
    finally:
        server.terminate()
        server.wait()
    timed = ("published", "created", "when", "at")
    return {"answers": answers, "version": {key: value for key, value in shown.items() if key not in timed}}


def ask_all(url: str, secret: str, names: list[str]) -> dict[str, Any]:
    """Answers and receipts, by protocol and name."""
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/health/ready").read()
            break
        except OSError:
            time.sleep(0.1)
    found: dict[str, Any] = {}
    texts = ["a loud film", "the late train was good", "x"]
    for name in names:
        model = f"{name}@production"
        asked = {
            "/predict": {"model": model, "inputs": texts},
            "/classify": {"model": model, "input": texts},
            f"/v2/models/{name}/infer": {
                "inputs": [{"name": "text", "shape": [3], "datatype": "BYTES", "data": texts}],
            },
        }
        for path, body in asked.items():
            found[f"{path} {name}"] = ask(url + path, secret, body)
    return found


def ask(url: str, secret: str, body: dict[str, Any]) -> dict[str, Any]:
    """Status, receipt and JSON of one request, without what is drawn for it."""
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answered:
            status, heads, text = answered.status, answered.headers, answered.read()
    except urllib.error.HTTPError as error:
        status, heads, text = error.code, error.headers, error.read()
    told = json.loads(text)
    for drawn in ("id", "created"):
        told.pop(drawn, None) if isinstance(told, dict) else None
    return {"status": status, "receipt": heads.get("Afina-Receipt"), "told": told}


def tuned() -> dict[str, Any]:
    """The trials of a tuned study, and what its runs came to."""
    Path("tuned.toml").write_text(STUDY)
    command("study", "tuned.toml", "--out", "tuned")
    results = Results.read("tuned")
    found = [one.model_dump(mode="json", exclude={"seconds"}) for one in results.tuned]
    for one in found:
        for trial in one["trials"]:
            trial.pop("seconds")
    request = json.loads(Path("tuned/study.json").read_bytes())
    records = [
        {key: value for key, value in one.model_dump(mode="json").items() if key not in TIMED}
        for one in results.records
    ]
    return {"trials": found, "request": request, "records": records}


def command(*arguments: str) -> str:
    """What the command line prints. Raises CalledProcessError."""
    done = subprocess.run([sys.executable, "-m", "afina", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"afina {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
