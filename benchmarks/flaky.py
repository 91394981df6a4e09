"""The tests under conditions that break those that depend on chance: other loads, orders, processors and disks.

    python benchmarks/flaky.py                     every run that has no result file yet
    python benchmarks/flaky.py --minutes 60        begin no run after so many minutes
    python benchmarks/flaky.py --only slow/server  only the runs whose name begins so
    python benchmarks/flaky.py --again             each test that failed, 30 times under the condition that broke it
    python benchmarks/flaky.py --table             what failed, and the seconds of each file of tests

A run is a suite under a condition. The quick suite (`make test`) is one run a condition, and the slow one is a run a
package of tests. A run leaves one file in `benchmarks/flaky`, which is committed, so the script goes on where it was
stopped, also on another machine. Delete the file of a run to repeat it. The output of a run with failures is in
`results/flaky`.

`--again` starts each failed test in processes of its own, two at a time, as there are two workers. A test is repeated
once a commit, so before and after its cause was mended.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "flaky"
LOGS = ROOT / "results" / "flaky"
SITE = ROOT / "tests" / "node_site"
REPETITIONS = 30
NO_TESTS = 5
"""The exit status of pytest if no test is selected."""


@dataclass(frozen=True)
class Condition:
    """What differs from a quiet machine with two workers: the environment, the workers, or programs beside them."""

    environment: Mapping[str, str] = field(default_factory=dict)
    workers: int = 2
    busy: bool = False


CONDITIONS = {
    "quiet": Condition(),
    "busy": Condition(busy=True),
    "order-1": Condition({"TEST_ORDER": "1"}),
    "order-2": Condition({"TEST_ORDER": "2"}),
    "one-worker": Condition(workers=0),
    "avx2": Condition({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}),
    "slow-disk": Condition({"TEST_FSYNC": "0.03", "PYTHONPATH": str(SITE)}),
}
OF_SLOW = ("quiet", "busy", "order-1", "order-2")
"""The conditions of the slow suite."""


@dataclass(frozen=True)
class Suite:
    """The tests of a suite below a folder, under a condition."""

    marks: str
    folder: str
    condition: str

    @property
    def name(self) -> str:
        part = self.folder.removeprefix("tests").strip("/")
        return "/".join(filter(None, (self.marks, part.replace("test_*.py", "laws"), self.condition)))

    @property
    def file(self) -> Path:
        return KEPT / f"{self.name.replace('/', '.')}.json"


def suites() -> Iterator[Suite]:
    """Every run in the order in which they are made: the quick suite first."""
    yield from (Suite("quick", "tests", condition) for condition in CONDITIONS)
    packages = sorted({path.parent for path in (ROOT / "tests").rglob("test_*.py")})
    tops = sorted({path.relative_to(ROOT / "tests").parts[:1] for path in packages if path != ROOT / "tests"})
    for condition in OF_SLOW:
        yield from (Suite("slow", f"tests/{name}", condition) for (name,) in tops)
        yield Suite("slow", "tests/test_*.py", condition)


@contextmanager
def under(condition: Condition) -> Iterator[Mapping[str, str]]:
    """Yield the environment of a condition; where it says so, a program keeps each core busy meanwhile."""
    with ExitStack() as stack:
        for _ in range((os.cpu_count() or 1) if condition.busy else 0):
            program = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(program.kill)
        yield {**os.environ, "OMP_NUM_THREADS": "1", "CI": "true", **condition.environment}


def selected(suite: Suite) -> list[str]:
    """The arguments of pytest that select the tests of a suite."""
    if "*" in suite.folder:
        places = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(suite.folder))
    else:
        places = [suite.folder]
    slow = "slow" if suite.marks == "slow" else "not slow"
    return [*places, "-m", f"{slow} and not endurance and not bench"]


def pytest(arguments: list[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Return the exit status and the output of a run of pytest."""
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def measure(suite: Suite) -> Mapping[str, Any]:
    """Carry a run out; return its seconds, the number of tests by outcome, what failed, and each file's seconds."""
    condition = CONDITIONS[suite.condition]
    with under(condition) as environment, tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        workers = ["--numprocesses", str(condition.workers), "--dist", "worksteal"] if condition.workers else []
        began = time.monotonic()
        status, output = pytest(
            [*selected(suite), *workers, f"--junitxml={report}", "-o", "junit_family=xunit1"], environment
        )
        seconds = round(time.monotonic() - began, 1)
        cases = [] if status == NO_TESTS else [*ElementTree.parse(report).iter("testcase")]
    outcomes, failed, of_file = Counter[str](), {}, defaultdict[str, float](float)
    for case in cases:
        place = case.get("file") or case.get("classname", "").replace(".", "/") + ".py"
        of_file[place] += float(case.get("time", 0))
        kinds = {child.tag: child for child in case}
        outcome = next((kind for kind in ("failure", "error", "skipped") if kind in kinds), "passed")
        outcomes[outcome] += 1
        if outcome in ("failure", "error"):
            failed[f"{place}::{case.get('name')}"] = (kinds[outcome].get("message") or "")[:200]
    if status not in (0, 1, NO_TESTS):
        raise SystemExit(f"pytest ended with {status}:\n{output[-4_000:]}")
    if failed:
        LOGS.mkdir(parents=True, exist_ok=True)
        (LOGS / suite.file.with_suffix(".log").name).write_text(output)
    return {
        "commit": commit(),
        "seconds": seconds,
        "outcomes": outcomes,
        "failed": failed,
        "files": {place: round(of_file[place], 1) for place in sorted(of_file)} if suite.condition == "quiet" else {},
    }


