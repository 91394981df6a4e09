"""What strangers' files, a damaged disk and bad timing must not do to a store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from afina.errors import Busy, CannotWrite, CorruptAdapter, InvalidName, NotFound, Refused
from afina.store import audit_log, publishing
from afina.store.adapter_store import AdapterStore
from afina.store.exchange import bundle
from afina.store.intake import admission
from raises import raises
from stores import kept

Make = Callable[..., Path]


@pytest.fixture
def one(store: AdapterStore, made: Make) -> AdapterStore:
    store.publish(made(), "acme/reviews", message="first")
    return store


@pytest.mark.parametrize(
    ("role", "source"),
    [
        *(("notes.json", stolen) for stolen in ("absolute", "../secret.json", "part-9", 7)),
        *((role, "body") for role in ("../body", ".hidden", "program.py", "body/x")),
    ],
)
def test_a_bundle_takes_no_file_but_its_own_and_has_no_part_of_another_kind(
    one: AdapterStore, tmp_path: Path, role: str, source: object
) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}", encoding="utf-8")
    one.export("acme/reviews", str(tmp_path / "good.tar"))
    about = bundle.read(tmp_path / "good.tar", tmp_path / "parts")
    about["parts"][role] = {"absolute": str(secret), "body": about["parts"]["body"]}.get(source, source)
    bundle.write(tmp_path / "bad.tar", {file.name: file for file in (tmp_path / "parts").iterdir()}, about)
    named = {} if source == "body" else {"part": role}
    with raises(CorruptAdapter, code="adapter.file-malformed", path="bad.tar", **named):
        one.import_from(str(tmp_path / "bad.tar"), "bolt/reviews", message="theirs")
    assert [listed.name for listed in one.list()] == ["acme/reviews"]


def test_an_export_replaces_nothing(one: AdapterStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious.tar"
    precious.mkdir()
    (precious / "thesis").touch()
    with raises(Refused, code="out.exists", path="precious.tar"):
        one.export("acme/reviews", str(precious))
    with raises(CannotWrite, code="file.cannot-write", path="precious.tar"):
        one.export_audit(precious)
    assert (precious / "thesis").exists()


@pytest.mark.parametrize("name", ["acme/reviews", "bolt/reviews"])
def test_what_is_damaged_is_put_again_by_who_publishes_it(one: AdapterStore, made: Make, name: str) -> None:
    root = one.address.directory
    assert root
    for file in (root / "blobs").glob("??/sha256-*"):
        file.chmod(0o644)
        file.write_bytes(bytes(file.stat().st_size))
    assert one.verify()
    assert not one.publish(made(), name, message="the same").created or name != "acme/reviews"
    assert one.verify() == []
    one.publish(made(), "bolt/reviews", message="the same")
    assert one.adapter("acme/reviews").digest == one.adapter("bolt/reviews").digest


def test_a_file_that_became_a_link_since_it_was_looked_at_is_refused(
    store: AdapterStore, made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    beside = made() / "notes.txt"
    beside.write_text("notes", encoding="utf-8")
    admit = admission.admit

    def swap(directory: Path, *given: Any, **more: Any) -> admission.Admitted:
        admitted = admit(directory, *given, **more)
        beside.unlink()
        beside.symlink_to(secret)
        return admitted

    monkeypatch.setattr(admission, "admit", swap)
    with raises(Refused, code="file.changed", path="notes.txt"):
        store.publish(made(), "acme/reviews", message="first")


def test_a_stranger_may_not_come_under_a_name_whose_erasure_is_not_ended(
    one: AdapterStore, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy() -> None:
        raise Busy("somebody reads")

    with monkeypatch.context() as patched:
        patched.setattr(one._database, "scrub", busy)
        with pytest.raises(Busy):
            one.erase("acme", reason="asked to")
    with raises(Refused, code="client.erased", client="acme"):
        one.publish(made(1), "acme/new", message="a new contract")
    with raises(NotFound, code="client.missing", client="acmee"):
        one.erase("acmee", reason="a typing error")
    one.erase("acme", reason="asked to")
    one.publish(made(1), "acme/new", message="a new contract")
    assert one.verify() == []


def test_what_was_being_published_for_a_client_goes_with_it(
    one: AdapterStore, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """What ends a process."""

    def kill(step: str) -> None:
        if step == "publish: put":
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(audit_log, "crash_point", kill)
        patched.setattr(publishing, "leasing", lambda *_: nullcontext())  # a killed process gives nothing back
        with pytest.raises(Killed):
            one.publish(made(1), "acme/reviews", message="never ended")
    one.erase("acme", reason="asked to")
    assert kept(one) == set()


def test_who_publishes_for_a_client_that_was_erased_meanwhile_is_told(
    one: AdapterStore, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def erase(step: str) -> None:
        if step == "publish: put":
            monkeypatch.setattr(audit_log, "crash_point", lambda _: None)
            one.erase("acme", reason="asked to")

    monkeypatch.setattr(audit_log, "crash_point", erase)
    with raises(Refused, code="client.erased", name="acme/reviews"):
        one.publish(made(1), "acme/reviews", message="late")
    assert (one.list(), kept(one)) == ([], set())


def test_bytes_that_come_too_late_are_garbage(one: AdapterStore, made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector takes a blob's row before the publisher whose lease has ended puts its file."""
    monkeypatch.setattr(publishing, "LEASE_SECONDS", -1.0)

    def collect(step: str) -> None:
        if step == "publish: leased":
            monkeypatch.setattr(audit_log, "crash_point", lambda _: None)
            one.gc()
            monkeypatch.setattr(publishing, "LEASE_SECONDS", 3600.0)

    monkeypatch.setattr(audit_log, "crash_point", collect)
    one.publish(made(1, 1), "acme/reviews", message="late")
    one.gc()
    assert one.verify() == []
    root = one.address.directory
    assert root
    assert len([*(root / "blobs").glob("??/sha256-*")]) == 4


