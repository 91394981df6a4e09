"""The layers of the code, who owns which foreign library, and what starts without torch."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import afina as package
from command import InventedExecutor

PACKAGES = (
    "ground",
    "blobs",
    "data",
    "stats",
    "models",
    "methods",
    "inference",
    "store",
    "serving",
    "server",
    "training",
    "studies",
    "report",
    "estimators",
    "notebook",
    "cli",
)
"""The house: a package imports itself and those before it. The ground is the modules that stand beside the packages."""

STRANGERS = {
    "data": {"stats"},
    "stats": {"data"},
    "estimators": {"report", "store", "serving", "server"},
    "notebook": {"cli", "estimators"},
    "cli": {"notebook", "estimators"},
    "training": {"store", "serving", "server"},
    "studies": {"store", "serving", "server"},
    "report": {"store", "serving", "server"},
}
"""Packages that stand side by side: those that a package does not import, though they come before it in the table."""

DOORS = {"__init__", "__main__"}
"""Modules of no package: the names of the library, and `python -m afina`."""

OWNERS = {
    "transformers": "data.template data.tokenize data.token_cache models.backbone models.address models.pretrained "
    "models.meta models.output_embedding "
    "models.kernels.attention models.kernels.frozen models.kernels.linear",
    "peft": "methods.*",
    "re2": "methods.peft_settings",
    "safetensors": "tensorfile",
    "huggingface_hub": "hub",
    "pyarrow": "data.readers.table",
    "openpyxl": "data.readers.workbook",
    "psutil": "meter",
    "sklearn": "stats.classification stats.multilabel studies.floors estimators.*",
    "scipy": "stats.calibration stats.classification stats.intervals stats.random_effects stats.evidence "
    "report.paper.claims",
    "matplotlib": "report.plots.*",
    "jinja2": "report.writers.html server.http.page.rendered",
    "time": "meter",
    "typer": "cli.*",
    "rich": "cli.* report.writers.terminal",
    "optuna": "studies.candidates",
    "IPython": "notebook.display",
    "sqlalchemy": "store.*",
    "obstore": "blobs.remote",
    "fastapi": "server.http.*",
    "starlette": "server.http.*",
    "uvicorn": "server.running server.http.connection",
    "opentelemetry": "server.traces",
    "h11": "server.http.connection",
    "prometheus_client": "server.figures",
    "limits": "server.tenants",
}
"""A foreign library, and the modules that may import it."""

SOURCE = Path(package.__file__).parent
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}


def _is(module: str, patterns: str) -> bool:
    """`tasks.*` stands for the package and all within."""
    for pattern in patterns.split():
        stem = pattern.removesuffix(".*")
        if module == stem or (pattern != stem and module.startswith(f"{stem}.")):
            return True
    return False


def _package(module: str) -> str:
    head, inside, _ = module.partition(".")
    return head if inside or head in PACKAGES else "ground"


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def _imports(module: str) -> Iterator[str]:
    """Full names of what a module imports; of `from a import b`, both `a` and `a.b`."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own_imports(module: str) -> set[str]:
    """Modules of afina that a module imports. `from package import submodule` is an import of the submodule alone."""
    found = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {name for name in names if name.removeprefix("afina.") in MODULES}
            found |= submodules | ({str(node.module)} if names - submodules else set())
    inside = {name.removeprefix("afina.") for name in found if name.startswith("afina.")}
    assert inside <= MODULES.keys(), f"{module} imports {sorted(inside - MODULES.keys())}, which is not there"
    return inside


@pytest.mark.parametrize("module", sorted(MODULES.keys() - DOORS))
def test_a_package_imports_only_those_before_it(module: str) -> None:
    mine = _package(module)
    assert mine in PACKAGES, f"{module} is in no package of PACKAGES"
    seen = {name: _package(name) for name in _own_imports(module)}
    later = {name for name, package in seen.items() if PACKAGES.index(package) > PACKAGES.index(mine)}
    assert not later, f"{module} (package {mine}) imports {sorted(later)} from further down"
    assert not STRANGERS.get(mine, set()) & set(seen.values()), f"{module} imports {STRANGERS[mine]}"


def test_every_package_is_there_and_says_what_it_holds_and_what_it_does_not_know() -> None:
    for name in PACKAGES[1:]:
        assert name in MODULES
        said = ast.get_docstring(_tree(name)) or ""
        assert "know" in said.lower(), f"{name}/__init__.py: {said!r}"


