"""Blobs: whole or not at all, wherever they are, whoever comes between."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from processes import Crew
from proxy import Proxy
from putting import content, place_of, put, put_again_and_again, put_many, verify

from afina import file_io
from afina.blobs import Blobs, LocalBlobs
from afina.blobs.remote import PART, SCRATCH, RemoteBlobs, open_blobs
from afina.errors import AfinaError, CannotWrite, CorruptStore, InvalidName, NotFound
from raises import raises
from services import S3

SECRET = "invented-secret"
TIMEOUT_S = 1.0
MOST_S = 3 * TIMEOUT_S + 2
"""What the service may keep us waiting, and two seconds of a busy machine's."""

IMPATIENT_S = 0.1
"""Where the service never answers."""


@pytest.fixture(params=["local", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where blobs may be, empty."""
    if request.param == "local":
        return str(tmp_path / "blobs")
    return str(request.getfixturevalue("s3").bucket())


@pytest.fixture
def blobs(address: str) -> Blobs:
    return open_blobs(address)


# The contract


@pytest.mark.parametrize("size", [0, 1000])
def test_what_was_put_is_there_with_its_size(blobs: Blobs, size: int) -> None:
    data = content(1, size)
    place = put(blobs, data)
    assert blobs.size(place) == size
    with blobs.file(place) as path:
        assert path.read_bytes() == data


@pytest.mark.parametrize("size", [PART, PART + 1])
def test_a_file_comes_back_from_a_service_as_it_was_in_one_part_or_in_two(s3: S3, size: int) -> None:
    test_what_was_put_is_there_with_its_size(open_blobs(s3.bucket()), size)


def test_what_was_never_put_has_no_size_and_cannot_be_read(blobs: Blobs) -> None:
    place = place_of(b"never")
    assert blobs.size(place) is None
    with raises(CorruptStore, code="store.blobs-missing"), blobs.file(place):
        pass


def test_what_is_put_twice_is_there_once(blobs: Blobs) -> None:
    assert put(blobs, b"same") == put(blobs, b"same")
    assert [(kept.place, kept.size) for kept in blobs.all()] == [(place_of(b"same"), 4)]


def test_removing_removes_one_copy_and_what_is_gone_can_be_removed_and_put_again(blobs: Blobs) -> None:
    old, new = put(blobs, b"same", "0000000a"), put(blobs, b"same", "0000000b")
    blobs.remove(old)
    blobs.remove(old)
    assert (blobs.size(old), blobs.size(new)) == (None, 4)
    assert [kept.place for kept in blobs.all()] == [new]
    assert put(blobs, b"same", "0000000a") == old
    assert blobs.size(old) == 4


def test_all_lists_every_place_with_its_size_and_age(blobs: Blobs) -> None:
    assert list(blobs.all()) == []
    placed = {put(blobs, content(size, size)): size for size in range(30)}
    kept = list(blobs.all())
    assert {each.place: each.size for each in kept} == placed
    assert all(0 <= each.age < 60 for each in kept)


def test_a_listing_of_more_than_a_page_is_whole(s3: S3) -> None:
    blobs = open_blobs(s3.bucket())
    with blobs.scratch() as directory:
        (directory / "made").touch()
        for each in range(120):  # obstore gives 50 at a time
            blobs.put(place_of(b"", f"{each:08x}"), directory / "made")
    assert len({kept.place for kept in blobs.all()}) == 120


def test_what_is_no_blob_is_not_listed(s3: S3, tmp_path: Path) -> None:
    """Beside blobs there may be what others keep in the same directory or bucket."""
    import obstore
    from obstore.store import from_url

    local, url = tmp_path / "blobs", s3.bucket()
    (local / "ab").mkdir(parents=True)
    (local / "ab" / "README").write_text("not ours")
    store = from_url(url, client_options={"allow_http": True})
    for strange in ("README", "ab/README", f"zz/{place_of(b'elsewhere')}", place_of(b"above")):
        obstore.put(store, strange, b"not ours")
    assert [list(each.all()) for each in (LocalBlobs(local), open_blobs(url))] == [[], []]


def test_scratch_is_empty_and_gone_after_the_block(blobs: Blobs) -> None:
    with blobs.scratch() as directory:
        assert list(directory.iterdir()) == []
        (directory / "made").write_bytes(b"x")
    assert not directory.exists()
    assert list(blobs.all()) == []


def test_a_file_of_a_service_is_a_copy_that_goes_with_the_block(s3: S3, tmp_path: Path) -> None:
    blobs = open_blobs(s3.bucket())
    place = put(blobs, b"here")
    with blobs.file(place) as path:
        assert path.read_bytes() == b"here"
    assert not path.exists()
    assert not path.parent.exists()


@pytest.mark.slow
def test_processes_that_put_the_same_place_at_once_all_find_it_whole(crew: Crew, address: str) -> None:
    ended = crew.run(put_again_and_again, 4, address, 200_000, 4)
    assert [each.value for each in ended] == [4] * 4
    assert [kept.size for kept in open_blobs(address).all()] == [200_000]


@pytest.mark.slow
def test_what_a_killed_process_leaves_is_whole_or_not_there(
    crew: Crew, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    workers = crew.start(put_many, 4, address, 300_000)
    while not any(len(worker.values) >= 2 for worker in workers):
        time.sleep(0.01)
    crew.kill_at_random(workers, Random(0), within_s=0.5)
    blobs = open_blobs(address)
    told = [value for worker in workers for value in worker.values]
    done = {place for what, place in told if what == "done"}
    listed = {kept.place: kept.size for kept in blobs.all()}
    assert set(listed.values()) == {300_000}
    assert done <= listed.keys() <= {place for _, place in told}
    # Each one's last, which it may have been killed at.
    assert all(verify(blobs, worker.values[-1][1]) for worker in workers)


# In a directory


def test_what_goes_while_it_is_listed_is_not_listed(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    place = put(blobs, b"stays")
    # Has a name, as what is listed and then removed, and no status.
    (tmp_path / "00").mkdir()
    (tmp_path / "00" / f"sha256-{'0' * 64}-00000000").symlink_to(tmp_path / "gone")
    assert [kept.place for kept in blobs.all()] == [place]


def test_sweep_removes_what_killed_processes_left_and_only_that(tmp_path: Path) -> None:
    root = tmp_path / "blobs"
    blobs = LocalBlobs(root)
    place = put(blobs, b"kept")
    leftover = root / f"{file_io.TEMPORARY}left"
    half = root / place[7:9] / f"{file_io.TEMPORARY}{place}-left"
    for each in (leftover, half):
        each.mkdir()
        (each / "made").write_bytes(b"half")
    blobs.sweep(age=60)
    assert leftover.exists()
    for each in (leftover, half):
        os.utime(each, (time.time() - 100,) * 2)
    blobs.sweep(age=60)
    assert [path.name for path in root.rglob("*") if path.is_file()] == [place]


def test_what_is_put_is_durable_down_from_the_directory_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    sync = file_io.sync
    monkeypatch.setattr(file_io, "sync", lambda path: (synced.append(path), sync(path)))
    place = put(LocalBlobs(tmp_path), b"kept")
    within = tmp_path / place[7:9]
    assert [path for path in synced if path in (within, tmp_path)] == [within, tmp_path]
    assert any(path.name == place for path in synced)


def test_a_blob_is_read_only(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    with blobs.file(put(blobs, b"kept")) as path:
        assert path.stat().st_mode & 0o777 == 0o444


def test_on_a_full_disk_nothing_is_put_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    there = put(blobs, b"there")

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_io, "sync", full)
    with raises(CannotWrite, code="file.cannot-write", reason="the disk is full"):
        put(blobs, b"more")
    monkeypatch.undo()
    assert [kept.place for kept in blobs.all()] == [there]
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 1


def test_a_copy_that_finds_no_room_here_is_an_error_and_not_left(s3: S3, tmp_path: Path) -> None:
    blobs = open_blobs(s3.bucket())
    place = put(blobs, content(0, 50_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
    try:
        with pytest.raises(CannotWrite, match="file too large"), blobs.file(place):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Through a network on a bad day


@pytest.fixture
def remote(proxy: Proxy, s3: S3) -> RemoteBlobs:
    return RemoteBlobs.open(s3.bucket(), timeout_s=TIMEOUT_S, retries=2)


CALLS: dict[str, Callable[[RemoteBlobs], object]] = {
    "put": lambda blobs: put(blobs, b"some"),
    "put in parts": lambda blobs: put(blobs, content(0, 2 * PART)),
    "size": lambda blobs: blobs.size(place_of(b"there")),
    "file": lambda blobs: blobs.file(place_of(b"there")).__enter__(),
    "remove": lambda blobs: blobs.remove(place_of(b"there")),
    "all": lambda blobs: list(blobs.all()),
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Callable[[RemoteBlobs], object]:
    return CALLS[request.param]


WRITE_AND_READ = pytest.mark.parametrize("call", [CALLS["put in parts"], CALLS["file"]], ids=["put", "file"])
"""Of calls that take long; that each call turns the service's errors into afina's is seen where it is not there."""


def refused(blobs: RemoteBlobs, call: Callable[[RemoteBlobs], object]) -> AfinaError:
    """The error of a call that comes to one in time, and tells no secret."""
    start = time.monotonic()
    with pytest.raises(AfinaError) as caught:
        call(blobs)
    assert time.monotonic() - start < MOST_S
    message = str(caught.value)
    assert message.startswith(blobs.url)
    assert SECRET not in message
    assert "\n" not in message
    return caught.value


@pytest.mark.slow
@WRITE_AND_READ
def test_a_service_that_fails_once_is_asked_again(
    remote: RemoteBlobs, proxy: Proxy, call: Callable[[RemoteBlobs], object]
) -> None:
    put(remote, b"there")
    proxy.inject("status", times=1, status=503)
    call(remote)
    assert [seen.fault for seen in proxy.seen].count("status") == 1


@pytest.mark.slow
@WRITE_AND_READ
def test_a_service_that_always_fails_is_an_error_in_time(
    remote: RemoteBlobs, proxy: Proxy, call: Callable[[RemoteBlobs], object]
) -> None:
    proxy.inject("status", status=500)
    error = refused(remote, call)
    assert isinstance(error, NotFound)
    assert "the service does not respond as expected (status 500, asked 3 times)" in str(error)
    assert len(proxy.seen) == 3


@pytest.mark.slow
@WRITE_AND_READ
def test_a_service_that_takes_requests_and_never_answers_is_an_error_in_time(
    proxy: Proxy, call: Callable[[RemoteBlobs], object]
) -> None:
    proxy.inject("hang")
    error = refused(RemoteBlobs.open("s3://bucket/prefix", timeout_s=IMPATIENT_S, retries=50), call)
    assert isinstance(error, NotFound)
    assert f"no answer within {IMPATIENT_S} s" in str(error)


def test_a_service_that_is_not_there_is_an_error_in_time(
    s3: S3, monkeypatch: pytest.MonkeyPatch, call: Callable[[RemoteBlobs], object]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    error = refused(RemoteBlobs.open("s3://bucket/prefix", timeout_s=TIMEOUT_S, retries=1), call)
    assert isinstance(error, NotFound)
    assert "no connection, asked 2 times" in str(error)


BREAKS = [("reset", 1000), ("truncate", 2 * PART)]


@pytest.mark.parametrize(("fault", "size"), BREAKS)
def test_a_download_that_breaks_off_once_is_whole_in_the_end(
    remote: RemoteBlobs, proxy: Proxy, fault: str, size: int
) -> None:
    place = put(remote, content(0, size))
    proxy.inject(fault, times=1, method="GET")  # type: ignore[arg-type]
    with remote.file(place) as path:
        assert path.read_bytes() == content(0, size)


@pytest.mark.parametrize(("fault", "size"), BREAKS)
def test_a_download_that_always_breaks_off_is_an_error_and_no_file(
    remote: RemoteBlobs, proxy: Proxy, fault: str, size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = put(remote, content(0, size))
    proxy.inject(fault, method="GET")  # type: ignore[arg-type]
    assert isinstance(refused(remote, lambda blobs: blobs.file(place).__enter__()), NotFound)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_heard_while_a_service_is_waited_for(proxy: Proxy, s3: S3) -> None:
    blobs = RemoteBlobs.open(s3.bucket())
    proxy.inject("hang")
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    start = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        blobs.size(place_of(b"some"))
    assert time.monotonic() - start < 5


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 2 * PART])
def test_a_download_that_stalls_is_an_error_in_time(proxy: Proxy, remote: RemoteBlobs, size: int) -> None:
    place = put(remote, content(0, size))
    impatient = RemoteBlobs.open(remote.url, timeout_s=IMPATIENT_S, retries=50)
    proxy.inject("stall", method="GET")
    assert isinstance(refused(impatient, lambda blobs: blobs.file(place).__enter__()), NotFound)


def test_a_piece_of_a_download_that_comes_too_short_is_an_error(remote: RemoteBlobs, proxy: Proxy) -> None:
    place = put(remote, content(0, 2 * PART))
    proxy.inject("slow", times=1, method="GET", seconds=0)  # which says how large the whole is
    proxy.inject("shorten", method="GET")
    error = refused(remote, lambda blobs: blobs.file(place).__enter__())
    assert isinstance(error, CorruptStore)
    assert "received 5,242,880 bytes, expected 10,485,760" in str(error)


@pytest.mark.parametrize(
    ("size", "fault"),
    [
        *((size, {"fault": "reset upload", "method": "PUT"}) for size in (1000, 2 * PART)),
        (2 * PART, {"fault": "status", "method": "POST", "holds": "uploadId", "status": 500}),
    ],
    ids=["whole", "a part", "the end of the parts"],
)
def test_an_upload_that_breaks_off_leaves_nothing_at_its_place(
    remote: RemoteBlobs, proxy: Proxy, size: int, fault: dict[str, Any]
) -> None:
    data = content(0, size)
    proxy.inject(**fault)
    assert isinstance(refused(remote, lambda blobs: put(blobs, data)), NotFound)
    proxy.heal()
    assert remote.size(place_of(data)) is None
    assert list(remote.all()) == []
    assert remote.size(put(remote, data)) == size


@pytest.mark.slow
def test_one_killed_amid_an_upload_in_parts_leaves_nothing_at_its_place(
    crew: Crew, remote: RemoteBlobs, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    proxy.inject("slow", method="PUT", seconds=0.3)
    (worker,) = crew.start(put_many, 1, remote.url, 3 * PART)
    while not any("partNumber" in seen.path for seen in proxy.seen):
        time.sleep(0.01)
    worker.kill()
    assert worker.wait().status == -9
    ((what, place),) = worker.values
    assert what == "begun"
    assert remote.size(place) is None
    (left,) = tmp_path.glob(f"{SCRATCH}*")  # multiprocessing has a directory there, too
    remote.sweep(age=60)
    assert left.exists()
    os.utime(left, (time.time() - 100,) * 2)
    remote.sweep(age=60)
    assert not left.exists()


def test_credentials_that_are_refused_are_named_and_not_told(
    remote: RemoteBlobs, proxy: Proxy, call: Callable[[RemoteBlobs], object]
) -> None:
    writes = call in (CALLS["put"], CALLS["put in parts"], CALLS["remove"])
    for status in (401, 403):
        proxy.inject("status", status=status)
        error = refused(remote, call)
        proxy.heal()
        assert type(error) is (CannotWrite if writes else NotFound)
        assert f"the service refuses the credentials, {status}" in str(error)
        assert "AWS_SECRET_ACCESS_KEY" in str(error)


@pytest.mark.parametrize("which", ["put", "put in parts", "file", "all", "remove"])
def test_a_bucket_that_is_not_there_is_named(s3: S3, which: str) -> None:
    error = refused(RemoteBlobs.open("s3://no-such-bucket/prefix", timeout_s=TIMEOUT_S), CALLS[which])
    assert isinstance(error, NotFound)
    assert "no such bucket, NoSuchBucket" in str(error)


# Addresses


def test_a_directory_is_opened_as_one_however_it_is_written(tmp_path: Path) -> None:
    for address in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a%20b"):
        opened = open_blobs(address)
        assert isinstance(opened, LocalBlobs)
        assert opened.root == tmp_path / "a b"


def test_memory_holds_blobs_for_as_long_as_it_is_open() -> None:
    blobs = open_blobs("memory:///")
    place = put(blobs, b"for now")
    assert [kept.place for kept in blobs.all()] == [place]
    assert list(open_blobs("memory:///").all()) == []


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3:///prefix", "ftp://host/x", "http://host/x", "file://host/x", "file:///", "s3://[x", "://x", "gs://"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with raises(InvalidName, code="blobs.address-malformed"):
        open_blobs(address)


@pytest.mark.parametrize(
    "address", [f"s3://name:{SECRET}@bucket/x", f"s3://bucket/x?secret={SECRET}", f"s3://bucket/x#{SECRET}"]
)
def test_an_address_holds_no_secret_and_the_message_repeats_none(address: str) -> None:
    with raises(InvalidName, code="blobs.address-malformed", address="s3://bucket/x") as caught:
        open_blobs(address)
    assert SECRET not in str(caught.value)


def test_without_encryption_nothing_is_sent_unless_the_environment_says_so(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with raises(NotFound, code="blobs.settings-unusable", url="s3://bucket/prefix"):
        open_blobs("s3://bucket/prefix").size(place_of(b""))


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_other_services_are_opened_and_without_an_account_the_message_says_which_setting(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    if scheme == "az":
        with raises(NotFound, code="blobs.settings-unusable", url="az://container/prefix"):
            open_blobs("az://container/prefix")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "invented")
    assert isinstance(open_blobs(f"{scheme}://bucket/prefix"), RemoteBlobs)


def test_without_obstore_a_directory_is_opened_and_a_service_is_an_error(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['obstore'] = sys.modules['obstore.store'] = None\n"
        "from afina.blobs.remote import open_blobs\n"
        "from afina.errors import NotFound\n"
        f"open_blobs({str(tmp_path)!r}).size('sha256-{'0' * 64}-{'0' * 8}')\n"
        "try: open_blobs('s3://bucket/prefix')\n"
        "except NotFound as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert "pip install 'afina[store]'" in done.stdout