def test_a_log_that_was_written_anew_is_seen_by_a_hash_that_was_kept(one: AdapterStore) -> None:
    last = one.log()[-1].hash
    one.alias("acme/reviews@1")
    assert one.verify(last=last) == []
    (found,) = one.verify(last=last[:-1] + "x")
    assert (found.kind, found.problem) == (
        "log",
        "no entry of the audit log has this hash: the log was changed or shortened",
    )


@pytest.mark.parametrize("words", ["half \ud800", "an end\0"])
def test_words_that_no_database_takes_are_refused_and_are_no_damage(
    one: AdapterStore, made: Make, tmp_path: Path, words: str
) -> None:
    for act in (
        lambda: one.publish(made(1), "acme/reviews", message=words),
        lambda: one.publish(made(1), "acme/reviews", message="next", who=words),
        lambda: one.alias("acme/reviews@1", message=words),
        lambda: AdapterStore(tmp_path, who=words),
        lambda: one.show(words),
    ):
        with pytest.raises(InvalidName):
            act()
    assert one.verify() == []


def test_a_version_stands_for_its_name(one: AdapterStore) -> None:
    version = one.show("acme/reviews")
    assert one.adapter(version).digest == version.digest
    assert one.alias(version, "staging").after == 1
    assert one.show(version) == one.show("acme/reviews@staging")


def test_a_models_directory_is_looked_at_before_transformers_reads_it(one: AdapterStore, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    one.restore("acme/reviews", tmp_path / "restored")
    shutil.copy(tmp_path / "restored" / "adapter_model.safetensors", model / "model.safetensors")
    (model / "training_args.bin").write_bytes(b"\x80\x04")
    with raises(Refused, code="intake.file-unsafe", path="training_args.bin"):
        one.import_from(str(model), "bolt/reviews", message="theirs", backbone="gpt2")
    (model / "training_args.bin").unlink()
    (model / "notes.txt").symlink_to("/etc/hostname")
    with raises(Refused, code="intake.file-unexpected", path="notes.txt", found="a link"):
        one.import_from(str(model), "bolt/reviews", message="theirs", backbone="gpt2")


def test_bytes_that_can_have_no_place_are_told_when_a_store_is_begun(tmp_path: Path, made: Make) -> None:
    (tmp_path / "taken").touch()
    with raises(CannotWrite, code="file.cannot-write", path="taken"):
        AdapterStore(tmp_path / "store").init(str(tmp_path / "taken"))
    with raises(InvalidName, code="store.address-malformed", path="taken"):
        AdapterStore(tmp_path / "taken")


def test_the_card_of_a_merged_model_is_of_a_model(one: AdapterStore) -> None:
    card = one.card("acme/reviews", merged=True)
    assert "library_name: transformers" in card
    assert "merged into" in card
    assert "PeftModel" not in card
    assert "afina predict" not in card
