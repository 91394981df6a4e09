"""Where an adapter is, by the directory of what made it and a method's name. Reads records; starts without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from afina.errors import InvalidData, InvalidStudy, NotFound, UnknownName
from afina.models.adapter import check_there
from afina.studies.recommendation import Recommendation
from afina.studies.results import read_recommendation, read_request
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record


def find(place: str | Path, method: str | None = None, seed: int | None = None) -> Path:
    """The adapter's directory: `place` itself, or within what a study or a recommendation left in `place`.

    method  its name in the study; by default the recommended one, or the only one that was trained. Of several sizes of
            the training split, that of the greatest
    seed    by default the first of the study
    Raises NotFound, UnknownName, InvalidData, InvalidStudy; the message lists what there is.
    """
    place = Path(place)
    directory = OutputDirectory(place)
    if not directory.holds_results:
        if place.is_dir() and (method is not None or seed is not None):
            option = "method" if method is not None else "seed"
            raise InvalidData(
                f"{place}: no study's directory, so `{option}` cannot choose there. Leave it out.",
                code="data.option-inapplicable",
                path=place,
                option=option,
            )
        check_there(place)
        return place
    records = directory.read()
    if directory.recommendation.is_file():
        made = read_recommendation(directory.recommendation)
        keys = tuple(one.key for one in made.contenders if one.key is not None)
        records = _first(records, keys)
        if method is None and seed is None:
            return place / _recommended(place, made, records)
        name = method or made.recommended
    else:
        keys = read_request(directory.study).keys
        records = _first(records, keys)
        asked = [one for one in records if one.key in keys]
        name = method or _only(place, asked or records)  # what was asked for last may have failed, or not be done
    return place / _of(place, records, keys, name, seed).adapter


def _first(records: Sequence[Record], keys: Sequence[str]) -> list[Record]:
    """Those of the keys in their order, then what else was made there before."""
    order = {key: place for place, key in enumerate(keys)}
    return sorted(records, key=lambda one: order.get(one.key, len(order)))


def _recommended(place: Path, made: Recommendation, records: Sequence[Record]) -> str:
    if made.adapter is None:
        raise NotFound(
            f"{place}: {made.recommended} is recommended there, which has no adapter. "
            f"Name another one with `method`; there is {_names(records)}.",
            code="adapter.missing",
            path=place,
            method=made.recommended,
        )
    return made.adapter


def _only(place: Path, records: Sequence[Record]) -> str:
    trained = [one for one in records if one.steps]
    names = {one.name for one in trained or records}
    if len(names) != 1:
        raise InvalidStudy(
            f"{place}: name an adapter with `method`; there is {_names(records)}.", code="adapter.ambiguous", path=place
        )
    return names.pop()


def _of(place: Path, records: Sequence[Record], keys: Sequence[str], name: str, seed: int | None) -> Record:
    """Of those that were asked for last before any other, such as one of what the data were before."""
    named = [one for one in records if one.name == name]
    named.sort(key=lambda one: (one.key not in keys, -one.train_examples))
    if not named:
        raise UnknownName("method", name, {one.name for one in records}, str(place))
    found = next((one for one in named if seed is None or one.seed == seed), None)
    if found is None:
        seeds = ", ".join(map(str, sorted({one.seed for one in named})))
        raise NotFound(
            f"{place}: no adapter of {name} with `seed` {seed}. There is {seeds}.",
            code="adapter.missing",
            path=place,
            method=name,
            seed=seed,
        )
    return found


def _names(records: Sequence[Record]) -> str:
    return ", ".join(dict.fromkeys(one.name for one in records)) or "none"
