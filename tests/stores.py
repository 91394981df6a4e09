"""Adapters that cost nothing to make, and all that a store shows of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from afina import Adapter, digest
from afina.data.text_hashes import TextHashes
from afina.models.manifest import Manifest
from afina.store.adapter_store import AdapterStore

BODY, HEAD = "model.layers.0.q_proj.lora_A.weight", "score.weight"


def adapter(path: Path, body: int = 0, head: int = 0, trained_on: TextHashes | None = None, **changes: Any) -> Path:
    """The directory of an adapter of two small tensors, full of those numbers."""
    tensors = {BODY: torch.full((2, 4), float(body)), HEAD: torch.full((2, 4), float(head))}
    facts: dict[str, Any] = {
        "method": "lora",
        "hyperparameters": {"rank": 2},
        "label_names": ("bad", "good"),
        "backbone": "invented/backbone",
        "backbone_digest": digest.of_bytes(b"backbone"),
        "tokenizer_digest": None,
        "family": "llama",
        "tensor_file": "adapter_model.safetensors",
        "tensors_digest": digest.of_tensors(tensors),
        "max_length": 32,
        "task": "invented.csv",
        "metrics": {"accuracy": 0.75},
    }
    Adapter(Manifest(**(facts | changes)).sealed(), tensors, trained_on=trained_on).save(path)
    return path


def versioned(root: Path, count: int) -> AdapterStore:
    """A store with so many versions of `acme/reviews`, of which `production` is the first."""
    made = AdapterStore(root / "store", who="ada")
    for head in range(count):
        made.publish(adapter(root / f"adapter-{head}", 0, head), "acme/reviews", message="why")
    made.alias("acme/reviews@1")
    return made


def seen(store: AdapterStore, *, bytes_too: bool = True) -> dict[str, Any]:
    """All that a store shows: names, versions, what was done, the log, and the adapters' tensors."""
    names = [one.name for one in store.list()]
    shown: dict[str, Any] = {"list": [one.as_json() for one in store.list()]}
    for name in names:
        versions = store.versions(name)
        shown[f"versions of {name}"] = [{**one.as_json(), "manifest": dict(one.manifest)} for one in versions]
        shown[f"history of {name}"] = [one.as_json() for one in store.history(name)]
        for version in versions:
            if not version.deleted:
                found = store.show(f"{version}")
                shown[f"{version}"] = {**found.as_json(), "manifest": dict(found.manifest)}
                if bytes_too:
                    made = store.adapter(f"{version}")
                    shown[f"bytes of {version}"] = (made.digest, digest.of_tensors(made.tensors))
    shown["log"] = [entry.as_json() for entry in store.log()]
    shown["size"] = store.size()
    return shown


def kept(store: AdapterStore) -> set[str]:
    """The digests that the files of a store's blobs are named by."""
    root = store.address.directory
    assert root
    return {f"sha256:{path.name.split('-')[1]}" for path in (root / "blobs").glob("??/sha256-*")}


def held(store: AdapterStore) -> set[str]:
    """The digests that versions hold."""
    versions = [version for one in store.list() for version in store.versions(one.name)]
    return {part.digest for version in versions for part in version.parts.values()}
