"""Who may use a studio: strangers, pages of other addresses, tokens, passwords, and text that would be script."""

from __future__ import annotations

import csv
import fcntl
import http.client
import json
import re
import socket
import threading
from contextlib import ExitStack, suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from doubts_of_studios import found
from starlette.routing import Route
from starlette.testclient import TestClient
from visitors import answering
from waiting import free_port

from afina.errors import CannotWrite, InvalidData, Refused
from afina.pages.html import inline, spans
from afina.pages.marked_text import Mark, MarkedText
from afina.report.plots.race import EndedTraining, race
from afina.studies.labelling.doubts import DoubtfulLabel
from afina.studio import access
from afina.studio.access import HEADERS, MOST_SESSIONS, SESSION_DAYS, TRIES, Access, set_password
from afina.studio.app import PAGES, make_app
from afina.studio.command_process import LOCK, CommandProcess
from afina.studio.folder import Project, StudioFolder
from afina.studio.page import Studio, _drawn, _environment
from afina.studio.pages.data import inspect_arguments, inspection_of
from afina.studio.run_queue import RunQueue
from afina.studio.server_process import StudioServer
from full_disk import no_file_above
from pages import ROOT
from raises import raises

PORT = 8765
LOCAL = f"http://127.0.0.1:{PORT}"
PASSWORD = "a long password"
ROUTES: list[Route] = [route for page in PAGES for route in page.router.routes]
PATHS = sorted({route.path for route in ROUTES})


def client(studio: Studio, **headers: str) -> TestClient:
    """A browser that is not signed in."""
    return TestClient(
        make_app(studio), base_url=LOCAL, follow_redirects=False, headers=headers, raise_server_exceptions=False
    )


@pytest.fixture
def stranger(studio: Studio) -> TestClient:
    return client(studio, Origin=LOCAL)


@pytest.fixture
def open_to_others(tmp_path: Path) -> Studio:
    """A studio that other machines can reach, with a password."""
    folder = StudioFolder(tmp_path / "reachable")
    folder.own.mkdir(parents=True)
    set_password(folder, PASSWORD)
    return Studio(folder, Access(folder, "0.0.0.0", PORT), RunQueue(folder), upload_limit=10**6)


def filled(path: str) -> str:
    return path.replace("{project}", "reviews").replace("{number}", "1")


def test_no_page_of_a_studio_is_shown_to_a_browser_that_is_not_signed_in(studio: Studio) -> None:
    studio.folder.create("reviews", "secret-address")
    browser = client(studio, Origin=LOCAL)
    for path, method in product(PATHS, ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")):
        answer = browser.request(method, filled(path))
        assert answer.status_code == 403, (method, path)
        assert "secret-address" not in answer.text, (method, path)
        assert not browser.cookies, (method, path)
    assert not list(studio.folder.root.glob("*/processes"))


def test_without_a_session_every_page_of_a_studio_with_a_password_leads_to_its_form(open_to_others: Studio) -> None:
    open_to_others.folder.create("reviews", "secret-address")
    browser = client(open_to_others, Origin=LOCAL)
    for path in PATHS:
        answer = browser.get(filled(path))
        if path.endswith(".json"):
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "studio.refused"), path
        else:
            assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
        assert browser.post(filled(path)).status_code == 403, path
        assert "secret-address" not in answer.text, path
        assert not browser.cookies, path


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "http://evil.example",
        "https://127.0.0.1:8765",
        "http://127.0.0.1:8766",
        "http://127.0.0.1",
        "http://127.0.0.1:8765.evil.example",
        "http://user@127.0.0.1:8765",
        "http://[::1",
        "http://127.0.0.1:8765/",
    ],
)
def test_a_page_of_another_address_changes_nothing(studio: Studio, web: TestClient, origin: str | None) -> None:
    """Also a page of another port of this machine, whose requests have the studio's cookie."""
    web.headers.pop("Origin")
    headers = {} if origin is None else {"Origin": origin}
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = web.request(method, "/", data={"address": "sst2"}, headers=headers)
        assert answer.status_code == 403
    assert studio.folder.projects() == []


