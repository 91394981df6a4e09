"""afina store: every command, for people and for programs, and what each says where it cannot."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from afina.store.adapter_store import AdapterStore
from command import Answer, Command
from stores import adapter

Ask = Callable[..., Answer]


@pytest.fixture
def ask(afina: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """`afina store ...`, on the store that AFINA_STORE names."""
    monkeypatch.setenv("AFINA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("LOGNAME", "ada")
    return lambda *arguments: afina("store", *arguments)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two versions of acme/reviews, of which `production` is the first, beside their adapters."""
    path = tmp_path_factory.mktemp("published")
    store = AdapterStore(path / "store", who="ada")
    for head in range(2):
        made = adapter(path / f"adapter-{head}", 0, head)
        store.publish(made, "acme/reviews", message=f"message {head + 1}")
    store.alias("acme/reviews@1", message="to begin with")
    return path


@pytest.fixture
def two(ask: Ask, published: Path, tmp_path: Path) -> Ask:
    """On a copy of `published`."""
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    return ask


def test_init_begins_a_store(ask: Ask, tmp_path: Path) -> None:
    assert ask("init").out == f"store {tmp_path / 'store'}: created\n"
    assert (
        ask("init").error
        == f"store {tmp_path / 'store'}: the store exists already. Use this store, or choose another place."
    )
    assert (
        ask("list").out
        == "The store has no adapter yet. Publish an adapter: afina store publish ADAPTER CLIENT/TASK --message WHY\n"
    )
    last = AdapterStore().log()[-1].hash
    told = f"store {tmp_path / 'store'}: no damage. The last hash of the audit log is {last}\n"
    assert ask("verify").out == told
    assert ask("--store", "other", "init", "--json").object() == {"store": "other"}
    assert ask("--store", "third", "init", "--blobs", "bytes").code == 0


def test_publish_keeps_an_adapter_once(ask: Ask, tmp_path: Path) -> None:
    made = adapter(tmp_path / "made")
    said = ask("publish", made, "acme/reviews", "--message", "first")
    digest = AdapterStore().show("acme/reviews").digest
    assert re.fullmatch(rf"acme/reviews@1 {digest[:19]}, \d+ bytes\n", said.out), said
    again = ask("publish", made, "acme/reviews", "-m", "again")
    assert again.out == said.out.replace("\n", ", already published\n")
    found = ask("publish", made, "acme/reviews", "-m", "again", "--json").object()
    assert found == {"name": "acme/reviews", "version": 1, "digest": digest, "created": False}
    assert ask("--who", "grace", "publish", made, "bolt/reviews", "-m", "theirs").code == 0
    assert AdapterStore().show("bolt/reviews").who == "grace"
    full = adapter(tmp_path / "full", 1, 1, method="full")
    assert (
        "The adapter is a full fine-tune, so the store keeps all weights"
        in ask("publish", full, "acme/full", "-m", "x").out
    )
    few = adapter(tmp_path / "few", 2, method="zero-shot", hyperparameters={"shots": 4}, template="an example {text}")
    assert "The template has 4 training texts, so everyone" in ask("publish", few, "acme/few", "-m", "x").out


def test_list_shows_names(two: Ask) -> None:
    heading, row = two("list").out.splitlines()
    assert heading.split() == ["name", "newest", "aliases", "method", "created"]
    assert row.split()[:4] == ["acme/reviews", "2", "production=1", "lora"]
    found = two("list", "acme", "--json").object()["names"]
    assert [(one["name"], one["versions"], one["newest"], one["aliases"]) for one in found] == [
        ("acme/reviews", 2, 2, {"production": 1})
    ]
    assert "client nobody: the store has no adapter of this client" in two("list", "nobody", "--json").error
    assert "'A B' is not the name of a client" in two("list", "A B").error