SAME_NAME: set[str] = {
    "Answer",
    "Apart",
    "Asked",
    "Candidate",
    "Columns",
    "Counts",
    "Entry",
    "Foreseen",
    "Found",
    "Limits",
    "Line",
    "Lines",
    "Opened",
    "Part",
    "Place",
    "Published",
    "Question",
    "Request",
    "Rows",
    "Score",
    "Table",
    "Texts",
}
"""Public names that two classes still have."""


def test_no_two_public_classes_have_one_name() -> None:
    homes: dict[str, list[str]] = {}
    for module in MODULES:
        for node in _tree(module).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    twice = {name: modules for name, modules in homes.items() if len(modules) > 1}
    assert {name: modules for name, modules in twice.items() if name not in SAME_NAME} == {}
    assert twice.keys() >= SAME_NAME, f"{sorted(SAME_NAME - twice.keys())} is one class now; take it out of SAME_NAME"


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        list(TopologicalSorter({module: _own_imports(module) for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("library", OWNERS)
def test_a_foreign_library_is_imported_by_its_owners_only(library: str) -> None:
    importing = {module for module in MODULES if any(_is(name, f"{library}.*") for name in _imports(module))}
    assert {module for module in importing if not _is(module, OWNERS[library])} == set()
    assert bool(importing) == bool(OWNERS[library]), f"nothing imports {library}; take it out of OWNERS"


def test_only_the_command_line_prints() -> None:
    printing = {
        module
        for module in MODULES
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert {_package(module) for module in printing} == {"cli"}


def test_only_the_meter_reads_memory_counters() -> None:
    counters = {"memory_allocated", "max_memory_allocated", "max_memory_reserved", "reset_peak_memory_stats"}
    counters |= {"getrusage", "saved_tensors_hooks"}
    reading = {
        module
        for module in MODULES
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Attribute) and node.attr in counters
    }
    assert reading == {"meter"}


LONGEST_FILE, LONGEST_FUNCTION = 400, 60
"""Lines, of which every docstring and comment is one."""


@pytest.mark.parametrize("module", MODULES)
def test_a_file_has_at_most_four_hundred_lines_and_a_function_sixty(module: str) -> None:
    long = {}
    if (lines := len(MODULES[module].read_text(encoding="utf-8").splitlines())) > LONGEST_FILE:
        long["the file"] = lines
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if (lines := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION:
                long[node.name] = lines
    assert long == {}


# What starts without torch

HEAVY = ("torch", "transformers", "peft")


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    "module",
    [
        "afina",
        "afina.cli",
        "afina.estimators.estimator",
        "afina.studies.study",
        "afina.studies.run",
        "afina.methods",
        "afina.report",
        "afina.cli.display",
        "afina.data.readers",
        "afina.studies.tuning",
        "afina.studies.recommend",
        "afina.store.model_card",
        "afina.blobs.remote",
    ],
)
def test_importing_it_imports_neither_torch_nor_transformers_nor_peft(module: str) -> None:
    done = _python(f"import sys, {module}\nprint([name for name in {HEAVY} if name in sys.modules])")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


WITHOUT_TORCH = """
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {"torch", "transformers", "peft"}:
                raise ModuleNotFoundError(f"{name} is hidden from this test")

    sys.meta_path.insert(0, Absent())
    from afina.cli import main
    sys.argv = ["afina", *sys.argv[1:]]
    main()
"""


def test_show_and_methods_work_where_torch_is_not_installed(tmp_path: Path) -> None:
    from afina.studies.study import Study

    content = {
        "name": "shown",
        "backbone": "gpt2",
        "task": "sst2",
        "methods": {"full": {}, "lora": {"targets": ["c_attn"]}},
    }
    Study.parse(content, "test").run(tmp_path, command=["afina"], executor=InventedExecutor())

    shown = _python(WITHOUT_TORCH, "show", str(tmp_path))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "full fine-tuning" in shown.stdout
    assert "LoRA" in shown.stdout
    listed = _python(WITHOUT_TORCH, "methods")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "lora" in listed.stdout
    # The blocker does block: what needs a model cannot start.
    counted = _python(WITHOUT_TORCH, "params", "--backbone", "gpt2")
    assert counted.returncode == 1
    assert "is hidden from this test" in counted.stderr


HELP_SECONDS = 0.4


def _median_of_help() -> float:
    command = [str(Path(sys.executable).with_name("afina")), "--help"]
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def test_help_takes_less_than_four_tenths_of_a_second() -> None:
    for _ in range(4):  # a machine that is busy with something else gets further chances
        taken = _median_of_help()
        if taken < HELP_SECONDS:
            return
        time.sleep(2)
    pytest.fail(f"afina --help takes {taken:.2f} s, at most {HELP_SECONDS} s is allowed")