def test_a_form_of_the_studios_own_page_is_taken(studio: Studio, web: TestClient) -> None:
    assert web.post("/", data={"address": "sst2"}).status_code == 303
    assert [one.task for one in studio.folder.projects()] == ["sst2"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example:8765",
        "127.0.0.1:8765.evil.example",
        "localhost.evil.example",
        "10.0.0.1:8765",
        "127.0.0.1/login?x=:8765",
        "[::1].evil.example",
        "[127.0.0.1",
        "",
    ],
)
def test_a_name_that_was_bound_to_this_address_anew_is_not_answered(web: TestClient, host: str) -> None:
    for path in ("/", "/index.json", "/static/script.js", "/login"):
        answer = web.get(path, headers={"Host": host, "Origin": f"http://{host}"})
        assert answer.status_code == 403
        assert "projects" not in answer.text.lower()


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST", "127.0.0.1", "[::1]:9000", "[::1]"])
def test_every_name_of_this_machine_is_answered_with_any_port_of_a_tunnel(web: TestClient, host: str) -> None:
    assert web.get("/", headers={"Host": host}).status_code == 200
    answer = web.post("/", headers={"Host": host, "Origin": f"http://{host}".lower()}, data={"address": "sst2"})
    assert answer.status_code == 303


@pytest.mark.parametrize(
    ("host", "name", "answered"),
    [
        ("0.0.0.0", "192.168.1.7:8765", True),
        ("0.0.0.0", "[fe80::1]:8765", True),
        ("0.0.0.0", "box:8765", True),
        ("0.0.0.0", "box.local", True),
        ("0.0.0.0", "evil.example:8765", False),
        ("studio.example", "studio.example:8765", True),
        ("studio.example", "box.example", False),
        ("::", "[2001:db8::1]:8765", True),
    ],
)
def test_a_studio_that_others_reach_answers_for_numbers_and_its_own_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, name: str, answered: bool
) -> None:
    monkeypatch.setattr(access.socket, "gethostname", lambda: "Box")
    who = Access(StudioFolder(tmp_path), host, PORT)
    assert not who.local
    if answered:
        who.check_host(name)
    else:
        with raises(Refused, code="studio.refused"):
            who.check_host(name)


@pytest.mark.parametrize(
    ("host", "local", "address"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:8765/"),
        ("localhost", True, "http://localhost:8765/"),
        ("::1", True, "http://[::1]:8765/"),
        ("127.0.0.9", True, "http://127.0.0.9:8765/"),
        ("0.0.0.0", False, "http://Box:8765/"),
        ("::", False, "http://Box:8765/"),
        ("192.168.1.7", False, "http://192.168.1.7:8765/"),
        ("box.example", False, "http://box.example:8765/"),
    ],
)
def test_the_printed_address_can_be_opened_and_only_this_machine_needs_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, local: bool, address: str
) -> None:
    monkeypatch.setattr(access.socket, "gethostname", lambda: "Box")
    who = Access(StudioFolder(tmp_path), host, PORT)
    assert (who.local, who.address) == (local, address)
    if local:
        who.check_guarded()
    else:
        with raises(Refused, code="studio.password-missing"):
            who.check_guarded()


