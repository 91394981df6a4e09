"""A backup that is taken beside writers has all that was acknowledged before it began, and is whole."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import contending
import pytest
import storing
from processes import Crew
from storing import Adapters

from afina.store.adapter_store import AdapterStore
from services import S3, Postgres

MANY = 8


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, pytest.param(60.0, marks=pytest.mark.endurance)])
def test_a_backup_taken_while_eight_processes_publish_loses_nothing_that_was_acknowledged(
    store: AdapterStore, url: str, adapters: Adapters, crew: Crew, tmp_path: Path, seconds: float
) -> None:
    workers = crew.start(contending.publish_on, MANY, url, str(adapters.directory), seconds)
    taken, random = [], Random(5)
    end = time.monotonic() + seconds
    while time.monotonic() < end or not taken:
        time.sleep(random.uniform(0.1, 0.3))
        acknowledged = [value for worker in workers for value in worker.values]
        place = tmp_path / f"backup-{len(taken) % 3}"  # three in turn: most bring an earlier one up to date
        store.backup(place)
        if len(taken) % 3 == 0:
            _check_recovered(place, tmp_path / f"recovered-{len(taken)}", acknowledged, adapters)
        taken.append(place)
    assert sum(len(worker.wait().values) for worker in workers) >= MANY
    assert store.verify() == []
    made = store.backup(tmp_path / "last")
    assert made.last == store.log()[-1].hash


def _check_recovered(place: Path, where: Path, acknowledged: list[list[str]], adapters: Adapters) -> None:
    recovered = AdapterStore(where, who="tester")
    recovered.recover(place)
    assert recovered.verify() == []
    for version, digest in acknowledged:
        assert recovered.show(version).digest == digest
    for version, _ in acknowledged[:: max(1, len(acknowledged) // 5)]:
        assert recovered.adapter(version).digest in adapters.digests.values()
    storing.check_clean(recovered)
    assert recovered.publish(adapters.directory / "b0h0", "acme/after", message=storing.WHY).created


@pytest.mark.slow
def test_a_backup_taken_while_others_delete_collect_and_erase_is_whole(
    store: AdapterStore, url: str, adapters: Adapters, crew: Crew, tmp_path: Path
) -> None:
    workers = [crew.start(storing.live, 1, url, str(adapters.directory), f"client{each}", each)[0] for each in range(4)]
    for number in range(3):
        store.backup(tmp_path / f"backup-{number % 2}")
        assert AdapterStore(tmp_path / f"backup-{number % 2}").verify() == []
    for worker in workers:
        worker.kill()
        worker.wait()
    store.backup(tmp_path / "backup-0")
    recovered = AdapterStore(tmp_path / "recovered")
    recovered.recover(tmp_path / "backup-0")
    recovered.gc()
    assert recovered.verify() == []


@pytest.mark.slow
def test_a_store_in_postgresql_and_a_bucket_comes_back_in_a_directory_and_the_other_way_round(
    postgres: Postgres, s3: S3, adapters: Adapters, tmp_path: Path
) -> None:
    one = AdapterStore(postgres.database(), who="tester")
    one.init(s3.bucket())
    storing.begin(one, adapters.directory)
    one.backup(tmp_path / "backup")
    there = AdapterStore(tmp_path / "there", who="tester")
    there.recover(tmp_path / "backup")
    assert (there.verify(), storing.states(there)) == ([], storing.states(one))
    there.publish(adapters.directory / "b3h3", "acme/reviews", message=storing.WHY)
    there.backup(tmp_path / "again")
    back = AdapterStore(postgres.database(), who="tester")
    back.recover(tmp_path / "again", blobs=s3.bucket())
    assert (back.verify(), storing.states(back)) == ([], storing.states(there))
    assert back.publish(adapters.directory / "b3h2", "beta/new", message=storing.WHY).created
    storing.check_clean(back)
