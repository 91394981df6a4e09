"""The page Keep and serve: versions, aliases, keys, the server, and what programs need to ask it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from stores_of_studios import finished_run, publish, served

from afina import AdapterStore, Backbone
from afina.errors import Conflict
from afina.studies.choosing.recommendation import Contender, Recommendation
from afina.studies.runs.output_directory import OutputDirectory
from afina.studio.command_process import LOCK, CommandProcess
from afina.studio.folder import Project
from afina.studio.kept_answer import KeptAnswer
from afina.studio.page import Studio
from afina.studio.server_process import PORTS, StudioServer
from crowd import adapter
from fakes import Runs
from servers import TOLD, within
from stores import adapter as invented

Make = Callable[..., Project]


def facts(web: TestClient) -> dict[str, Any]:
    return dict(web.get("/reviews/keep.json").json())


def store(studio: Studio) -> AdapterStore:
    return AdapterStore(studio.folder.store)


# Versions


def test_without_a_finished_run_the_page_leads_to_the_runs(web: TestClient, project: Make) -> None:
    project(b"text,label\na,bad\n")
    page = web.get("/reviews/keep")
    assert page.status_code == 200
    assert "No finished run has an adapter yet" in page.text
    assert 'action="/reviews/keep/' not in page.text


def test_an_adapter_of_a_finished_run_becomes_a_version_with_its_message(
    web: TestClient, studio: Studio, project: Make, runs: Runs, at_once: None
) -> None:
    finished_run(made := project(b"text,label\na,bad\n"), runs)
    (offered,) = facts(web)["adapters"]
    assert offered["words"].startswith("Run 1: LoRA, seed 0, accuracy ")
    answer = web.post("/reviews/keep/publish", data={"adapter": offered["place"], "message": "first <b>"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/reviews/keep")
    (version,) = facts(web)["versions"]
    assert (version["number"], version["message"]) == (1, "first <b>")
    assert store(studio).show(made.adapters).manifest["method"] == "lora"
    assert "first &lt;b&gt;" in web.get("/reviews/keep").text


@pytest.mark.parametrize(("wanted", "status"), [(False, 130), (True, 2)])
def test_a_run_that_ended_early_keeps_the_adapters_of_its_ended_trainings(
    web: TestClient, project: Make, runs: Runs, at_once: None, wanted: bool, status: int
) -> None:
    finished_run(made := project(b"text,label\na,bad\n"), runs)
    process = made.process("run-1").directory
    request = json.loads((process / "request.json").read_text(encoding="utf-8"))
    (process / "request.json").write_text(json.dumps(request | {"wanted": wanted}), encoding="utf-8")
    (process / "exit.json").write_text(json.dumps({"status": status}), encoding="utf-8")
    (offered,) = facts(web)["adapters"]
    assert web.post("/reviews/keep/publish", data={"adapter": offered["place"], "message": ""}).status_code == 303
    assert len(facts(web)["versions"]) == 1


def test_a_recommended_baseline_without_a_record_is_offered(web: TestClient, project: Make, runs: Runs) -> None:
    made = project(b"text,label\na,bad\n")
    out = OutputDirectory(finished_run(made, runs).parent.parent)
    (out.out / "adapters" / "tfidf-1").mkdir()
    fitted = Contender(name="TF-IDF", metrics={"accuracy": 0.5}, adapter="adapters/tfidf-1")
    advice = Recommendation(
        **{"task": "x", "data": {}, "backbone": "gpt2", "recommended": "TF-IDF", "adapter": "adapters/tfidf-1"},
        **{"contenders": (fitted,), "comparisons": (), "dropped": {}, "train_examples": 9, "examples": 9},
        **{"minutes": 1, "seconds": 1},
    )
    out.recommendation.write_text(advice.sealed().model_dump_json(), encoding="utf-8")
    first, second = facts(web)["adapters"]
    assert (first["place"], first["words"]) == ("1/adapters/tfidf-1", "Run 1: TF-IDF, accuracy 0.5000")
    assert (first["recommended"], second["recommended"]) == (True, False)


def test_an_adapter_that_no_run_has_is_not_published(web: TestClient, project: Make, studio: Studio) -> None:
    project(b"text,label\na,bad\n")
    answer = web.post("/reviews/keep/publish", data={"adapter": "../../../etc"})
    assert answer.status_code == 404
    assert "has no finished run with the adapter" in answer.text
    assert not studio.folder.store.exists()


def test_a_failed_publication_is_said_on_the_page(
    web: TestClient, project: Make, runs: Runs, at_once: None, studio: Studio
) -> None:
    adapter = finished_run(project(b"text,label\na,bad\n"), runs)
    (offered,) = facts(web)["adapters"]
    (adapter / "manifest.json").write_text("{")
    web.post("/reviews/keep/publish", data={"adapter": offered["place"]})
    page = web.get("/reviews/keep").text
    assert "The adapter was not published." in page
    assert "manifest.json" in page
    assert facts(web)["versions"] == []


def test_an_alias_moves_and_rolls_back_and_the_audit_log_has_both(web: TestClient, reviews: Project) -> None:
    for number in (1, 2):
        data = {"alias": "production", "version": str(number), "message": f"to {number}"}
        assert web.post("/reviews/keep/alias", data=data).status_code == 303
    assert facts(web)["aliases"] == {"production": 2}
    assert web.post("/reviews/keep/rollback", data={"alias": "production"}).status_code == 303
    assert facts(web)["aliases"] == {"production": 1}
    log = [(one["event"], one["what"], one["why"]) for one in facts(web)["history"]]
    assert log[:3] == [
        ("rollback", "production: 2 -> 1", ""),
        ("alias", "production: 1 -> 2", "to 2"),
        ("alias", "production: new -> 1", "to 1"),
    ]


def test_a_canary_has_a_share_of_the_requests(web: TestClient, studio: Studio, reviews: Project) -> None:
    data = {"alias": "canary", "version": "2", "share": "12.5"}
    assert web.post("/reviews/keep/alias", data=data).status_code == 303
    assert facts(web)["history"][0]["what"] == "canary: new -> 2, 12.5 % of requests"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({"alias": "Bad Name", "version": "1"}, 422),
        ({"alias": "production", "version": "9"}, 404),
        ({"alias": "production", "version": "1; rm"}, 404),
        ({"alias": "production"}, 422),
        ({"alias": "canary", "version": "1"}, 422),
        ({"alias": "canary", "version": "1", "share": "many"}, 422),
    ],
)
def test_a_wrong_alias_or_version_is_said_on_the_page_and_changes_nothing(
    web: TestClient, reviews: Project, data: dict[str, str], status: int
) -> None:
    before = facts(web)["history"]
    answer = web.post("/reviews/keep/alias", data=data)
    assert answer.status_code == status
    assert 'role="alert"' in answer.text
    assert facts(web)["history"] == before


def test_two_versions_are_compared_in_settings_and_sizes(web: TestClient, reviews: Project, at_once: None) -> None:
    assert web.get("/reviews/keep/diff?first=1&second=2").status_code == 200
    found = web.get("/reviews/keep/diff.json?first=1&second=2").json()
    assert {"name": "hyperparameters: r", "first": "2", "second": "4"} in found["settings"]
    assert found["settings"][-1]["name"] == "size in bytes"
    page = web.get("/reviews/keep/diff?first=1&second=2").text
    assert "hyperparameters: r" in page
    looks = iter([found["found"]])  # gone at the second look, as when another tab compares again
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeptAnswer, "found", property(lambda _: next(looks, None)))
        assert web.get("/reviews/keep/diff.json?first=1&second=2").json()["settings"] == found["settings"]
    assert web.get("/reviews/keep/diff?first=1&second=7").status_code == 404
    assert web.get("/reviews/keep/diff").status_code == 404


def test_a_comparison_that_failed_says_why_and_can_be_repeated(
    web: TestClient, studio: Studio, reviews: Project, at_once: None, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    blobs = store(studio).blobs_directory
    assert blobs is not None
    blobs.rename(away)
    page = web.get("/reviews/keep/diff?first=1&second=2&texts=yes")
    assert 'role="alert"' in page.text
    assert "Compare again" in page.text
    shutil.rmtree(blobs, ignore_errors=True)
    away.rename(blobs)
    answer = web.post("/reviews/keep/diff/again?first=1&second=2&texts=yes")
    assert answer.headers["location"] == "/reviews/keep/diff?first=1&second=2&texts=yes"
    assert web.get("/reviews/keep/diff.json?first=1&second=2&texts=yes").json()["problem"] == ""


def test_predictions_are_compared_whatever_the_reading_options_of_a_training(
    web: TestClient, reviews: Project, at_once: None, tmp_path: Path
) -> None:
    (tmp_path / "held out.csv").write_text("text,label\nc,good\nd,bad\n")
    evaluation, left_out = str(tmp_path / "held out.csv"), str(tmp_path / "left-out.csv")
    reviews.with_options({"evaluation": evaluation, "kind": "classes", "positive": "good", "without": left_out})
    compared = web.get("/reviews/keep/diff.json?first=1&second=2&texts=yes").json()
    assert compared["problem"] == ""
    assert compared["found"]["flips"]["examples"] == 2


# Keys


def test_a_new_key_is_shown_once_and_nowhere_else_and_loading_the_page_again_makes_no_other(
    web: TestClient, studio: Studio, reviews: Project
) -> None:
    sent = web.post("/reviews/keep/keys", data={"name": "web", "scope-predict": "yes", "expires": "90d"})
    assert sent.status_code == 303
    assert web.head(sent.headers["location"]).status_code == 200
    answer = web.get(sent.headers["location"])
    secret = answer.text.partition("<pre>")[2].partition("</pre>")[0]
    assert secret.startswith("afina_")
    (key,) = facts(web)["keys"]
    assert (key["name"], key["scopes"], key["state"]) == ("web", ["predict"], "valid")
    assert key["id"] == secret.split("_")[1]
    assert key["expires"]
    for path in ("/reviews/keep", sent.headers["location"]):
        assert secret not in web.get(path).text
    assert len(facts(web)["keys"]) == 1
    files = [path for path in studio.folder.root.rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_a_page_is_loaded_again_without_a_script_but_not_the_answer_to_a_form(
    web: TestClient, studio: Studio, reviews: Project
) -> None:
    starting = studio.folder.server
    starting.directory.mkdir()
    with (starting.directory / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert 'http-equiv="refresh"' in web.get("/reviews/keep").text
        for data in ({"scope-predict": "yes"}, {}):
            answer = web.post("/reviews/keep/keys", data=data, follow_redirects=True).text
            assert 'http-equiv="refresh"' not in answer
            assert '<a href="/reviews/keep">load it</a>' in answer
    assert "load it" not in web.post("/reviews/keep/keys", data={"scope-predict": "yes"}, follow_redirects=True).text


@pytest.mark.parametrize("data", [{}, {"scope-predict": "yes", "expires": "soon"}])
def test_a_key_without_a_scope_or_with_another_expiry_is_refused(
    web: TestClient, reviews: Project, data: dict[str, str]
) -> None:
    answer = web.post("/reviews/keep/keys", data=data)
    assert answer.status_code == 422
    assert "afina_" not in answer.text
    assert facts(web)["keys"] == []


def test_a_key_is_revoked_but_not_that_of_the_pages(web: TestClient, studio: Studio, url: str) -> None:
    web.post("/reviews/keep/keys", data={"name": "web", "scope-predict": "yes"})
    own, other = sorted(facts(web)["keys"], key=lambda one: not one["own"])
    assert web.post("/reviews/keep/keys/revoke", data={"key": other["id"]}).status_code == 303
    assert web.post("/reviews/keep/keys/revoke", data={"key": own["id"]}).status_code == 403
    states = {one["id"]: one["state"] for one in facts(web)["keys"]}
    assert states == {own["id"]: "valid", other["id"]: "revoked"}


def test_the_key_of_the_pages_is_private_and_is_replaced_once_it_is_revoked(
    web: TestClient, studio: Studio, url: str
) -> None:
    assert facts(web)["unanswered"] == ""
    server, file = StudioServer(studio.folder), studio.folder.own / "key"
    first = server.key_id
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() not in web.get("/reviews/keep").text
    store(studio).revoke_key(first)
    assert server.client(5).read("/metrics")
    assert server.key_id not in ("", first)
    assert file.stat().st_mode & 0o777 == 0o600


# The server


def test_each_program_answers_when_it_is_pasted(web: TestClient, studio: Studio, url: str) -> None:
    secret = store(studio).create_key("studio", ["predict"]).secret
    programs = {one["title"]: one["text"] for one in facts(web)["programs"]}
    environment = os.environ | {"AFINA_KEY": secret, "no_proxy": "127.0.0.1"}
    commands = {"Python, without packages": [sys.executable, "-c"]}
    if shutil.which("curl"):
        commands["curl"] = ["sh", "-c"]
    for title, command in commands.items():
        done = subprocess.run([*command, programs[title]], env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), title
        assert '"label"' in done.stdout.replace("'", '"'), title


@pytest.mark.slow
def test_the_program_for_openai_answers_when_it_is_pasted(web: TestClient, studio: Studio, url: str) -> None:
    pytest.importorskip("openai", reason="openai is not installed")
    secret = store(studio).create_key("studio", ["predict"]).secret
    program = {one["title"]: one["text"] for one in facts(web)["programs"]}["Python, with the package openai"]
    environment = os.environ | {"AFINA_KEY": secret, "no_proxy": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert "'label'" in done.stdout, done.stderr


@pytest.mark.slow
def test_traffic_and_flips_of_a_shadow_are_those_of_the_server(web: TestClient, studio: Studio, url: str) -> None:
    opened = store(studio)
    opened.alias("studio/reviews@1")
    web.post("/reviews/keep/alias", data={"alias": "shadow", "version": "2"})
    client = StudioServer(studio.folder).client(20)

    def riding() -> bool:
        found = facts(web)["shadow"]
        return bool(found["state"] == "riding")

    assert within(20, riding)
    for number in range(5):
        client.ask("/tasks", {"text": f"the soup was bright {number}.", "models": ["studio/reviews"]})
    assert within(20, lambda: facts(web)["shadow"]["texts"] == 5)
    found = facts(web)
    assert found["traffic"]["requests"] == 5
    assert found["traffic"]["median"] > 0
    assert 0 <= found["shadow"]["flips"] <= 5
    low, high = found["shadow"]["interval"]
    assert low <= found["shadow"]["flip_rate"] <= high
    page = web.get("/reviews/keep").text
    assert f"{found['shadow']['flips']} of 5 answers differ" in page
    assert web.post("/reviews/keep/unshadow").status_code == 303
    assert facts(web)["shadow"] is None


def test_a_server_that_gives_no_figures_leaves_the_page_with_a_sentence(
    web: TestClient, studio: Studio, url: str
) -> None:
    (studio.folder.server.directory / "command.json").write_text('{"arguments": ["serve", "--port", "1"]}')
    page = web.get("/reviews/keep")
    assert page.status_code == 200
    assert "no answer from a server" in page.text
    assert facts(web)["traffic"] is None


def test_a_server_that_did_not_start_says_why(web: TestClient, studio: Studio, reviews: Project) -> None:
    process = studio.folder.server
    process.directory.mkdir()
    (process.directory / "command.json").write_text('{"arguments": ["serve", "--port", "8000"]}')
    (process.directory / "error.json").write_text('{"error": {"parts": ["there is no backbone <x>."]}}')
    (process.directory / "exit.json").write_text('{"status": 2}')
    page = web.get("/reviews/keep").text
    assert "The server has ended. there is no backbone &lt;x&gt;." in page
    assert facts(web)["server"]["state"] == "failed"


def test_programs_for_adapters_that_write_texts_use_completions(
    web: TestClient, studio: Studio, project: Make, gpt2: Backbone
) -> None:
    made = project(b"text,target\na,b\n")
    publish(studio.folder, adapter(gpt2, "lora", {"r": 2}, **TOLD), made.adapters)
    with served(studio.folder, gpt2) as url:
        programs = facts(web)["programs"]
    assert f"{url}/v1/completions" in programs[0]["text"]
    assert "client.completions.create(" in programs[-1]["text"]


def test_a_server_with_another_backbone_is_not_replaced(web: TestClient, studio: Studio, url: str) -> None:
    server = StudioServer(studio.folder)
    with pytest.raises(Conflict) as raised:
        server.start("other")
    assert raised.value.code == "studio.server-state"
    assert server.url == url


@pytest.mark.slow
def test_a_server_with_another_backbone_is_started_anew_by_a_button(
    web: TestClient, studio: Studio, project: Make, gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = project(b"text,label\na,bad\n")
    AdapterStore(studio.folder.store).publish(invented(tmp_path / "a", backbone="other"), made.adapters, message="why")
    called = list[str]()
    monkeypatch.setattr(StudioServer, "stop", lambda server: called.append("stop"))
    monkeypatch.setattr(StudioServer, "start", lambda server, backbone, port: called.append(f"start {backbone}"))
    with served(studio.folder, gpt2):
        assert "Start the server anew with other" in web.get("/reviews/keep").text
        assert "have another one" in web.get("/reviews/try").text
        data = {"backbone": "other", "anew": "yes"}
        assert web.post("/reviews/keep/server", data=data).headers["location"] == "/reviews/keep#server"
    assert called == ["stop", "start other"]


@pytest.mark.slow
def test_the_server_is_started_and_stopped_by_forms_and_outlives_the_studio(
    web: TestClient, studio: Studio, reviews: Project, gpt2: Backbone
) -> None:
    data = {"backbone": gpt2.address}
    assert web.post("/reviews/keep/server", data=data).status_code == 303
    try:
        assert facts(web)["server"]["state"] in ("starting", "running")
        assert within(90, lambda: facts(web)["server"]["state"] == "running"), facts(web)["server"]["log"]
        server = facts(web)["server"]
        assert server["url"] == f"http://127.0.0.1:{server['port']}"
        assert server["memory"] > 0
        pid = studio.folder.server.pid
        assert web.post("/reviews/keep/server", data=data).status_code == 303
        assert studio.folder.server.pid == pid, "a second start leaves the server as it is"
        assert facts(web)["traffic"]["requests"] == 0
        assert web.post("/reviews/keep/server/stop").status_code == 303
        assert facts(web)["server"]["state"] == "off"
        assert not studio.folder.server.is_running
    finally:
        StudioServer(studio.folder).stop()


def test_a_port_that_is_in_use_is_refused_and_the_server_of_no_port_takes_a_free_one(
    web: TestClient, studio: Studio, gpt2: Backbone, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    (studio.folder.server.directory / "exit.json").write_text('{"status": 0}')
    started = list[Sequence[str]]()
    monkeypatch.setattr(CommandProcess, "start", lambda process, arguments: started.append(arguments))
    used = url.rpartition(":")[2]
    assert web.post("/reviews/keep/server", data={"backbone": "--ray"}).status_code == 422
    answer = web.post("/reviews/keep/server", data={"backbone": gpt2.address, "port": used})
    assert (answer.status_code, started) == (409, [])
    assert f"Port {used} is in use" in answer.text
    assert web.post("/reviews/keep/server", data={"backbone": gpt2.address}).status_code == 303
    (arguments,) = started
    port = int(arguments[arguments.index("--port") + 1])
    assert port != int(used)
    assert port in PORTS or port > 1024
