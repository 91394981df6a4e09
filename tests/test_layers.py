"""The layers of the code, who owns which foreign library, and what starts without torch."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import afina as package
from command import InventedExecutor

PACKAGES = (
    "ground",
    "blobs",
    "pages",
    "data",
    "cluster",
    "stats",
    "models",
    "generating",
    "endpoints",
    "methods",
    "predicting",
    "store",
    "engine",
    "server",
    "training",
    "studies",
    "report",
    "estimators",
    "notebook",
    "studio",
    "cli",
)
"""The house: a package imports itself and those before it. The ground is the modules that stand beside the packages."""

STRANGERS = {
    "data": {"stats"},
    "stats": {"data"},
    "methods": {"generating"},
    "estimators": {"report", "store", "engine", "server"},
    "notebook": {"cli", "estimators"},
    "cli": {"notebook", "estimators"},
    "studio": {"notebook", "estimators"},
    "endpoints": {"blobs", "pages", "cluster", "generating"},
    "store": {"endpoints"},
    "engine": {"endpoints"},
    "server": {"endpoints"},
    "training": {"endpoints", "store", "engine", "server"},
    "studies": {"store", "engine", "server"},
    "report": {"store", "engine", "server"},
}
"""Packages that stand side by side: those that a package does not import, though they come before it in the table."""

DOORS = {"__init__", "__main__"}
"""Modules of no package: the names of the library, and `python -m afina`."""

OWNERS = {
    "transformers": "data.template data.tokenize data.token_cache models.backbone models.pretrained models.verbalizer "
    "models.kernels.attention models.kernels.linear models.weights.held",
    "peft": "methods.* studies.executors.fork_server",
    "re2": "methods.peft_settings generating.schema_checks",
    "jsonschema": "generating.guides generating.schema_checks",
    "safetensors": "tensorfile",
    "huggingface_hub": "hub",
    "pyarrow": "data.readers.arrow_files",
    "onnx": "models.weights.quantised_onnx",
    "openpyxl": "data.readers.formats",
    "psutil": "meter",
    "sklearn": "data.nearest_text stats.active_learning stats.classification stats.linear_models "
    "studies.choosing.floors studies.executors.fork_server estimators.*",
    "scipy": "data.nearest_text stats.abstention stats.classification stats.drift stats.intervals stats.significance",
    "rouge_score": "stats.text",
    "sacrebleu": "stats.bleu_chrf_nist",
    "matplotlib": "report.plots.*",
    "jinja2": "pages.html report.writers.html studio.page",
    "time": "meter",
    "typer": "cli.*",
    "rich": "cli.* report.writers.terminal",
    "optuna": "studies.tuning",
    "IPython": "notebook.display",
    "sqlalchemy": "store.*",
    "obstore": "blobs.remote",
    "llguidance": "generating.guides",
    "referencing": "generating.schema_checks",
    "bitsandbytes": "models.kernels.nf4",
    "fastapi": "server.http.* server.protocols.*",
    "starlette": "server.http.* server.protocols.* server.ray_serve.* studio.*",
    "python_multipart": "studio.forms",
    "ray": "cluster.* studies.executors.* server.ray_serve.*",
    "cleanlab": "stats.label_issues",
    "pycrfsuite": "studies.choosing.taggers",
    "threadpoolctl": "studies.executors.fork_server",
    "uvicorn": "server.running server.connections studio.app",
    "opentelemetry": "server.logs_and_traces",
    "h11": "server.connections",
    "prometheus_client": "server.metrics",
    "openai": "endpoints.client",
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


@cache
def _nodes(module: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(_tree(module)))


@cache
def _statements(module: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    return tuple(node for node in _nodes(module) if isinstance(node, ast.Import | ast.ImportFrom))


@cache
def _imports(module: str) -> frozenset[str]:
    """Full names of what a module imports; of `from a import b`, both `a` and `a.b`."""
    return frozenset(name for node in _statements(module) for name in _names(node))


def _names(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    assert node.level == 0, f"a relative import: {ast.unparse(node)}"
    return {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}


@cache
def _own_imports(module: str) -> set[str]:
    """Modules of afina that a module imports. `from package import submodule` is an import of the submodule alone."""
    found = set()
    for node in _statements(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {name for name in names if name.removeprefix("afina.") in MODULES}
            found |= submodules | ({str(node.module)} if names - submodules else set())
    inside = {name.removeprefix("afina.") for name in found if name.startswith("afina.")}
    assert inside <= MODULES.keys(), f"{module} imports {sorted(inside - MODULES.keys())}, which is not there"
    return inside


def test_a_package_imports_only_those_before_it() -> None:
    wrong = []
    for module in sorted(MODULES.keys() - DOORS):
        mine = _package(module)
        assert mine in PACKAGES, f"{module} is in no package of PACKAGES"
        for name in _own_imports(module):
            if PACKAGES.index(_package(name)) > PACKAGES.index(mine):
                wrong.append(f"{module} (package {mine}) imports {name} from further down")
            if _package(name) in STRANGERS.get(mine, set()):
                wrong.append(f"{module} (package {mine}) imports {name} from beside it")
    assert wrong == []


def test_every_package_is_there_and_says_what_it_holds_and_what_it_does_not_know() -> None:
    for name in PACKAGES[1:]:
        assert name in MODULES
        said = ast.get_docstring(_tree(name)) or ""
        assert "know" in said.lower(), f"{name}/__init__.py: {said!r}"


def test_no_two_public_classes_have_one_name() -> None:
    homes: dict[str, list[str]] = {}
    for module in MODULES:
        for node in _tree(module).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    twice = {name: modules for name, modules in homes.items() if len(modules) > 1}
    assert twice == {}


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        list(TopologicalSorter({module: _own_imports(module) for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


LATER = (
    "torch transformers peft numpy scipy sklearn pandas pyarrow onnx openpyxl jinja2 matplotlib pydantic sqlalchemy "
    "optuna obstore huggingface_hub fastapi opentelemetry rich IPython resource rouge_score sacrebleu "
    "llguidance jsonschema referencing ray bitsandbytes threadpoolctl re2 openai cleanlab pycrfsuite"
)
"""Libraries that take long to import, or are not installed everywhere: what does not need them starts without them."""


def _at_the_top(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Full names of what is imported when a module is: not in functions, and not for the type checker alone."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _names(node)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from _at_the_top(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "orelse", "handlers", "finalbody"):
                yield from _at_the_top(getattr(node, part, []))


def _slow(names: Iterable[str], loaded: Mapping[str, set[str]]) -> set[str]:
    """The libraries of LATER that an import of these names loads; `safetensors.torch` loads torch."""
    foreign = {part for name in names if not f"{name}.".startswith("afina.") for part in name.split(".")}
    return (foreign & set(LATER.split())).union(*(loaded[module] for module in _inside(names)))


def _inside(names: Iterable[str]) -> set[str]:
    """The modules of afina that an import of these names runs: packages too."""
    return MODULES.keys() & {
        ".".join(parts[1:end]) for name in names for parts in [name.split(".")] for end in range(2, len(parts) + 1)
    }


@cache
def _loaded() -> Mapping[str, set[str]]:
    """What an import of each module loads of LATER."""
    imported = {module: {f"afina.{module}", *_at_the_top(_tree(module).body)} for module in MODULES}
    loaded: dict[str, set[str]] = {module: set() for module in MODULES}
    while (after := {module: _slow(imported[module], loaded) for module in MODULES}) != loaded:
        loaded = after
    return loaded


def _in_functions(module: str) -> Iterator[tuple[str, ast.Import | ast.ImportFrom]]:
    for function in _nodes(module):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield function.name, node


def test_an_import_in_a_function_spares_the_module_a_library_that_takes_long_or_may_be_absent() -> None:
    needless = [
        f"{module}.{function}: {ast.unparse(node)}"
        for module, path in MODULES.items()
        if _package(module) != "cli" and path.name != "__init__.py"
        for function, node in _in_functions(module)
        if not _slow(_names(node), _loaded()) - _loaded()[module]
    ]
    assert needless == [], "import at the top"


@pytest.mark.parametrize("library", OWNERS)
def test_a_foreign_library_is_imported_by_its_owners_only(library: str) -> None:
    importing = {module for module in MODULES if any(_is(name, f"{library}.*") for name in _imports(module))}
    assert {module for module in importing if not _is(module, OWNERS[library])} == set()
    assert bool(importing) == bool(OWNERS[library]), f"nothing imports {library}; take it out of OWNERS"


def test_only_the_command_line_prints() -> None:
    printing = {
        module
        for module in MODULES
        for node in _nodes(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert {_package(module) for module in printing} == {"cli"}


def test_only_the_meter_reads_memory_counters() -> None:
    counters = {"memory_allocated", "max_memory_allocated", "max_memory_reserved", "reset_peak_memory_stats"}
    counters |= {"getrusage", "saved_tensors_hooks"}
    reading = {
        module
        for module in MODULES
        for node in _nodes(module)
        if isinstance(node, ast.Attribute) and node.attr in counters
    }
    assert reading == {"meter"}


LONGEST_FUNCTION = 60
"""Lines, of which every docstring and comment is one. A file is as long as its idea."""


def test_a_function_has_at_most_sixty_lines() -> None:
    long = {
        f"{module}.{node.name}": lines
        for module in MODULES
        for node in _nodes(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and (lines := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert long == {}


# What starts without torch

HEAVY = ("torch", "transformers", "peft")


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True)


STARTS_AT_ONCE = (
    *("afina", "afina.cli", "afina.cli.progress", "afina.data.readers", "afina.methods", "afina.report"),
    *(
        "afina.endpoints.asking",
        "afina.estimators.estimator",
        "afina.studies.study",
        "afina.studies.runs.run",
        "afina.studies.tuning",
    ),
    *("afina.studies.choosing.recommend", "afina.blobs.remote", "afina.store.model_card", "afina.store.diff"),
    "afina.studies.labelling.find_doubts",
    *("afina.studio.app", "afina.server.client", "afina.data.shots"),
    *("afina.store.recompute", "afina.store.intake.inspection", "afina.store.intake.admission"),
)


def test_importing_these_imports_neither_torch_nor_transformers_nor_peft() -> None:
    done = _python(
        f"""
        import importlib, sys
        for module in {STARTS_AT_ONCE}:
            importlib.import_module(module)
            print(module, *(name for name in {HEAVY} if name in sys.modules))
        """
    )
    assert (done.stdout.split(), done.stderr) == ([*STARTS_AT_ONCE], "")


def test_finding_an_adapter_and_reading_a_report_import_no_library_for_statistics_patterns_plots_or_pages() -> None:
    late = ("scipy", "sklearn", "re2", "matplotlib", "jinja2", "rich")
    done = _python(
        f"""
        import sys
        import afina.report.report, afina.studies.adapter_paths
        print(*(name for name in {late} if name in sys.modules))
        """
    )
    assert (done.stdout.split(), done.stderr) == ([], "")


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


@pytest.mark.slow
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
    blocked = _python(WITHOUT_TORCH.replace("from afina.cli import main", "import torch"))
    assert blocked.returncode == 1
    assert "is hidden from this test" in blocked.stderr


def _processor_seconds(command: Sequence[str]) -> float:
    """Of a process, the least of three; what else goes on does not count."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def test_help_takes_little_more_than_the_libraries_that_print_it() -> None:
    """1.1 times as much; with NumPy, 1.45 times."""
    libraries = _processor_seconds([sys.executable, "-c", "import typer, rich.console, typer.rich_utils"])
    taken = _processor_seconds([str(Path(sys.executable).with_name("afina")), "--help"])
    assert taken < 1.35 * libraries