def test_a_token_signs_one_browser_in_once_and_leaves_the_address(studio: Studio, stranger: TestClient) -> None:
    token = studio.access.token
    answer = stranger.get("/", params={"token": token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert token not in cookie
    assert stranger.get("/").status_code == 200
    thief = client(studio)
    for guess in (token, "", "x", "é", token.upper()):
        answer = thief.get("/", params={"token": guess})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    assert thief.get("/").status_code == 403


def test_a_token_is_not_spent_by_a_look_at_the_head_or_at_another_page(studio: Studio, stranger: TestClient) -> None:
    token = studio.access.token
    for method, path in (("HEAD", "/"), ("GET", "/index.json"), ("GET", "/login"), ("POST", "/")):
        answer = stranger.request(method, path, params={"token": token})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    assert stranger.get("/", params={"token": token}).status_code == 303


def test_a_token_that_a_signed_in_browser_did_not_need_is_spent_too(studio: Studio, web: TestClient) -> None:
    token = studio.access.token
    assert web.get("/", params={"token": "another"}).headers["location"] == "/"
    assert studio.access.token == token
    assert web.get("/", params={"token": token}).headers["location"] == "/"
    assert client(studio).get("/", params={"token": token}).status_code == 403


@pytest.mark.parametrize("local", [True, False])
def test_a_signed_in_browser_makes_a_link_for_one_more_and_signs_out(
    studio: Studio, open_to_others: Studio, local: bool
) -> None:
    used = studio if local else open_to_others
    first, second, third = (client(used, Origin=LOCAL) for _ in range(3))
    assert first.post("/login/link").status_code == first.post("/login/out").status_code == 403
    first.cookies.set(used.access.cookie, used.access.open_session())
    page = first.post("/login/link").headers["location"]
    link = re.findall(r"<pre>(http://127.0.0.1:8765/\?token=[\w-]+)</pre>", first.get(page).text)
    assert "?token=" not in first.get(page).text
    assert second.get(link[0]).headers["location"] == "/"
    assert [one.get("/").status_code for one in (first, second)] == [200, 200]
    assert third.get(link[0]).status_code == 403
    kept = dict(second.cookies)
    assert second.post("/login/out").status_code == 303
    assert not second.cookies
    second.cookies.update(kept)
    assert second.get("/index.json").status_code == 403
    assert first.get("/").status_code == 200


def test_the_pages_of_a_studio_that_others_reach_name_only_paths_of_its_folder_of_files(
    open_to_others: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CommandProcess, "start", lambda *_, **__: None)
    (tmp_path / "files").mkdir()
    for name in ("files/texts.csv", "secret.csv"):
        (tmp_path / name).write_text("text,label\na,good\nb,bad\n", encoding="utf-8")
    (tmp_path / "files" / "link.csv").symlink_to(tmp_path / "secret.csv")
    browser = client(open_to_others, Origin=LOCAL)
    browser.cookies.set(open_to_others.access.cookie, open_to_others.access.open_session())
    inside, outside = str(tmp_path / "files" / "texts.csv"), ("/", "/no/such", "~", str(tmp_path / "secret.csv"))

    def refused(path: str, **data: str) -> bool:
        answer = browser.post(path, data=data)
        assert answer.status_code == 303 or "of the paths of its machine the studio reads" in answer.text, answer.text
        return answer.status_code == 403

    assert refused("/", address=inside)  # without a folder, none
    open_to_others.files = tmp_path / "files"
    assert not refused("/", address=inside, title="reviews")
    for one in (*outside, f"{tmp_path}/files/../secret.csv", f"{tmp_path}/files/link.csv", "..", "secret"):
        assert refused("/", address=one), one
    for one in outside:
        assert refused("/", address=f"glue/sst2:{one}")
        assert refused("/reviews/data/options", evaluation=one)
        assert refused("/reviews/data/options", remedy=json.dumps({"without": one}))
        assert refused("/reviews/runs", what="choose", others=one)
        assert refused("/reviews/plan/backbones", others=one)
    assert not refused("/reviews/data/options", evaluation=inside)
    assert not refused("/", address="glue/sst2")
    assert not refused("/reviews/plan/backbones", others="openai-community/gpt2")


def test_a_token_is_not_spent_if_the_session_cannot_be_written(studio: Studio) -> None:
    token = studio.access.token
    with no_file_above(10), pytest.raises(CannotWrite):
        studio.access.exchange(token)
    assert studio.access.has_session(f"{studio.access.cookie}={studio.access.exchange(token)}")


def test_a_session_is_found_among_other_cookies_and_lasts_for_another_studio_of_the_folder(studio: Studio) -> None:
    secret = studio.access.open_session()
    again = Access(studio.folder, "127.0.0.1", PORT)
    name = again.cookie
    for cookies in (
        f"{name}={secret}",
        f"a=b; {name}={secret}; c",
        f"{{}}[]=@,;; =x; {name}={secret}",
        f"{name}=old; {name}={secret}",
    ):
        assert again.has_session(cookies), cookies
    for cookies in ("", name, f"{name}=", f"{name}=x", f"other={secret}", f"{name}-2={secret}", f"x{name}={secret}"):
        assert not again.has_session(cookies), cookies
    assert secret not in (studio.folder.own / "sessions.json").read_text(encoding="utf-8")


def test_a_session_ends_after_its_days_and_the_oldest_of_too_many_ends_first(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = studio.access
    first, second = who.open_session(), who.open_session()
    for _ in range(MOST_SESSIONS - 1):
        who.open_session()
    assert not who.has_session(f"{who.cookie}={first}")
    assert who.has_session(f"{who.cookie}={second}")
    file = studio.folder.own / "sessions.json"
    content = json.loads(file.read_text(encoding="utf-8"))["sessions"]
    old = {key: at - 86400 * (SESSION_DAYS + 1) for key, at in content.items()}
    file.write_text(json.dumps({"sessions": old}), encoding="utf-8")
    assert not who.has_session(f"{who.cookie}={second}")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"sessions": 5}', '{"sessions": ["x"]}', '{"sessions": {"x": "y"}}']
)
def test_a_damaged_file_of_sessions_signs_out_and_a_token_signs_in_again(studio: Studio, content: str) -> None:
    (studio.folder.own / "sessions.json").write_text(content, encoding="utf-8")
    browser = client(studio, Cookie=f"{studio.access.cookie}=x")
    assert browser.get("/").status_code == 403
    assert browser.get("/", params={"token": studio.access.token}).status_code == 303


def test_every_answer_has_the_headers_that_protect_a_page(
    studio: Studio, web: TestClient, stranger: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    answers = [web.get("/"), web.get("/none"), web.get("/static/script.js"), web.get("/index.json"), web.head("/")]
    answers += [stranger.get("/"), stranger.get("/", params={"token": "x"}), web.post("/", data={})]
    answers += [web.get("/", headers={"Host": "evil.example"}), web.delete("/")]
    monkeypatch.setattr(StudioFolder, "projects", fails)
    signed_in = f"{studio.access.cookie}={studio.access.open_session()}"
    broken = client(studio, Cookie=signed_in).get("/")
    assert broken.status_code == 500
    assert "ZeroDivisionError" not in broken.text
    assert client(studio, Cookie=signed_in).get("/index.json").json()["error"]["message"].startswith("This page has a")
    for answer in (*answers, broken):
        for name, value in HEADERS.items():
            assert answer.headers.get_list(name) == [value], answer
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"


def test_a_twin_is_json_also_where_it_says_an_error(web: TestClient, stranger: TestClient) -> None:
    for browser, path, status in ((web, "/index.json", 200), (web, "/none/data.json", 404), (stranger, "/x.json", 403)):
        answer = browser.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        answer.json()
        head = browser.head(path)
        assert (head.status_code, head.text) == (status, "")


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd/data",
        "/%2e%2e/data",
        "/.studio/data",
        "/reviews/../.studio/data",
        "/reviews%00/data",
        "/reviews%0a/data",
        "/REVIEWS/data",
        "/reviews/runs/..",
        "/reviews/runs/..%2f..",
        "/reviews/runs/01",
        "/reviews/runs/1%00",
        "/reviews/runs/%2e%2e/live",
        "/static/../app.py",
        "/static/%2e%2e/access.py",
    ],
)
def test_a_path_that_leads_elsewhere_is_no_page(studio: Studio, web: TestClient, path: str) -> None:
    studio.queue.add(studio.folder.create("reviews", "sst2"), ["choose"])
    for one in (path, f"{path}.json"):
        answer = web.get(one)
        assert answer.status_code == 404
        assert "root:" not in answer.text