def test_show_tells_of_a_version(two: Ask) -> None:
    said = dict(line.split(maxsplit=1) for line in two("show", "acme/reviews@production").out.splitlines())
    assert said["version"] == "acme/reviews@1"
    assert said["aliases"] == "production"
    assert said["message"] == "message 1"
    assert said["method"] == "lora rank=2"
    assert said["metrics"] == "accuracy 0.7500"
    assert said["created"].endswith("UTC by ada")
    found = two("show", "acme/reviews", "--json").object()
    assert (found["version"], found["message"], found["deleted"]) == (2, "message 2", False)
    assert found["manifest"]["label_names"] == ["bad", "good"]
    assert sorted(found["parts"]) == ["body", "head"]


def test_history_tells_what_was_done(two: Ask) -> None:
    lines = two("history", "acme/reviews").out.splitlines()
    assert [line.split("  ")[-1] for line in lines[1:]] == ["message 1", "message 2", "to begin with"]
    assert "production: new -> 1" in lines[3]
    found = two("history", "acme/reviews", "--json").object()
    assert [one["event"] for one in found["events"]] == ["publish", "publish", "alias"]
    assert [one["version"] for one in found["versions"]] == [1, 2]
    moved = two("history", "acme/reviews", "--alias", "production", "--json").object()
    assert [one["details"]["to"] for one in moved["events"]] == [1]


def test_a_canary_has_a_share_and_is_promoted_or_ended(two: Ask) -> None:
    assert two("canary", "acme/reviews").out == "acme/reviews: no canary is set\n"
    set_to = two("alias", "acme/reviews@2", "canary", "--share", "10").out
    assert set_to.startswith("acme/reviews@canary: new -> 2\n")
    assert "afina store canary acme/reviews --promote\n" in set_to
    assert two("canary", "acme/reviews").out == "acme/reviews: version 2 answers 10 % of the requests for production\n"
    assert two("canary", "acme/reviews", "--json").object() == {"name": "acme/reviews", "number": 2, "share": 10.0}
    assert "canary: new -> 2, 10 % of requests" in two("history", "acme/reviews").out
    assert "production answers all requests again" in two("canary", "acme/reviews", "--off").out
    assert two("canary", "acme/reviews", "--json").object() == {"name": "acme/reviews", "number": None, "share": None}
    two("alias", "acme/reviews@2", "canary", "--share", "0.5")
    assert two("canary", "acme/reviews", "--promote").out == "acme/reviews@production: 1 -> 2\n"
    assert two("canary", "acme/reviews").out == "acme/reviews: no canary is set\n"
    for wrong in (["--promote", "--off"], ["--promote"]):
        assert two("canary", "acme/reviews", *wrong).code == 2
    for share in ([], ["--share", "0"], ["--share", "100"], ["--share", "nan"]):
        assert two("alias", "acme/reviews@1", "canary", *share).code == 2
    assert two("verify").code == 0


def test_alias_and_rollback_move_an_alias(two: Ask) -> None:
    assert two("alias", "acme/reviews@2", "production").out == "acme/reviews@production: 1 -> 2\n"
    assert two("rollback", "acme/reviews").out == "acme/reviews@production: 2 -> 1\n"
    made = two("alias", "acme/reviews@2", "staging", "--expect", 0, "-m", "new", "--json").object()
    assert made == {"name": "acme/reviews", "alias": "staging", "from": None, "to": 2}
    two("alias", "acme/reviews@1", "staging", "--force")
    made = two("rollback", "acme/reviews", "--alias", "staging", "--force", "-m", "back", "--json").object()
    assert made == {"name": "acme/reviews", "alias": "staging", "from": 1, "to": 2}
    assert AdapterStore().history("acme/reviews")[-1].why == "back"
    assert two("alias", "acme/reviews@1", "staging", "--expect", 1).error.startswith(
        "acme/reviews@staging: points to version 2, expected version 1. Another process has moved the alias."
    )
    assert "points to version 2, expected no version" in two("alias", "acme/reviews@1", "staging", "--expect", 0).error
    assert "is not an alias" in two("alias", "acme/reviews@1", "V1").error


