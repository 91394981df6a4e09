"""The speed and size of a store, compared with MLflow's registry on SQLite.

    python benchmarks/store.py --mlflow VENV/bin/python

Adapters are GPT-2 LoRAs of rank 4 (0.6 MB) with random values. Store and MLflow publish the same directories in turns,
in one run.

`--mlflow` names an interpreter that has MLflow; without it, only the store is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import machine
from afina import Adapter, AdapterStore, digest
from afina.models.manifest import Manifest
from elsewhere import Elsewhere

NAME = "acme/reviews"
LAYERS, WIDTH, RANK = 12, 768, 4
PROCESSES = 8
LIST, SHOW = ["list", "--json"], ["show", NAME, "--json"]


def adapter(path: Path, seed: int, layers: int = LAYERS) -> Path:
    """A directory such as a run leaves."""
    torch.manual_seed(seed)
    before = "base_model.model."
    tensors = {f"{before}score.weight": torch.randn(2, WIDTH)}
    for layer in range(layers):
        name = f"{before}transformer.h.{layer}.attn.c_attn"
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, WIDTH)
        tensors[f"{name}.lora_B.weight"] = torch.randn(3 * WIDTH, RANK)
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": ["c_attn"], "task_type": "SEQ_CLS"}
    manifest = Manifest(
        method="lora",
        hyperparameters={"r": RANK, "alpha": 16, "dropout": 0.05, "targets": ["c_attn"]},
        label_names=("negative", "positive"),
        backbone="gpt2",
        backbone_digest=digest.of_bytes(b"gpt2"),
        tokenizer_digest=digest.of_bytes(b"tokenizer"),
        family="gpt2",
        tensor_file="adapter_model.safetensors",
        tensors_digest=digest.of_tensors(tensors),
        max_length=128,
        metrics={"accuracy": 0.9},
    ).sealed()

    def accompany(fresh: Path) -> None:
        (fresh / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")

    Adapter(manifest, tensors).save(path, accompany)
    return path


def seconds(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def command(url: Path, arguments: list[str], times: int = 7) -> float:
    """Median seconds of `afina store ...`, the interpreter's start included."""
    whole = [sys.executable, "-m", "afina", "store", "--store", str(url), *arguments]
    return statistics.median(
        seconds(lambda: subprocess.run(whole, check=True, capture_output=True)) for _ in range(times)
    )


def listing(command: list[str], times: int = 3) -> float:
    """Median seconds of a fresh process of MLflow that lists."""
    once = [*command, "list"]
    return statistics.median(
        seconds(lambda: subprocess.run(once, check=True, capture_output=True)) for _ in range(times)
    )


def publish_share(url: str, paths: list[Path], name: str) -> list[int]:
    """The numbers that a process is given."""
    store = AdapterStore(url)
    return [store.publish(path, name, message="benchmark").version.number for path in paths]


def together(url: Path, paths: list[Path]) -> tuple[float, list[int]]:
    """All of `paths` from PROCESSES processes at once: seconds from the first to the last, and their numbers."""
    shares = [paths[start::PROCESSES] for start in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("forkserver")) as pool:
        list(pool.map(len, shares))  # the interpreters are there
        start = time.perf_counter()
        found = list(pool.map(publish_share, [str(url)] * len(shares), shares, ["acme/together"] * len(shares)))
        return time.perf_counter() - start, sorted(number for part in found for number in part)