UNQUOTED = re.compile(r"<[a-zA-Z][^<>]*[\s}][\w-]+=[^\s\"'<>]*\{\}")
"""A tag with an expression in an attribute without quotes; each expression and statement is written `{}`."""

MARKUP = "<script>alert('x')</script>\"'><img src=x onerror=y>"


def test_every_template_escapes_texts_and_only_reports_and_plots_are_markup() -> None:
    assert _environment().autoescape is True
    templates = {path.name: path.read_text() for path in (ROOT / "src/afina/studio/templates").iterdir()}
    assert {name for name, text in templates.items() if re.search(r"\|\s*(safe|drawn)\b", text)} == {
        "answer.html.j2",
        "run_live.html.j2",
    }
    for name, text in templates.items():
        assert "autoescape" not in text, name
        assert not UNQUOTED.search(re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "{}", text, flags=re.DOTALL)), name
    marked = MarkedText(MARKUP, (Mark(0, len(MARKUP) - 1, MARKUP, MARKUP),))
    for shown in (inline(f"`{MARKUP}` {MARKUP}"), spans(marked)):
        assert "<script" not in shown
        assert "<img" not in shown


@pytest.mark.parametrize("path", ["/", "/reviews/data", "/reviews/doubts", "/reviews/try"])
def test_a_hostile_text_is_shown_as_text(
    web: TestClient, reviews: Project, answered: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    web.post("/", data={"address": MARKUP, "title": MARKUP})
    rows = [[f"{MARKUP} {row}", f"{MARKUP} {row % 2}"] for row in range(8)]
    with (reviews.data / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *rows])
    answered(inspection_of(reviews), [*inspect_arguments(reviews), "--json"])
    named = {"text": MARKUP, "label": MARKUP, "suggested": f"no {MARKUP}", "reason": MARKUP}
    found(reviews, DoubtfulLabel(file="reviews.csv", row=2, training=True, **named))
    monkeypatch.setattr(StudioServer, "start", lambda server, backbone: None)
    asked = web.post("/reviews/try", data={"text": MARKUP, "ask-studio/reviews@1": "yes"}).headers["location"]
    page = web.get(asked if path == "/reviews/try" else path).text
    assert "&lt;script&gt;alert" in page
    assert "<script>alert" not in page
    assert "<img" not in page


