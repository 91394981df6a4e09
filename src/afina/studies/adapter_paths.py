"""The directory of an adapter within the results of a study or a recommendation, by method, seed and backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from afina.errors import InvalidData, InvalidStudy, NotFound, UnknownName
from afina.models.adapter import check_there, refuse_incomplete
from afina.models.manifest import MANIFEST
from afina.studies.backbones import of_one_backbone
from afina.studies.choosing.recommendation import Recommendation
from afina.studies.results import read_recommendation, read_request
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record


def find_adapter(
    place: str | Path, method: str | None = None, seed: int | None = None, backbone: str | None = None
) -> Path:
    """Return the adapter's directory: `place` itself, or a directory within the results in `place`.

    Args:
        place: An adapter's directory, or the output directory of a study or a recommendation.
        method: The method's name in the study. Default: the recommended method, or the only method that was trained. If
            the study has several sizes of the training split, the largest counts.
        seed: Default: the first seed of the study.
        backbone: The address of a backbone, if the method was trained on several. Any other address chooses nothing:
            it is the present place of a backbone that has moved.

    Raises NotFound, UnknownName, InvalidData or InvalidStudy; the message lists the adapters that exist. Raises
    CorruptAdapter for a recorded adapter without its manifest.
    """
    place = Path(place)
    directory = OutputDirectory(place)
    if not directory.holds_results:
        if place.is_dir() and (method is not None or seed is not None):
            option = "method" if method is not None else "seed"
            raise InvalidData(
                f"{place}: the directory has no results of a study, so `{option}` has nothing to choose from. "
                f"Remove `{option}`.",
                code="data.option-inapplicable",
                path=place,
                option=option,
            )
        check_there(place)
        return _intact(place)
    records = directory.read()
    if directory.recommendation.is_file():
        made = read_recommendation(directory.recommendation)
        keys = tuple(one.key for one in made.contenders if one.key is not None)
        records = _first(records, keys)
        if method is None and seed is None:
            return _intact(place / _recommended(place, made, records))
        name = method or made.recommended
    else:
        keys = read_request(directory.study).keys
        records = _first(records, keys)
        asked = [one for one in records if one.key in keys] or records  # the last request may have no finished run
        name = method or _only(place, [one for one in asked if one.backbone == backbone] or asked)
    return _intact(place / _of(place, records, keys, name, seed, backbone).adapter)


def _intact(adapter: Path) -> Path:
    """Return the directory. Raises CorruptAdapter if records name it, and its manifest is missing."""
    place = adapter.absolute()
    directory = OutputDirectory(place.parent.parent)
    missing = not (place / MANIFEST).is_file() and directory.records.is_file()
    if missing and directory.relative(place) in {one.adapter for one in directory.read()}:
        refuse_incomplete(adapter, str(directory.records))
    return adapter


def _first(records: Sequence[Record], keys: Sequence[str]) -> list[Record]:
    """Return the records with these keys in the keys' order, then the records that were made earlier."""
    order = {key: place for place, key in enumerate(keys)}
    return sorted(records, key=lambda one: order.get(one.key, len(order)))


def _recommended(place: Path, made: Recommendation, records: Sequence[Record]) -> str:
    if made.adapter is None:
        raise NotFound(
            f"{place}: the recommended {made.recommended} has no adapter. "
            f"Name another method with `method`: {_names(records)}.",
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
            f"{place}: several adapters. Choose with `method`: {_names(records)}.", code="adapter.ambiguous", path=place
        )
    return names.pop()


def _of(
    place: Path, records: Sequence[Record], keys: Sequence[str], name: str, seed: int | None, backbone: str | None
) -> Record:
    """Return the record of this name, seed and backbone; runs of the last request come before earlier runs."""
    named = [one for one in records if one.name == name]
    named.sort(key=lambda one: (one.key not in keys, -one.train_examples))
    if not named:
        raise UnknownName("method", name, {one.name for one in records}, str(place))
    if not any(one.backbone == backbone for one in named):  # the only backbone of the last request
        asked = of_one_backbone([one for one in named if one.key in keys] or named, backbone, place)
        backbone = asked[0].backbone
    named = [one for one in named if one.backbone == backbone]
    found = next((one for one in named if seed is None or one.seed == seed), None)
    if found is None:
        seeds = ", ".join(map(str, sorted({one.seed for one in named})))
        raise NotFound(
            f"{place}: no adapter of {name} with `seed` {seed}. Available seeds: {seeds}.",
            code="adapter.missing",
            path=place,
            method=name,
            seed=seed,
        )
    return found


def _names(records: Sequence[Record]) -> str:
    return ", ".join(dict.fromkeys(one.name for one in records)) or "none"
