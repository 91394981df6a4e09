"""What a browser sends: fields and a file, as they arrive in pieces, and everything that is wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from afina.errors import CannotWrite, InvalidData, Refused
from afina.studio import forms
from afina.studio.folder import StudioFolder
from afina.studio.forms import MOST_FIELD_BYTES, MOST_FIELDS, Form, read_form, safe_name
from afina.studio.page import Studio
from full_disk import no_file_above
from raises import raises

LIMIT = 10_000
BOUNDARY = "----boundary"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
URL_ENCODED = "application/x-www-form-urlencoded"


def part(name: str, content: bytes, file: str | None = None, header: bytes = b"") -> bytes:
    named = f'form-data; name="{name}"' + ("" if file is None else f'; filename="{file}"')
    return b"--%b\r\nContent-Disposition: %b\r\n%b\r\n%b\r\n" % (BOUNDARY.encode(), named.encode(), header, content)


def whole(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@pytest.fixture
def folder(tmp_path: Path) -> StudioFolder:
    made = StudioFolder(tmp_path / "studio")
    made.own.mkdir(parents=True)
    return made


Read = Callable[..., Form]


@pytest.fixture
def read(folder: StudioFolder) -> Read:
    """Read a form whose body arrives in these pieces; after a failure, nothing may be left of it."""

    def found(*pieces: bytes, kind: str = MULTIPART, limit: int = LIMIT, ends: bool = True, **headers: str) -> Form:
        events: list[dict[str, Any]] = [{"type": "http.request", "body": one, "more_body": True} for one in pieces]
        events.append({"type": "http.request", "body": b""} if ends else {"type": "http.disconnect"})
        given = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        raw = [(name.encode(), value.encode()) for name, value in given.items()]

        async def receive() -> dict[str, Any]:
            return events.pop(0)

        request = Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)
        try:
            return asyncio.run(read_form(request, folder, limit))
        except BaseException:
            assert uploads(folder) == []
            raise

    return found


def uploads(folder: StudioFolder) -> list[Path]:
    return list((folder.own / "uploads").glob("*"))


FORM = whole(part("title", b" My texts "), part("file", b"text,label\r\na,b\r\n", "r\xc3\xa9views.csv"), part("e", b""))


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
def test_a_form_is_the_same_in_pieces_of_any_size(read: Read, folder: StudioFolder, size: int) -> None:
    form = read(*(FORM[at : at + size] for at in range(0, len(FORM), size)))
    assert (form.get("title"), form["title"], form.get("e"), form.get("none")) == ("My texts", "My texts", "", "")
    assert form.upload is not None
    assert uploads(folder) == [form.upload.path]
    assert form.upload.path.read_bytes() == b"text,label\r\na,b\r\n"
    for name in ("e", "none"):
        with raises(InvalidData, code="studio.field-missing", field=name):
            form[name]
    form.drop()
    form.drop()
    assert uploads(folder) == []


def test_a_form_without_a_file_has_none_and_one_whose_file_was_not_chosen_too(read: Read, folder: StudioFolder) -> None:
    assert read(whole(part("title", b"x"))).upload is None
    assert read(whole(part("file", b"", ""))).upload is None
    assert read(b"title=a+b%20c&empty=", kind=URL_ENCODED).fields == {"title": "a b c", "empty": ""}
    assert read(b"", kind=URL_ENCODED).fields == {}
    assert uploads(folder) == []


@pytest.mark.parametrize("cut", [10, 100, 200, len(FORM) - 4])
def test_a_form_that_ends_early_is_refused_and_nothing_of_it_stays(read: Read, cut: int) -> None:
    for ends in (True, False):
        with raises(InvalidData, code="studio.upload-invalid"):
            read(FORM[:cut], ends=ends)


LONG = part("a", b"x" * (MOST_FIELD_BYTES // 2 + 1))
LARGE = 100 * MOST_FIELD_BYTES


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (whole(part("f", b"1", "a.csv"), part("g", b"2", "b.csv")), MULTIPART),
        (whole(LONG, LONG), MULTIPART),
        (whole(*[part("a", b"")] * (MOST_FIELDS + 1)), MULTIPART),
        (whole(part("f", b"1", "a.csv"), part("g", b"nul\0")), MULTIPART),
        (whole(part("f", b"1", "a.csv"), part("g", b"", header=b"X: " + b"y" * 10_000 + b"\r\n")), MULTIPART),
        (whole(part("f", b"1", "a.csv"), part("g", b"", header=b"X: y\r\n" * 100)), MULTIPART),
        (whole(part("f", b"1", "a.csv")), "multipart/form-data"),
        (whole(part("f", b"1", "a.csv")), "multipart/form-data; boundary=another"),
        (whole(part("f", b"1", "a.csv")), f"multipart/form-data; boundary={'b' * 500}"),
        (b"nonsense", MULTIPART),
        (b"", MULTIPART),
        (b"a=%00", URL_ENCODED),
        (b"a=\xff", URL_ENCODED),
        (b"&".join([b"a=1"] * (MOST_FIELDS + 1)), URL_ENCODED),
        (b"a=" + b"x" * (MOST_FIELD_BYTES + 1), URL_ENCODED),
        (b"a=" + b"x" * (MOST_FIELD_BYTES + 1), ""),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else f"{len(value)} bytes",
)
def test_a_malformed_form_is_refused_and_nothing_of_it_stays(read: Read, body: bytes, kind: str) -> None:
    with raises(InvalidData, code="studio.upload-invalid"):
        read(*(body[at : at + 65_536] for at in range(0, len(body), 65_536)), kind=kind, limit=LARGE)


def test_an_upload_above_the_limit_is_refused_by_its_length_before_a_byte_is_kept(read: Read) -> None:
    with raises(Refused, code="studio.upload-too-large", limit=LIMIT / 10**6):
        read(FORM, content_length=str(10 * 10**9))


def test_an_upload_without_a_length_is_refused_where_it_passes_the_limit(read: Read) -> None:
    chunks = [part("file", b"", "a.csv")[:-2], *[b"x" * 1000] * 1000]
    with raises(Refused, code="studio.upload-too-large"):
        read(*chunks)


def test_the_page_of_the_form_says_that_an_upload_is_too_large(studio: Studio, web: TestClient) -> None:
    answer = web.post("/", files={"file": ("a.csv", b"x" * (studio.upload_limit + 1))})
    assert answer.status_code == 413
    assert "more than 2 MB" in answer.text
    assert "New project" in answer.text
    assert uploads(studio.folder) == []
    assert studio.folder.projects() == []


def test_a_form_that_stops_to_arrive_is_given_up(folder: StudioFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "STALL_SECONDS", 0.01)
    events = [{"type": "http.request", "body": FORM[:200], "more_body": True}]

    async def receive() -> dict[str, Any]:
        if events:
            return events.pop(0)
        await asyncio.sleep(60)
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", MULTIPART.encode())]}
    with raises(Refused, code="studio.upload-stalled"):
        asyncio.run(read_form(Request(scope, receive), folder, LIMIT))
    assert uploads(folder) == []


@pytest.mark.parametrize("room", [0, 100, 50_000])
def test_a_disk_that_is_full_in_the_middle_is_said_and_nothing_half_written_stays(
    studio: Studio, web: TestClient, room: int
) -> None:
    content = b"text,label\n" + b"a text,good\n" * 10_000
    with no_file_above(room):
        answer = web.post("/", files={"file": ("reviews.csv", content)})
    assert answer.status_code == 507
    assert "the disk is full" in answer.text or "too large" in answer.text
    assert uploads(studio.folder) == []
    assert [path.name for path in studio.folder.root.iterdir()] == [".studio"]
    assert web.post("/", files={"file": ("reviews.csv", content)}).status_code == 303
    assert (studio.folder.root / "reviews" / "data" / "reviews.csv").read_bytes() == content


def test_a_project_that_cannot_be_written_leaves_nothing(
    studio: Studio, web: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise CannotWrite("project.json", "the disk is full")

    monkeypatch.setattr("afina.studio.folder.file_io.write_text", full)
    assert web.post("/", files={"file": ("reviews.csv", b"text,label\na,b\n")}).status_code == 507
    assert uploads(studio.folder) == []
    assert [path.name for path in studio.folder.root.iterdir()] == [".studio"]


def test_two_files_make_no_project(studio: Studio, web: TestClient) -> None:
    files: Sequence[Any] = [("file", ("a.csv", b"1")), ("file", ("b.csv", b"2"))]
    assert web.post("/", files=files).status_code == 422
    assert web.post("/", data={}).status_code == 422
    assert studio.folder.projects() == []
    assert uploads(studio.folder) == []


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("reviews.csv", "reviews.csv"),
        ("../../etc/passwd.csv", "passwd.csv"),
        ("..\\..\\evil.TSV", "evil.tsv"),
        ("/etc/cron.d/x.jsonl", "x.jsonl"),
        ("C:\\texts.xlsx", "texts.xlsx"),
        (".csv", "texts.csv"),
        ("....csv", "texts.csv"),
        ("a\0b\n.csv", "a-b.csv"),
        ("<script>.csv.gz", "script.csv.gz"),
        ("Ü b é.parquet", "U-b-e.parquet"),
        ("日本.json", "texts.json"),
        ("-rf.csv", "rf.csv"),
        ("x" * 300 + ".csv", "x" * 60 + ".csv"),
    ],
)
def test_a_file_name_leads_nowhere(given: str, made: str) -> None:
    assert safe_name(given) == made


@pytest.mark.parametrize("given", ["", "reviews", "reviews.exe", "csv", "a.csv/", "a.csv.exe", "a.pkl", "../.."])
def test_a_file_that_is_none_of_texts_is_refused(given: str) -> None:
    with raises(InvalidData, code="studio.upload-invalid"):
        safe_name(given)


@pytest.mark.parametrize("name", ["../../../evil.csv", "<img src=x onerror=alert(1)>.csv", "a\0b.csv", "store.csv"])
def test_an_upload_stays_in_its_project_and_its_name_is_text(studio: Studio, web: TestClient, name: str) -> None:
    answer = web.post("/", files={"file": (name, b"text,label\na,b\n")})
    assert answer.status_code == 303
    (made,) = studio.folder.projects()
    assert made.name not in ("store", ".studio")
    assert [path.parent for path in studio.folder.root.rglob("*.csv")] == [made.data]
    assert not (studio.folder.root.parent / "evil.csv").exists()
    assert "<img" not in web.get("/").text