def test_an_error_is_a_sentence_and_a_browser_that_is_not_signed_in_gets_no_link(
    web: TestClient, stranger: TestClient
) -> None:
    page = web.get("/none/data").text
    assert "There is no project" in page
    assert 'href="/">All projects' in page
    page = stranger.get("/").text
    assert "This browser is not signed in. Open the address that <code>afina studio</code> printed" in page
    assert "All projects" not in page


def test_what_events_and_logs_say_is_shown_as_text(studio: Studio, web: TestClient) -> None:
    made = studio.folder.create("reviews", "sst2")
    run = studio.queue.add(made, ["choose", MARKUP])
    run.out.mkdir(parents=True)
    named = {"run": "a", "title": MARKUP, "method": MARKUP, "backbone": MARKUP, "seed": 0}
    progress = {"phase": "train", "step": 1, "steps": 2, "loss": 0.5, "tokens_per_second": 1, "seconds_left": 1}
    ended = {"now": True, "metric": "accuracy", "value": 0.5, "selection": None, "train_seconds": 1.0}
    events: list[dict[str, Any]] = [
        {"event": "says", "words": f"`{MARKUP}` {MARKUP}"},
        {"event": "finished", **named, **ended},
        {"event": "failed", **named, "message": MARKUP},
        {"event": "progress", **named, **progress, "note": MARKUP},
    ]
    lines = [json.dumps({"at": "2026-01-01T00:00:00+00:00", **one}) for one in events]
    (run.out / "events.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (run.process.directory / "log").write_text(MARKUP, encoding="utf-8")

    def check(text: str) -> None:
        assert "&lt;script&gt;" in text
        assert "<script>alert" not in text
        assert "<img" not in text

    (run.process.directory / "exit.json").write_text('{"status": 2}', encoding="utf-8")
    assert web.get("/reviews/runs/1.json").json()["state"] == "failed"
    for path in ("/reviews/runs/1", "/reviews/runs/1/live"):
        check(web.get(path).text)
    (run.process.directory / "exit.json").unlink()
    with (run.process.directory / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a command that runs
        page = web.get("/reviews/runs/1").text
    check(page)
    assert "<progress" in page


def test_the_name_of_a_training_is_text_in_a_plot_too() -> None:
    drawn = str(_drawn(race([EndedTraining(f"lora on {MARKUP}", 1.0, 0.5, None)], "accuracy").svg))
    assert "<script" not in drawn
    assert "<img" not in drawn
    assert "<style" not in drawn


def test_a_password_is_kept_as_a_hash_and_signs_out_every_browser(open_to_others: Studio) -> None:
    folder, who = open_to_others.folder, open_to_others.access
    session = who.open_session()
    content = b"".join(path.read_bytes() for path in folder.own.rglob("*") if path.is_file())
    assert PASSWORD.encode() not in content
    assert b"scrypt" in content
    before = (folder.own / "password.json").read_bytes()
    set_password(folder, PASSWORD)
    assert (folder.own / "password.json").read_bytes() != before  # another salt
    assert not who.has_session(f"{who.cookie}={session}")
    with raises(InvalidData, code="studio.password-short"):
        set_password(folder, "short")
    who.check_password(PASSWORD)


def test_a_password_signs_in_and_tries_are_limited(open_to_others: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(access.meter, "now", lambda: now[0])
    browser = client(open_to_others, Origin=LOCAL)
    assert 'type="password"' in browser.get("/login").text
    statuses = [browser.post("/login", data={"password": f"guess {each}"}).status_code for each in range(TRIES + 1)]
    assert statuses == [403] * TRIES + [429]
    assert browser.post("/login", data={"password": PASSWORD}).status_code == 429
    open_to_others.access.check_password(PASSWORD, "192.0.2.7")  # another machine is not locked out
    now[0] += access.PAUSE
    answer = browser.post("/login", data={"password": PASSWORD})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert browser.get("/").status_code == 200
    assert client(open_to_others).get("/", params={"token": open_to_others.access.token}).status_code == 303


def test_no_more_passwords_are_looked_at_if_many_arrive_at_once(
    open_to_others: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    go_on = threading.Event()

    def hashed(password: str, salt: bytes) -> bytes:
        looked_at.append(password)
        go_on.wait(10)
        return b""

    monkeypatch.setattr(access, "_scrypt", hashed)
    refused: list[str] = []

    def tries(number: int) -> None:
        with pytest.raises(Refused) as found:
            open_to_others.access.check_password(str(number))
        refused.append(found.value.code)
        if refused.count("studio.tries-exhausted") == 20 - TRIES:
            go_on.set()

    threads = [threading.Thread(target=tries, args=(each,)) for each in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looked_at) == TRIES
    assert refused.count("studio.tries-exhausted") == 20 - TRIES


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"salt": 5, "scrypt": 6}', '{"salt": "é", "scrypt": ""}'])
def test_a_damaged_password_lets_nobody_in(open_to_others: Studio, content: str) -> None:
    (open_to_others.folder.own / "password.json").write_text(content, encoding="utf-8")
    with raises(Refused, code="studio.refused"):
        open_to_others.access.check_password(PASSWORD)
    with raises(Refused, code="studio.password-missing"):
        open_to_others.access.check_guarded()


def test_a_stranger_cannot_fill_the_disk_by_the_form_of_the_password(open_to_others: Studio) -> None:
    browser = client(open_to_others, Origin=LOCAL)
    large = b"x" * 100_000
    for form in ({"data": {"password": "x" * 100_000}}, {"files": {"password": ("a.csv", large)}}):
        assert browser.post("/login", **form).status_code in (413, 422)  # type: ignore[arg-type]
    chunks = browser.post(
        "/login",
        content=iter([b"password=", *[large] * 10]),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert chunks.status_code == 422
    assert not [path for path in (open_to_others.folder.own / "uploads").glob("*") if path.is_file()]


def test_connections_that_say_nothing_keep_nobody_out_and_cut_no_live_page(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.studio.app.CONNECTIONS", 16)
    monkeypatch.setattr("afina.server.settings.Settings.head_seconds", 0.5)
    studio.access.port = port = free_port()
    run = studio.queue.add(studio.folder.create("reviews", "sst2"), ["choose"])
    cookie = {"Cookie": f"{studio.access.cookie}={studio.access.open_session()}"}
    with ExitStack() as stack:
        fcntl.flock(stack.enter_context((run.process.directory / LOCK).open("w")), fcntl.LOCK_EX)  # as if it ran
        stack.enter_context(answering(studio))

        def asked(path: str) -> http.client.HTTPResponse:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            stack.callback(connection.close)
            connection.request("GET", path, headers=cookie)
            return connection.getresponse()

        live = asked("/reviews/runs/1/live")
        assert live.readline().startswith(b"data:")
        flood = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)) for _ in range(60)]
        for one in flood:
            with suppress(ConnectionError):
                one.sendall(b"GET / HT")
        assert asked("/reviews/runs").status == 200
        for one in flood:  # the oldest made room, and the others are slow
            with suppress(ConnectionError):
                assert one.recv(100) == b""
        studio.closing = True
        live.read()  # IncompleteRead if it was cut
