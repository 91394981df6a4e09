"""Hashes of an adapter's training texts go wherever the adapter goes, unless they are left out; no digest has them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from afina import Adapter
from afina.data.split import Split
from afina.data.text_hashes import HASHES_FILE, TextHashes
from afina.errors import AfinaError, CorruptAdapter, Refused
from afina.store.adapter_store import AdapterStore
from afina.store.exchange import bundle
from raises import raises
from stores import adapter

TEXTS = Split(["a fine film", "dull"], np.zeros(2, np.int64))
HASHES = TextHashes.of(TEXTS)
NAME = "acme/reviews"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return adapter(tmp_path / "adapter", trained_on=HASHES)


def saw(one: Adapter) -> bool:
    return one.trained_on is not None and bool(one.trained_on.among(TEXTS).all())


def test_an_adapters_digest_is_the_same_with_and_without_them(made: Path, tmp_path: Path) -> None:
    one, other = Adapter.load(made), Adapter.load(adapter(tmp_path / "other"))
    assert (saw(one), other.trained_on) == (True, None)
    assert one.digest == other.digest


def test_a_store_keeps_verifies_and_exports_them_and_another_takes_them_in(
    store: AdapterStore, made: Path, tmp_path: Path
) -> None:
    store.publish(made, NAME, message="first")
    assert saw(store.adapter(NAME))
    assert store.verify() == []
    store.export(NAME, str(tmp_path / "out"))
    store.export(NAME, str(tmp_path / "out.tar"))
    assert (tmp_path / "out" / HASHES_FILE).read_bytes() == (made / HASHES_FILE).read_bytes()
    other = AdapterStore(tmp_path / "other")
    for number, source in enumerate(("out", "out.tar")):
        other.import_from(str(tmp_path / source), f"acme/reviews-{number}", message="from elsewhere")
        assert saw(other.adapter(f"acme/reviews-{number}"))
    assert other.verify() == []


def test_without_texts_nothing_of_them_is_published_or_exported(
    store: AdapterStore, made: Path, tmp_path: Path
) -> None:
    store.publish(made, NAME, message="first", texts=False)
    assert store.adapter(NAME).trained_on is None
    store.publish(made, "acme/other", message="with")
    store.export("acme/other", str(tmp_path / "out"), texts=False)
    store.export("acme/other", str(tmp_path / "out.tar"), texts=False)
    assert not (tmp_path / "out" / HASHES_FILE).exists()
    bundle.read(tmp_path / "out.tar", tmp_path / "read")
    assert "hashes" not in "".join(
        file.read_text("utf-8", "replace") for file in (tmp_path / "read").iterdir() if file.suffix != ".safetensors"
    )


def test_a_version_that_has_them_already_is_not_taken_for_one_without(store: AdapterStore, made: Path) -> None:
    store.publish(made, NAME, message="first")
    with raises(Refused, code="version.exists", version="acme/reviews@1"):
        store.publish(made, NAME, message="second", texts=False)


def test_a_malformed_file_of_them_is_refused_and_nothing_is_kept(
    store: AdapterStore, made: Path, tmp_path: Path
) -> None:
    content = json.loads((made / HASHES_FILE).read_text())
    (made / HASHES_FILE).write_text(json.dumps(content | {"hashes": content["hashes"][:-4] + "AAA="}))
    for open_it in (Adapter.load, lambda path: store.publish(path, NAME, message="first")):
        with raises(CorruptAdapter, code="adapter.file-malformed", path="training_texts.json"):
            open_it(made)
    with pytest.raises(AfinaError):
        store.list()


def test_a_bundle_with_a_malformed_file_of_them_is_refused(store: AdapterStore, made: Path, tmp_path: Path) -> None:
    store.publish(made, NAME, message="first")
    store.export(NAME, str(tmp_path / "out.tar"))
    about = bundle.read(tmp_path / "out.tar", tmp_path / "read")
    (tmp_path / "read" / about["parts"][HASHES_FILE]).write_text("{}")
    bundle.write(tmp_path / "bad.tar", {file.name: file for file in (tmp_path / "read").iterdir()}, about)
    with raises(AfinaError, code="store.content-changed", where="bad.tar", cause="adapter.format-unknown"):
        store.import_from(str(tmp_path / "bad.tar"), "acme/bad", message="bad")
