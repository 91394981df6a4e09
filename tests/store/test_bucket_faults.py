"""A store whose bytes are in a bucket, and a network that fails: a clear error, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from proxy import Proxy

from afina.blobs.remote import RemoteBlobs
from afina.errors import NotFound
from afina.store.adapter_store import AdapterStore
from raises import raises
from services import S3

Make = Callable[..., Path]


@pytest.fixture
def kept(s3: S3, proxy: Proxy, tmp_path: Path, made: Make) -> AdapterStore:
    """With a version."""
    store = AdapterStore(tmp_path / "store", who="ada")
    store.init(s3.bucket())
    store.publish(made(), "acme/reviews", message="first")
    return store


@contextmanager
def fault(store: AdapterStore, proxy: Proxy, word: str, method: str) -> Iterator[None]:
    """The bucket has that fault in the block, and the store has little patience."""
    patient = store._blobs
    assert isinstance(patient, RemoteBlobs)
    store.__dict__["_blobs"] = RemoteBlobs.open(patient.url, timeout_s=0.1, retries=0)
    proxy.inject(word, method=method)  # type: ignore[arg-type]  # one of its words
    yield
    proxy.heal()
    store.__dict__["_blobs"] = patient


@pytest.mark.slow
@pytest.mark.parametrize("word", ["hang", "reset upload"])
def test_what_cannot_be_put_is_no_version_and_can_be_published_later(
    kept: AdapterStore, proxy: Proxy, made: Make, word: str
) -> None:
    with fault(kept, proxy, word, "PUT"), raises(NotFound, code="blobs.unreachable"):
        kept.publish(made(1), "acme/reviews", message="next")
    assert [one.number for one in kept.versions("acme/reviews")] == [1]
    assert kept.verify() == []
    assert kept.publish(made(1), "acme/reviews", message="next").version.number == 2
    assert kept.verify() == []
    assert kept.gc().blobs == 0


@pytest.mark.parametrize("word", ["status", "truncate"])
def test_what_cannot_be_read_is_told_and_read_later(kept: AdapterStore, proxy: Proxy, word: str) -> None:
    with fault(kept, proxy, word, "GET"), raises(NotFound, code="blobs.unreachable"):
        kept.adapter("acme/reviews")
    assert kept.adapter("acme/reviews").digest == kept.show("acme/reviews").digest


def test_what_cannot_be_removed_is_removed_by_the_next_gc(kept: AdapterStore, proxy: Proxy, made: Make) -> None:
    kept.publish(made(1), "acme/reviews", message="next")
    kept.delete("acme/reviews@1", reason="a test")
    with fault(kept, proxy, "status", "DELETE"), pytest.raises(NotFound):
        kept.gc()
    assert kept.verify() == []
    kept.gc()
    assert {one.place for one in kept._blobs.all()} == {
        place for part in kept.show("acme/reviews").parts.values() for place in [_place(kept, part.digest)]
    }


def _place(store: AdapterStore, digest: str) -> str:
    (found,) = [one.place for one in store._blobs.all() if digest.removeprefix("sha256:") in one.place]
    return found