def size(directory: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def measure(root: Path, versions: int, many: int, mlflow: str | None) -> dict[str, Any]:
    """All figures, in seconds and bytes."""
    url = root / "store"
    store = AdapterStore(url)
    registry = Elsewhere(mlflow, "mlflow_arm.py", str(root / "mlflow")) if mlflow else None
    times: dict[str, list[float]] = {"publish": [], "mlflow publish": []}
    for seed in range(versions):
        path = adapter(root / "adapters" / str(seed), seed)
        if seed % 2 and registry:
            times["mlflow publish"].append(registry(["publish", str(path)])["seconds"])
        times["publish"].append(seconds(lambda path=path: store.publish(path, NAME, message="benchmark")))
        if not seed % 2 and registry:
            times["mlflow publish"].append(registry(["publish", str(path)])["seconds"])
    store.alias(f"{NAME}@1", "production")
    found: dict[str, Any] = {key: statistics.median(value) for key, value in times.items() if value}
    found["publish, 95th percentile"] = statistics.quantiles(times["publish"], n=20)[-1]
    found["get by alias"] = statistics.median(seconds(lambda: store.show(f"{NAME}@production")) for _ in range(20))
    found["list"], found["show"] = command(url, LIST), command(url, SHOW)
    found["bytes"], found["versions"] = size(url), versions
    found["verify"] = seconds(store.verify)
    if registry:
        found["mlflow version"] = registry.hello["version"]
        registry(["alias"])
        found["mlflow get by alias"] = statistics.median(registry(["get"])["seconds"] for _ in range(20))
        registry.close()
        found["mlflow list"], found["mlflow bytes"] = listing(registry.command), size(root / "mlflow")
    found["together"], numbers = together(url, [root / "adapters" / str(seed) for seed in range(min(100, versions))])
    found["together, complete"] = numbers == list(range(1, len(numbers) + 1))
    small = root / "many"
    crowd = AdapterStore(small)
    for number in range(many):
        path = adapter(root / "small", number, layers=0)
        crowd.publish(path, f"client-{number % 100}/{NAME.partition('/')[2]}", message="benchmark")
    if many:
        shown = ["show", f"client-0/{NAME.partition('/')[2]}", "--json"]
        found["many"], found["list, many"], found["show, many"] = many, command(small, LIST), command(small, shown)
    return found


def told(found: dict[str, Any]) -> Iterator[str]:
    """Lines of Markdown."""
    other = f"MLflow {found['mlflow version']}" if "mlflow version" in found else "MLflow"
    yield from machine.describe()
    yield ""
    yield f"| {found['versions']:,} versions of a GPT-2 LoRA, rank 4 | afina | {other} on SQLite |"
    yield "| --- | ---: | ---: |"
    for what, key in (
        ("publish, median of library calls", "publish"),
        ("get by alias, median of library calls", "get by alias"),
        ("list, a process from start to end", "list"),
    ):
        beside = f"{1000 * found[f'mlflow {key}']:.0f} ms" if f"mlflow {key}" in found else "-"
        yield f"| {what} | {1000 * found[key]:.0f} ms | {beside} |"
    beside = f"{found['mlflow bytes'] / 1e6:,.0f} MB" if "mlflow bytes" in found else "-"
    yield f"| size | {found['bytes'] / 1e6:,.0f} MB | {beside} |"
    yield ""
    yield f"- publish, 95th percentile: {1000 * found['publish, 95th percentile']:.0f} ms"
    yield f"- show, a process from start to end: {1000 * found['show']:.0f} ms; verify of all: {found['verify']:.1f} s"
    complete = "no number lost or given twice" if found["together, complete"] else "NUMBERS ARE MISSING"
    yield f"- the first 100 of them again from {PROCESSES} processes at once: {found['together']:.1f} s, {complete}"
    if "many" in found:
        lists = f"list {1000 * found['list, many']:.0f} ms, show {1000 * found['show, many']:.0f} ms"
        yield f"- with {found['many']:,} versions of 100 names: {lists}"


def main() -> None:
    """Print the figures, and at last one JSON object of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=1000, help="of a GPT-2 LoRA")
    parser.add_argument("--many", type=int, default=10_000, help="of small adapters, for list and show")
    parser.add_argument("--mlflow", metavar="PYTHON", help="an interpreter that has MLflow")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="afina-store-") as place:
        found = measure(Path(place), options.versions, options.many, options.mlflow)
    print("\n".join(told(found)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
