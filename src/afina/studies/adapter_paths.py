"""`find_adapter` finds the directory of an adapter in the output directory of a study or a recommendation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from afina.errors import UnknownName
from afina.methods import why_without_adapter
from afina.models.adapter import check_there, is_of_peft, refuse_incomplete
from afina.sentence import Sentence
from afina.studies import problems
from afina.studies.backbones import of_one_backbone
from afina.studies.choosing.recommendation import Recommendation
from afina.studies.descriptions import read_recommendation, read_request
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record
from afina.training.settings import training_settings

SHOWN = 3
"""The note of an `AdapterChoice` names at most this number of other runs."""


@dataclass(frozen=True)
class AdapterChoice:
    """An adapter's directory, and the recorded runs among which it was chosen.

    `record` is None if no method, seed or backbone had to be chosen. `others` have the requested method, seed and
    backbone too, the latest first. `of_last_request`: the run belongs to the study as it was last executed.
    """

    path: Path
    record: Record | None = None
    others: tuple[Record, ...] = ()
    of_last_request: bool = True

    @property
    def note(self) -> str | None:
        if self.record is None or not self.others:
            return None
        runs = [self.record, *self.others]
        told = [f"{one.adapter}{settings}" for one, settings in zip(runs, _differences(runs), strict=True)]
        rest = f" and {len(told) - 1 - SHOWN} more" * (len(told) - 1 > SHOWN)
        why = "of the last request" if self.of_last_request else "the latest recorded run"
        return (
            f"{len(runs)} runs of {self.record.name} match. Taken: {told[0]}, {why}. "
            f"Others: {', '.join(told[1 : SHOWN + 1])}{rest}. To take another, give its directory."
        )


def find_adapter(
    place: str | Path, method: str | None = None, seed: int | None = None, backbone: str | None = None
) -> AdapterChoice:
    """Return the directory of an adapter: `place` itself, or a directory within the results in `place`.

    By default, the method is the recommended one or the only trained one, with the first seed. Of several sizes of the
    training split, the largest is taken; of several runs that match, one of the study's last execution. The address of
    a backbone that was not trained on is ignored, because a backbone may have been moved.

    Raises NotFound, UnknownName, InvalidData or InvalidStudy; the message lists the adapters that exist. Raises
    CorruptAdapter for a recorded adapter without its manifest.
    """
    place = Path(place)
    directory = OutputDirectory(place)
    if not directory.holds_results:
        if place.is_dir() and (method is not None or seed is not None):
            option = "method" if method is not None else "seed"
            raise problems.NOTHING_TO_CHOOSE_FROM(path=place, option=option)
        check_there(place)
        return _intact(AdapterChoice(place))
    records = directory.read()
    last: Recommendation | Sequence[Record]
    if directory.recommendation.is_file():
        last = read_recommendation(directory.recommendation)
    else:
        last = read_request(directory.study).records(records)
    return _intact(choose(place, records, last, method, seed, backbone))


def _intact(chosen: AdapterChoice) -> AdapterChoice:
    """Raise CorruptAdapter for a recorded adapter without its manifest, which would be opened as one of peft."""
    place = chosen.path.absolute()
    directory = OutputDirectory(place.parent.parent)
    unsaid = is_of_peft(place) and directory.records.is_file()
    if unsaid and directory.relative(place) in {one.adapter for one in directory.read()}:
        refuse_incomplete(chosen.path, str(directory.records))
    return chosen


def choose(
    place: Path,
    records: Sequence[Record],
    last: Recommendation | Sequence[Record],
    method: str | None = None,
    seed: int | None = None,
    backbone: str | None = None,
) -> AdapterChoice:
    """Return an adapter of a study or a recommendation; the default is a recommendation's recommended adapter.

    `records` are all in `place`, in the order in which they were made. `last` is the recommendation, or the records of
    a study's last execution, with the study's order and names.
    """
    if isinstance(last, Recommendation):
        if method is None and seed is None:
            return AdapterChoice(place / _recommended(place, last, records))
        keys = [one.key for one in last.contenders if one.key is not None]
        return _of(place, records, keys, method or last.recommended, seed, backbone)
    keys = [one.key for one in last]
    records = [*(one for one in records if one.key not in keys), *last]
    if method is None:
        asked = _with_adapter(last) or records  # the last request may have no finished run with an adapter
        method = _only(place, [one for one in asked if one.backbone == backbone] or asked)
    return _of(place, records, keys, method, seed, backbone)


def _recommended(place: Path, made: Recommendation, records: Sequence[Record]) -> str:
    if made.adapter is None:
        known = _names(records)
        raise problems.RUN_WITHOUT_ADAPTER(
            known=known,
            path=place,
            method=made.recommended,
            _which="the recommended ",
            _because="",
            _instead=_instead(known),
        )
    return made.adapter


def _only(place: Path, records: Sequence[Record]) -> str:
    kept = _with_adapter(records)
    trained = [one for one in kept if one.steps]
    names = {one.name for one in trained or kept or records}
    if len(names) != 1 and not kept:
        raise problems.RUNS_WITHOUT_ADAPTER(path=place, methods=sorted(names))
    if len(names) != 1:
        raise problems.SEVERAL_ADAPTERS(known=_names(records), path=place)
    return names.pop()


def _of(
    place: Path, records: Sequence[Record], keys: Sequence[str], name: str, seed: int | None, backbone: str | None
) -> AdapterChoice:
    """Return the adapter of a run, by preference one of the study's last execution, or else the last recorded."""
    named = [one for one in records if one.name == name] or [one for one in records if one.method == name]
    if not named:
        raise UnknownName("method", name, {one.name for one in records}, str(place))
    if not (kept := _with_adapter(named)):
        known, because = _names(records), why_without_adapter(named[0].method)
        raise problems.RUN_WITHOUT_ADAPTER(
            known=known, path=place, method=name, _which="", _because=because, _instead=_instead(known)
        )
    named = kept
    matching = [one for one in named if seed in (None, one.seed)]
    if not matching:
        raise problems.SEED_MISSING(known=sorted({one.seed for one in named}), path=place, method=name, seed=seed)
    matching = [one for one in matching if one.backbone == backbone] or matching
    last = sorted((one for one in matching if one.key in keys), key=lambda one: keys.index(one.key))
    found = last or matching
    _check_one_setting(place, name, found, alike=bool(last))
    found = of_one_backbone(found, backbone, place)
    if not last:
        found = [one for one in found if one.seed == found[-1].seed and _settings(one) == _settings(found[-1])]
    taken = max(found, key=lambda one: one.train_examples)
    others = tuple(one for one in reversed(matching) if one is not taken and one.backbone == taken.backbone)
    assert taken.adapter is not None  # `named` has no other runs
    return AdapterChoice(place / taken.adapter, taken, others, bool(last))


