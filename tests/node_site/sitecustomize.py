"""Makes the Python processes of a Ray node of the tests those of another machine. First on the node's PYTHONPATH.

`AFINA_TEST_HIDDEN` names a directory that these processes cannot see: that of the driver. Where the system allows it,
they get a mount namespace of their own, with an empty directory there. Elsewhere, an audit hook refuses each open.
`AFINA_TEST_VERSION` (`torch=9.9`) fakes the version of a distribution. Where the directory `AFINA_TEST_SLEEPING` is,
`tests/sleeping.py` takes the place of the process that carries a run out. Else the next sitecustomize is run.
`TEST_FSYNC` is the least number of seconds that each sync of a file takes, in tests and what they start
(`benchmarks/flaky.py`).
"""

import os
import sys


def _mount_over(hidden: str) -> bool:
    """Put an empty, read-only directory in the place of `hidden`, for this process and those that it starts."""
    import ctypes

    system = ctypes.CDLL(None, use_errno=True)
    new_namespace, read_only, recursive_private = 0x20000, 1, (1 << 18) | (1 << 14)
    return (
        system.unshare(new_namespace) == 0
        and system.mount(b"none", b"/", None, recursive_private, None) == 0
        and system.mount(b"none", os.fsencode(hidden), b"tmpfs", read_only, b"size=4k") == 0
    )


def _refuse(hidden: str) -> None:
    """Refuse what Python itself opens or lists below `hidden`; libraries in C are not refused."""
    inside = hidden + os.sep

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir", "os.chdir") and arguments:
            path = arguments[0]
            if isinstance(path, (str, bytes, os.PathLike)):
                whole = os.path.realpath(os.fsdecode(path))
                if whole == hidden or whole.startswith(inside):
                    raise PermissionError(13, "hidden from this node", whole)

    sys.addaudithook(hook)


def _fake_version(told: str) -> None:
    import importlib.metadata

    name, version = told.split("=")
    real = importlib.metadata.version
    importlib.metadata.version = lambda asked: version if asked == name else real(asked)


def _sync_slowly(seconds: float) -> None:
    import time

    sync = os.fsync

    def slowly(fd: int) -> None:
        time.sleep(seconds)
        sync(fd)

    os.fsync = slowly


def _run_the_next() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.dirname(os.path.abspath(__file__))
    paths = [path for path in sys.path if os.path.abspath(path) != here]
    spec = PathFinder.find_spec("sitecustomize", paths)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:  # it looked for a next one, as this does
        if error.name != "sitecustomize":
            raise


hidden = os.environ.get("AFINA_TEST_HIDDEN", "")
# A child of such a process is in its namespace already.
if hidden and os.path.exists(os.path.join(hidden, ".driver")) and not _mount_over(hidden):
    _refuse(hidden)
if told := os.environ.get("AFINA_TEST_VERSION"):
    _fake_version(told)
if seconds := os.environ.get("TEST_FSYNC"):
    _sync_slowly(float(seconds))
if os.path.isdir(os.environ.get("AFINA_TEST_SLEEPING", "")):
    if "afina.studies.executors.fork_server" in sys.orig_argv:
        os._exit(1)  # then each worker is started alone
    if "afina.studies.executors.worker" in sys.orig_argv:
        import runpy

        tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        runpy.run_path(os.path.join(tests, "sleeping.py"), run_name="__main__")
        sys.stdout.flush()
        os._exit(0)
_run_the_next()