def test_delete_and_gc_remove(two: Ask) -> None:
    assert two("delete", "acme/reviews@1", "--reason", "x").error == (
        "acme/reviews@1: production points to this version. First move the alias to another version."
    )
    said = two("delete", "acme/reviews@2", "--reason", "not needed").out
    assert said == "acme/reviews@2 deleted. `afina store gc` removes the blobs that no other version uses.\n"
    assert re.fullmatch(r"1 blobs removed, \d+ bytes\.\n", two("gc").out)
    assert two("gc", "--json").object() == {"blobs": 0, "bytes": 0, "versions": 0}
    assert two("show", "acme/reviews@2").error == "acme/reviews@2: version 2 was deleted. Existing versions: 1."
    two("alias", "acme/reviews@1", "production")
    AdapterStore().publish(Path("adapter-1"), "acme/reviews", message="again")
    found = two("delete", "acme/reviews@3", "--reason", "x", "--json").object()
    assert (found["name"], found["version"]) == ("acme/reviews", 3)


def test_erase_asks_before_it_removes_a_client(two: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    refused = two("erase", "acme", "--reason", "asked to")
    assert refused.code == 1
    assert "Permanently remove all data of client acme?" in refused.err
    assert len(AdapterStore().list()) == 1
    assert two("erase", "acme", "--reason", "asked to", "--yes").out == (
        "client acme: 2 versions and 3 blobs permanently removed.\n"
    )
    assert two("erase", "acme", "--reason", "asked to", "--yes").error.startswith(
        "client acme: the store has no data of this client"
    )
    AdapterStore().publish(Path("adapter-1"), "bolt/reviews", message="theirs")
    found = two("erase", "bolt", "--reason", "asked to", "--yes", "--json").object()
    assert (found["client"], found["versions"], found["blobs"]) == ("bolt", 1, 2)
    assert two("verify").code == 0


def test_verify_exits_with_2_where_something_is_damaged(two: Ask, tmp_path: Path) -> None:
    last = AdapterStore().log()[-1].hash
    assert two("verify", "--json").object() == {"ok": True, "damaged": [], "last": last}
    digest = AdapterStore().show("acme/reviews@1").parts["body"].digest
    (file,) = (tmp_path / "store").glob(f"blobs/??/sha256-{digest.removeprefix('sha256:')}-*")
    file.unlink()
    said = two("verify")
    assert said.code == 2
    problem = f"the file {file.name} is missing"
    assert said.out == f"blob {digest} (of acme/reviews@1, acme/reviews@2): {problem}\n"
    assert said.err == ""
    found = two("verify", "--json")
    assert found.code == 2
    versions = ["acme/reviews@1", "acme/reviews@2"]
    assert json.loads(found.out) == {
        "ok": False,
        "damaged": [{"kind": "blob", "id": digest, "versions": versions, "problem": problem}],
    }
    (tmp_path / "store" / "store.db").write_bytes(b"This is a letter to the editor.\n" * 100)
    assert "its database is damaged" in two("list").error
    assert "its database is damaged" in two("verify").error


def test_export_audit_writes_the_log(two: Ask) -> None:
    assert two("export-audit", "audit.jsonl").out == "audit.jsonl: 4 entries\n"
    assert two("export-audit", "again.jsonl", "--json").object() == {"file": "again.jsonl", "entries": 4}
    entries = [json.loads(line) for line in Path("audit.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in entries] == ["create", "publish", "publish", "alias"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["publish", "adapter-0", "acme/new", "--message", " "], "--message: found no text, expected a reason"),
        (["delete", "acme/reviews@2", "--reason", " "], "--reason: found no text, expected a reason"),
        (
            ["delete", "acme/reviews", "--reason", "x"],
            "the version's number is missing. Give the number, as in acme/reviews@3",
        ),
        (["publish", "adapter-0", "Acme", "-m", "x"], "'Acme' is not the name of an adapter. Expected client/task"),
        (["show", "acme/review"], "Did you mean acme/reviews?"),
        (["--store", "elsewhere", "list"], "store elsewhere: there is no store. Give another with --store, or publish"),
        (["list", "--store", "elsewhere"], "store elsewhere: there is no store. Give another with --store, or publish"),
        (
            ["alias", "acme/reviews", "production"],
            "acme/reviews: the version's number is missing. Give the number, as in acme/reviews@2",
        ),
        (["--store", "mysql://host/db", "list"], "--store 'mysql://host/db': not the address of a store"),
    ],
)
def test_what_cannot_be_done_is_said_on_one_line(two: Ask, arguments: list[str], said: str) -> None:
    answer, again = two(*arguments), two(*arguments, "--json")
    assert said in answer.error
    assert "\n" not in answer.error
    assert answer.out == ""
    assert again.error == answer.error
    assert answer.error.endswith(json.loads(again.out)["error"]["message"])


def test_a_failed_check_names_the_flag_that_goes_on(two: Ask) -> None:
    from afina.store import audit_log
    from afina.store.catalog import resolve
    from afina.store.versions import Reference

    with AdapterStore()._database.writing() as connection:
        place, _ = resolve(connection, Reference.parse("acme/reviews@2"))
        outcome = {"version": 2, "passed": False, "difference": 0.5, "tolerance": 1e-3}
        audit_log.append(connection, "check", {**place.payload, **outcome}, place.attribution("ada"))
    assert "or move production with --force, which is logged" in two("alias", "acme/reviews@2", "production").error
    assert "FAILED" in two("show", "acme/reviews@2").out
    assert "version 2 failed" in two("history", "acme/reviews").out


def test_a_store_that_is_begun_by_publishing_is_said(two: Ask) -> None:
    again = two("publish", "adapter-0", "acme/reviews", "-m", "x", "--store", "typo")
    assert "store typo: created, because it did not exist\n" in again.err
    assert "created" not in two("publish", "adapter-0", "acme/other", "-m", "x", "--store", "typo").err


def test_a_store_is_backed_up_and_recovered(two: Ask) -> None:
    made = two("backup", "copies").out
    assert re.match(
        r".*copies: 2 versions, \d blobs, .* copied\), verified\. The last hash of the audit log is sha256:", made
    )
    said = two("recover", "copies", "--store", "again").out
    assert re.fullmatch(r"store again: 2 versions.* and verified\.\n", said)
    assert two("list", "--store", "again").out == two("list").out


LOOKS = """
import sys
from afina.cli import main
for line in ("list", "show acme/reviews@1 --json", "verify"):
    sys.argv = ["afina", "store", *line.split()]
    slow = {"torch", "alembic", "pandas", "transformers", "numpy"}
    if line == "verify":
        slow.remove("numpy")  # it computes the digest of claims
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
    assert not slow & sys.modules.keys(), line
"""


def test_looking_at_a_store_imports_nothing_that_is_slow(two: Ask) -> None:
    done = subprocess.run([sys.executable, "-c", LOOKS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


COMMANDS = ["init", "publish", "list", "show", "history", "alias", "rollback", "verify", "delete", "gc", "erase"]


def test_help_lists_the_commands(afina: Command) -> None:
    shown = afina("store", "--help").out
    for command in [*COMMANDS, "export-audit"]:
        assert re.search(rf"^ *{command} ", shown, re.MULTILINE), command


def test_a_check_that_cannot_be_computed_says_the_problem(two: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from afina.store.recompute import CheckOutcome

    outcome = CheckOutcome(False, None, 1e-4, {}, {}, "the adapter is damaged")
    monkeypatch.setattr(AdapterStore, "check", lambda *given, **options: outcome)
    assert two("check", "acme/reviews@2").out == "FAILED: the adapter is damaged\n"
