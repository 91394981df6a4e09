"""The page docs/reference/clients.md, whose table has a row for each script of this directory.

`make clients` writes the rows of the clients that it has asked, and leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs" / "reference" / "clients.md"
TOP = """# Clients

These clients of other projects can ask an afina server. `make clients` installs each client in a directory of its own,
starts a server with a tiny model, and compares the answers of the client with the answers of the adapters in afina. The
command writes this page. `make clients ONLY="llm_client.py"` runs one client and writes its row. The scripts are in
`tests/clients`. The result is the number of calls that were answered as expected; other calls are named.

| Client | Versions | Calls | Result |
|---|---|---|---|
"""


def row(script: str, versions: str, checks: Sequence[Mapping[str, Any]]) -> str:
    """Return the row of a client, from its checks, each with a problem or None."""
    failed = [one["check"] for one in checks if one["problem"]]
    result = f"{len(checks) - len(failed)} of {len(checks)}{''.join(f'; not: {one}' for one in failed)}"
    cells = [f"`{script}`", versions, "; ".join(one["check"] for one in checks), result]
    return f"| {' | '.join(' '.join(one.replace('|', '/').split()) for one in cells)} |\n"


def rows() -> dict[str, str]:
    """Return the rows of the page by script."""
    lines = PAGE.read_text(encoding="utf-8").splitlines(keepends=True) if PAGE.exists() else []
    return {line.split("`")[1]: line for line in lines if line.startswith("| `")}


def write(found: Mapping[str, str]) -> None:
    """Write the page with new rows of clients. The rows of scripts that are gone are left out."""
    kept = {script: line for script, line in {**rows(), **found}.items() if (HERE / script).is_file()}
    PAGE.write_text(TOP + "".join(kept[script] for script in sorted(kept)), encoding="utf-8")