def _instead(known: Sequence[str]) -> str:
    return Sentence.of(" Name another method with `method`: {known}.", known=known) if known else ""


def _with_adapter(records: Iterable[Record]) -> list[Record]:
    return [one for one in records if one.adapter is not None]


def _check_one_setting(place: Path, name: str, records: Sequence[Record], *, alike: bool) -> None:
    """Raise InvalidStudy if the runs have different names or, if `alike` is set, different settings on one backbone."""
    if len({one.name for one in records}) > 1:
        raise problems.SEVERAL_SETTINGS(
            _choose=Sentence.of("Choose with `method`"), known=_names(records), path=place, method=name
        )
    if alike and any(_settings(one) != _settings(other) for one in records for other in records if _same(one, other)):
        told = [f"{one.adapter}{settings}" for one, settings in zip(records, _differences(records), strict=True)]
        raise problems.SEVERAL_SETTINGS(
            _choose="Give the directory of one of them", known=told, path=place, method=name
        )


def _same(one: Record, other: Record) -> bool:
    return (one.seed, one.backbone, one.train_examples) == (other.seed, other.backbone, other.train_examples)


def _settings(record: Record) -> dict[str, object]:
    """Return the settings that can change a result, except seed, backbone and number of training texts."""
    training = training_settings(record.training)
    return {"method": record.method, "task": record.task, **training, **record.hyperparameters}


def _differences(records: Sequence[Record]) -> list[str]:
    """Return for each record a text in parentheses with its values of the settings in which the records differ."""
    all_settings = [
        {"seed": one.seed, "backbone": one.backbone, "training texts": one.train_examples, **_settings(one)}
        for one in records
    ]
    keys = dict.fromkeys(key for one in all_settings for key in one)
    told = [key for key in keys if any(one.get(key) != all_settings[0].get(key) for one in all_settings)]
    each = (", ".join(f"{key} {one[key]}" for key in told if one.get(key) is not None) for one in all_settings)
    return [f" ({one})" if one else "" for one in each]


def _names(records: Sequence[Record]) -> list[str]:
    return [*dict.fromkeys(one.name for one in _with_adapter(records))]
