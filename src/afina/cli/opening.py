"""Where a command's adapter comes from: a directory of it or of a study, or a version in the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afina.errors import InvalidStudy
from afina.store.versions import PREFIX

if TYPE_CHECKING:
    from afina.models.adapter import Adapter

AdapterArgument = Annotated[
    str,
    typer.Argument(
        help="Directory of an adapter, made by afina or by peft, or of a study; or store:CLIENT/TASK@VERSION_OR_ALIAS.",
        metavar="ADAPTER",
    ),
]


def locate(adapter: str, method: str | None, seed: int | None) -> Callable[[], Adapter]:
    """What opens the adapter, once it is known to be there; `method` and `seed` choose within a study.

    Raises what looking for it does, in no time.
    """
    if adapter.startswith(PREFIX):
        if method is not None or seed is not None:
            option = "method" if method is not None else "seed"
            raise InvalidStudy(
                f"{adapter}: a version is one adapter, so `{option}` cannot choose there. Leave it out.",
                code="option.inapplicable",
                option=option,
            )
        from afina.store.adapter_store import AdapterStore

        store = AdapterStore()
        return partial(store.adapter, store.show(adapter))
    from afina.studies.adapters import find

    return partial(_load, find(Path(adapter), method, seed))


def _load(place: Path) -> Adapter:
    from afina.models.adapter import Adapter

    return Adapter.load(place)
