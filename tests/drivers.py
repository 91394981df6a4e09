"""Drivers of these tests: `afina study ... --executor ray=ADDRESS` in a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from afina import Study
from afina.errors import CorruptStore
from afina.models.backbone_spec import files_digest
from afina.studies.executors.ray_task import checkpoint_name
from afina.studies.executors.shared_storage import SharedStorage, _place
from afina.studies.runs import record
from afina.studies.runs.inputs import facts_of
from command import PROGRAM
from raylets import SITE, SOURCE, Raylets

LONGEST_S = 240
"""What a study may take on a busy machine."""


class Driver:
    """`afina study` of `arguments` on the cluster, for a study whose results are in `out`.

    `storage`: options that say where the storage is; None: the folder that all nodes see.
    """

    def __init__(
        self,
        cluster: Raylets,
        out: Path,
        *arguments: object,
        storage: Sequence[str] | None = None,
    ) -> None:
        self.out = out
        place = cluster.hidden / "work"
        self.command = [*PROGRAM, "study", *map(str, arguments), "--out", str(out)]
        self.command += ["--executor", f"ray={cluster.address}"]
        self.command += ["--storage", str(cluster.storage)] if storage is None else storage
        self.log = place / f"{out.name}.err"
        mine = {"OMP_NUM_THREADS": "1", "AFINA_CACHE": str(place / "cache"), "TMPDIR": str(place)}
        # The forecast of memory, which is all that a driver starts a process for, is that of runs that sleep.
        mine |= {"PYTHONPATH": os.pathsep.join([str(SITE), str(SOURCE)]), "AFINA_TEST_SLEEPING": str(place)}
        with self.log.open("a") as err:
            self.process = subprocess.Popen(
                self.command,
                env=cluster.driver | mine,
                cwd=place,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )

    @property
    def told(self) -> str:
        """What it has said on standard error."""
        return self.log.read_text()

    @property
    def recorded(self) -> list[str]:
        """Names of the runs that have a record."""
        return [one.name for one in record.read_records(self.out / "records.jsonl")]

    def end(self, code: int = 0) -> str:
        """Wait until it has ended, with this status; return its output."""
        out, _ = self.process.communicate(timeout=LONGEST_S)
        assert self.process.returncode == code, self.told
        assert "Traceback" not in self.told
        return out

    def object(self) -> dict[str, Any]:
        """What `--json` printed at the end."""
        answer: dict[str, Any] = json.loads(self.end())
        return answer

    def digests(self) -> dict[str, tuple[str, str]]:
        """The digests of its runs' adapters and predictions, by name and seed."""
        return digests(self.object()["records"])

    @property
    def error(self) -> str:
        """The message of the one error with which it ended."""
        out = self.end(2)
        assert not out, out
        _, _, message = self.told.rpartition("Error: ")
        assert 1 <= message.count("\n") <= 3, message
        return message


@contextmanager
def driving(*arguments: Any, **more: Any) -> Iterator[Driver]:
    """A driver that ends with the block at the latest."""
    driver = Driver(*arguments, **more)
    try:
        yield driver
    finally:
        driver.process.kill()
        driver.process.communicate()


def digests(records: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Digests of adapters and of predictions by name and seed, of records as JSON."""
    return {f"{one['name']}/{one['seed']}": (one["digest"], one["predictions_digest"]) for one in records}


class Checkpoints:
    """The checkpoints of a study's runs in the storage."""

    def __init__(self, cluster: Raylets, source: Path) -> None:
        self.storage = SharedStorage(str(cluster.storage))
        runs = (run.with_digests(backbone_files=files_digest(run.backbone)) for run in Study.load(str(source)).runs())
        self.names = [checkpoint_name(run.with_digests(data_digest=facts_of(run).data_digest)) for run in runs]

    def written(self) -> set[tuple[str, int]]:
        """The name of each, and when it was written."""
        found = set()
        for name in self.names:
            with suppress(CorruptStore, FileNotFoundError), self.storage.blobs.file(_place(name)) as path:
                found.add((name, path.stat().st_mtime_ns))
        return found
