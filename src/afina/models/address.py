"""From a backbone's address to a directory that any `from_pretrained` of transformers opens.

What is on the Hub is fetched by `afina.hub`; `embedded` is converted, and `random:DIR` drawn, once in the cache. Knows
no head, and nothing of what is done with the model.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import torch
from filelock import FileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from afina import assets, digest, file_io, hub, tensorfile
from afina.digest import derive_seed
from afina.models.pretrained import quiet, read_config, read_tokenizer
from afina.models.source import EMBEDDED, RANDOM, directory

_CONVERSION = 1
"""Raised when the conversion of `embedded` changes, so that an older cache is not used."""


def locate(address: str, *, weights: bool = True) -> Path:
    """The directory of that address. Raises NotFound, InvalidStudy.

    weights  False: only the configuration and the tokenizer have to be there
    """
    if address == EMBEDDED:
        return _embedded()
    named = directory(address)
    if named is None:
        return hub.snapshot(address, weights=weights)
    return _random(named, address) if weights and address.startswith(RANDOM) else named


def _embedded() -> Path:
    target = assets.cache_directory() / f"embedded-{assets.ASSETS['smollm2'].sha256[:12]}-{_CONVERSION}"
    if target.is_dir():
        return target
    source = assets.fetch("smollm2")
    return _once(target, lambda fresh: _convert(source, fresh))


def _convert(source: Path, fresh: Path) -> None:
    with redirect_stderr(io.StringIO()):  # the conversion's progress bar ignores transformers' switch
        opened = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        # transformers refuses to save a model opened from GGUF, and keeps `quantization_config` in its
        # configuration although the tensors are plain float32: a model built anew carries neither.
        settings = opened.config.to_dict()
        settings.pop("quantization_config", None)
        settings.pop("_name_or_path", None)
        settings.pop("_model_name_or_path", None)
        plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32)
        plain.load_state_dict(opened.state_dict())
        plain.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)


def _random(source: Path, address: str) -> Path:
    config = read_config(source, address)
    with quiet():
        tokenizer = read_tokenizer(source, address)
    kept = sorted(p.name for p in source.iterdir() if p.suffix in {".json", ".txt", ".model"})
    target = assets.cache_directory() / f"random-{digest.of_files(source, kept).removeprefix(digest.PREFIX)[:16]}"

    def draw(fresh: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(0, "random backbone"))
            AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)

    return _once(target, draw)


def _once(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, filled by `make` where it is not there; by one process, while others wait."""
    if not target.is_dir():
        with file_io.writing(f"the cache {target.parent}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(target.parent / f"{target.name}.lock"):
                if not target.is_dir():
                    with quiet(), file_io.replacing(target) as fresh, tensorfile.system_errors():
                        make(fresh)
    return target
