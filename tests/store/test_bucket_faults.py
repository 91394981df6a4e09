"""A store whose bytes are in a bucket, and a network that fails: a clear error, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable
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
    """With a version, and little patience with the bucket."""
    bucket = s3.bucket()
    store = AdapterStore(tmp_path / "store", who="ada")
    store.init(bucket)
    store.__dict__["_blobs"] = RemoteBlobs.open(bucket, timeout_s=0.5, retries=1)
    store.publish(made(), "acme/reviews", message="first")
    return store


@pytest.mark.parametrize("fault", ["status", "hang", "reset upload"])
def test_what_cannot_be_put_is_no_version_and_can_be_published_later(
    kept: AdapterStore, proxy: Proxy, made: Make, fault: str
) -> None:
    proxy.inject(fault, method="PUT")  # type: ignore[arg-type]  # one of its words
    with raises(NotFound, code="blobs.unreachable"):
        kept.publish(made(1), "acme/reviews", message="next")
    proxy.heal()
    assert [one.number for one in kept.versions("acme/reviews")] == [1]
    assert kept.verify() == []
    assert kept.publish(made(1), "acme/reviews", message="next").version.number == 2
    assert kept.verify() == []
    assert kept.gc().blobs == 0


@pytest.mark.parametrize("fault", ["status", "hang", "reset", "truncate", "stall"])
def test_what_cannot_be_read_is_told_and_read_later(kept: AdapterStore, proxy: Proxy, fault: str) -> None:
    proxy.inject(fault, method="GET")  # type: ignore[arg-type]  # one of its words
    with raises(NotFound, code="blobs.unreachable"):
        kept.adapter("acme/reviews")
    proxy.heal()
    assert kept.adapter("acme/reviews").digest == kept.show("acme/reviews").digest


def test_what_cannot_be_removed_is_removed_by_the_next_gc(kept: AdapterStore, proxy: Proxy, made: Make) -> None:
    kept.publish(made(1), "acme/reviews", message="next")
    kept.delete("acme/reviews@1", reason="a test")
    proxy.inject("status", method="DELETE")
    with pytest.raises(NotFound):
        kept.gc()
    proxy.heal()
    assert kept.verify() == []
    kept.gc()
    assert {one.place for one in kept._blobs.all()} == {
        place for part in kept.show("acme/reviews").parts.values() for place in [_place(kept, part.digest)]
    }


def _place(store: AdapterStore, digest: str) -> str:
    (found,) = [one.place for one in store._blobs.all() if digest.removeprefix("sha256:") in one.place]
    return found