def commit() -> str:
    """Return the short digest of the checkout's commit."""
    return subprocess.check_output(["git", "rev-parse", "--short=8", "HEAD"], cwd=ROOT, text=True).strip()


def repeat(suite: Suite, test: str) -> int:
    """Return how many of `REPETITIONS` processes fail that carry out one test under the condition of a suite."""
    with under(CONDITIONS[suite.condition]) as environment, ThreadPoolExecutor(2) as two:
        done = two.map(lambda _: pytest([test, "-p", "no:cacheprovider"], environment)[0], range(REPETITIONS))
        return sum(status != 0 for status in done)


def write(suite: Suite, result: Mapping[str, Any]) -> None:
    """Write the result file of a run, whole or not at all."""
    KEPT.mkdir(parents=True, exist_ok=True)
    part = suite.file.with_suffix(".part")
    part.write_text(json.dumps(result) + "\n")
    part.replace(suite.file)


def table() -> None:
    """Print what failed under which condition, and the seconds of each file by suite on the quiet machine."""
    of_file: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for suite in suites():
        if not suite.file.exists():
            continue
        result = json.loads(suite.file.read_text())
        print(f"{suite.name}: {result['seconds']:.0f} s, {result['outcomes']}")
        for test, message in result["failed"].items():
            again = result.get("again", {}).get(test, {})
            times = "".join(f"; {count} of {REPETITIONS} failed at {at}" for at, count in again.items())
            print(f"    {test}{times}\n        {message.partition(chr(10))[0]}")
        for place, seconds in result["files"].items() if suite.condition == "quiet" else ():
            of_file[place][suite.marks] = seconds
    print("\n| file | quick, s | slow, s |\n|---|---:|---:|")
    for place, both in sorted(of_file.items(), key=lambda one: -sum(one[1].values())):
        print(f"| {place} | {both.get('quick', 0):.1f} | {both.get('slow', 0):.1f} |")


def main() -> None:
    """Carry out the runs that are missing, repeat what failed, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so many minutes")
    parser.add_argument("--only", default="", help="only the runs whose name begins with this")
    parser.add_argument("--under", choices=CONDITIONS, help="only the runs under this condition")
    parser.add_argument("--again", action="store_true", help=f"repeat each test that failed {REPETITIONS} times")
    parser.add_argument("--table", action="store_true", help="print what the result files say")
    options = parser.parse_args()
    if options.table:
        table()
        return
    start = time.monotonic()
    for suite in suites():
        if not suite.name.startswith(options.only) or options.under not in (None, suite.condition):
            continue
        if time.monotonic() - start > 60 * options.minutes:
            print("there are more runs", flush=True)
            return
        if options.again and suite.file.exists():
            result = json.loads(suite.file.read_text())
            for test in result["failed"]:
                again = result.setdefault("again", {}).setdefault(test, {})
                if commit() not in again:
                    again[commit()] = repeat(suite, test)
                    write(suite, result)
                    print(f"{test} ({suite.condition}): {again[commit()]} of {REPETITIONS} failed", flush=True)
        elif not options.again and not suite.file.exists():
            result = measure(suite)
            write(suite, result)
            print(f"{suite.name}: {result['seconds']:.0f} s, {len(result['failed'])} failed", flush=True)


if __name__ == "__main__":
    main()
