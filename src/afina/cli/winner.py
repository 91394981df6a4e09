"""--publish: the adapter that a study or a recommendation says to use, into the store. Knows not how it is kept."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from afina.cli.output import say_begun

if TYPE_CHECKING:
    from afina.studies.results import Results

MOST = 2000
"""Letters of a conclusion that are kept with a version."""


def check_publishing(name: str | None) -> None:
    """Raise, before anything takes time, what publishing under that name would end with: InvalidName, NotFound."""
    if name is not None:
        from afina.store.adapter_store import AdapterStore
        from afina.store.versions import Name

        Name.parse(name)
        store = AdapterStore()
        begins = not store.exists()
        store.make_ready()
        if begins:
            say_begun(store.address.shown)


def publish_winner(results: Results, name: str, *, texts: bool = True) -> dict[str, object] | None:
    """What was published, as JSON has it; None where there is no adapter to use, which is said on standard error.

    The version's message is what the report concludes.
    texts  with the hashes of its training texts
    """
    from afina.report.report import Report
    from afina.store.adapter_store import AdapterStore

    made, chosen = Report.of(results), results.recommendation
    adapter = chosen.adapter if chosen else made.of_use.adapter if made.of_use else None
    if results.failed or adapter is None:
        why = "a run failed" if results.failed else "what is recommended has no adapter"
        print(f"Nothing published as {name}: {why}.", file=sys.stderr)
        return None
    what = f"{made.of_use.title}, seed {made.of_use.seed}, of {results.name}. " if made.of_use else ""
    said = f"{what}{' '.join(made.sentences)}"
    return AdapterStore().publish(results.out / adapter, name, message=said.strip()[:MOST], texts=texts).as_json()
