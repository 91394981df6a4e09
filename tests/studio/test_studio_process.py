"""`afina studio` as a process: its start, its end by every signal, and runs that outlive it."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import family, free_port, kill, nothing_left_below, until

from afina.studio.folder import StudioFolder
from afina.studio.run_queue import runs_of

pytestmark = pytest.mark.slow

HEAD = "text,label\n"


class Running:
    """A studio in a process of its own, and a browser that is signed in."""

    def __init__(
        self, folder: Path, port: int, *arguments: str, program: Sequence[str] = ("-m", "afina", "studio")
    ) -> None:
        self.port, self.host = port, f"127.0.0.1:{port}"
        place = [str(folder), str(port)] if "-c" in program else [str(folder), "--port", str(port)]
        command = [sys.executable, "-P", *program, *place, *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        self.cookie = ""

    def sign_in(self) -> Running:
        token = self.said.strip().rpartition("token=")[2]
        status, headers, _ = self.ask("GET", f"/?token={token}")
        assert status == 303
        self.cookie = headers["set-cookie"].partition(";")[0]
        return self

    def ask(
        self, method: str, path: str, body: Any = None, chunked: bool = False, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers and text of an answer; the path is sent as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Origin": f"http://{self.host}", "Cookie": self.cookie, **headers}
        connection.request(method, path, body, given, encode_chunked=chunked)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text

    def form(self, path: str, **fields: str) -> str:
        """The address at which a form goes on."""
        body = "&".join(f"{name}={value}" for name, value in fields.items())
        status, headers, text = self.ask("POST", path, body, **{"Content-Type": "application/x-www-form-urlencoded"})
        assert status == 303, text
        return headers["location"]

    def facts(self, path: str) -> Any:
        status, _, text = self.ask("GET", f"{path}.json")
        assert status == 200, text
        return json.loads(text)

    def ends(self, sent: signal.Signals) -> tuple[int, str, float]:
        """Exit status, standard error, and seconds until the end."""
        began = time.monotonic()
        self.process.send_signal(sent)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err, time.monotonic() - began


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a studio on the folder `studio`."""
    with ExitStack() as stack:
        stack.enter_context(nothing_left_below(tmp_path))

        def started(*arguments: str, port: int | None = None, **options: Any) -> Running:
            made = Running(tmp_path / "studio", port or free_port(), *arguments, **options)
            stack.callback(made.process.communicate)
            stack.callback(made.process.kill)
            return made

        yield started


def project_of(studio: Running, tmp_path: Path, backbone: str = "") -> str:
    """The name of a new project of forty sentences."""
    rows = "".join(f"a {('bad', 'good')[one % 2]} film number {one},{('bad', 'good')[one % 2]}\n" for one in range(40))
    (tmp_path / "texts.csv").write_text(HEAD + rows, encoding="utf-8")
    return studio.form("/", address=str(tmp_path / "texts.csv"), title="reviews").split("/")[1]


@contextmanager
def live_page(studio: Running, path: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=60)
    connection.request("GET", path, headers={"Cookie": studio.cookie})
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.readline().startswith(b"data:")
    yield answer
    connection.close()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_studio_in_good_order_with_live_pages_and_an_upload_open(
    start: Start, tmp_path: Path, sent: signal.Signals
) -> None:
    if signal.getsignal(sent) is signal.SIG_IGN:
        pytest.skip(f"{sent.name} is ignored here, as under nohup, so a studio ignores it too")
    studio = start().sign_in()
    project_of(studio, tmp_path)
    (tmp_path / "studio" / "reviews" / "processes" / "run-1").mkdir(parents=True)
    asked = {"arguments": ["choose"], "wanted": True, "starts": 0, "asked": "2026"}
    with ExitStack() as stack:
        blocker = stack.enter_context((tmp_path / "studio" / "reviews" / "processes" / "run-1" / ".lock").open("w"))
        fcntl.flock(blocker, fcntl.LOCK_EX)  # as a run that goes on
        (Path(blocker.name).parent / "request.json").write_text(json.dumps(asked), encoding="utf-8")
        for _ in range(3):
            stack.enter_context(live_page(studio, "/reviews/runs/1/live"))
        upload = stack.enter_context(socket.create_connection(("127.0.0.1", studio.port)))
        upload.sendall(
            f"POST / HTTP/1.1\r\nHost: {studio.host}\r\nOrigin: http://{studio.host}\r\nCookie: {studio.cookie}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\nhalf'.encode()
        )
        uploads = tmp_path / "studio" / ".studio" / "uploads"
        until(lambda: uploads.is_dir() and any(uploads.iterdir()))
        status, err, seconds = studio.ends(sent)
        assert upload.recv(1000).startswith(b"HTTP/1.1 503")
    assert (status, "Traceback" in err) == (0, False), err
    assert seconds < 3.5  # and the interpreter's own end, on a machine that does other things too
    assert list(uploads.iterdir()) == []


WAITS = """
import sys, time
from afina import cli
from afina.studio.pages import home
home._summary = lambda project: time.sleep(600)
sys.argv = ["afina", "studio", sys.argv[1], "--port", sys.argv[2]]
cli.main()
"""


def test_a_page_that_waits_for_something_delays_no_other_and_not_the_end(start: Start, tmp_path: Path) -> None:
    studio = start(program=["-c", WAITS]).sign_in()
    project_of(studio, tmp_path)
    with ExitStack() as stack:
        for _ in range(12):
            waiting = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=60)
            stack.callback(waiting.close)
            waiting.request("GET", "/", headers={"Cookie": studio.cookie})
        assert studio.ask("GET", "/reviews/runs")[0] == 200
        status, err, seconds = studio.ends(signal.SIGTERM)
    assert (status, "Traceback" in err) == (0, False), err
    assert seconds < 4


def test_paths_and_heads_as_no_browser_sends_them_show_nothing(start: Start, tmp_path: Path) -> None:
    studio = start().sign_in()
    (tmp_path / "studio" / "secret").write_text("a secret")
    for path in (
        "/../secret",
        "/../../../../../../etc/passwd",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/%2e%2e%2fsecret/data",
        "/.studio/sessions.json",
        "/static/../../secret",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "//evil.example/data",
        "http://evil.example/",
        "/reviews/runs/%2e%2e%2f%2e%2e",
        "/\\..\\secret",
        "/%00",
        "/%ff%fe/data",
    ):
        status, headers, text = studio.ask("GET", path)
        assert status in (400, 403, 404), path
        assert not {"a secret", "root:"} & {text}
        assert "evil.example" not in headers.get("location", "")
    stranger = Running.__new__(Running)
    stranger.port, stranger.host, stranger.cookie = studio.port, studio.host, ""
    for path in ("/", "/login", "/secret", "/static/../", "/../login", "//login", "/static/script.js/../.."):
        for host in (studio.host, f"{studio.host}/login?x=", "127.0.0.1/static/style.css?:80"):
            assert stranger.ask("GET", path, Host=host)[0] == 403, (path, host)
    with socket.create_connection(("127.0.0.1", studio.port)) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nHost: {studio.host}\r\nHost: evil.example\r\n\r\n".encode())
        assert raw.recv(1000).startswith(b"HTTP/1.1 4")
    assert studio.ask("GET", "/")[0] == 200


def test_an_upload_of_ten_gigabytes_is_refused_by_its_length(start: Start) -> None:
    studio = start("--upload-limit", "1").sign_in()
    with socket.create_connection(("127.0.0.1", studio.port)) as raw:
        raw.sendall(
            f"POST / HTTP/1.1\r\nHost: {studio.host}\r\nOrigin: http://{studio.host}\r\nCookie: {studio.cookie}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 10000000000\r\n\r\n".encode()
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_a_run_outlives_a_killed_studio_and_another_studio_shows_it_and_its_end(
    start: Start, tmp_path: Path, backbones: Any
) -> None:
    port = free_port()
    first = start(port=port).sign_in()
    project_of(first, tmp_path)
    run = first.form("/reviews/runs", what="choose", minutes="0.3", others=str(backbones.path("gpt2")))
    until(lambda: first.facts(run)["state"] == "running" and first.facts(run)["said"])
    tabs = [first.facts(run)["state"], first.facts("/reviews/runs")["runs"][0]["state"]]
    assert tabs == ["running", "running"]
    (found,) = runs_of(StudioFolder(tmp_path / "studio").project("reviews"))
    processes = family(found.process.pid or 0)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    assert all(one.is_running() for one in processes)

    second = start(port=port)
    second.cookie = first.cookie  # the browser is still signed in
    assert second.facts(run)["state"] == "running"
    with live_page(second, f"{run}/live") as page:
        text = page.read().decode()
    assert text.endswith("event: end\ndata: end\n\n")
    found_now = second.facts(run)
    assert (found_now["state"], found_now["log"]) == ("done", "")
    kill(*processes)
