"""The classes of all errors that a user can cause; other exceptions are bugs.

    AfinaError
    ├── NotFound           a file, directory, package or Hub id does not exist or cannot be reached
    ├── UnknownName        a method, key, task or preset does not exist; the message suggests the nearest name
    ├── InvalidData        the data of a task cannot be used: missing column, unknown label, empty split, ...
    │   └── Leakage        evaluation texts occur in the training split
    ├── InvalidStudy       settings contradict each other or the method
    ├── CorruptAdapter     the bytes of an adapter do not match its manifest
    ├── WrongBackbone      the adapter was made for another backbone than the given one
    ├── OutOfMemory        the GPU or main memory has too little room
    ├── Diverged           the loss is NaN or infinite
    ├── RunFailed          the process of a run reported an error or was killed
    ├── Busy               another process is writing to the same place
    │   └── Overloaded     a server has more requests than it accepts at the moment
    ├── CannotWrite        nothing can be written to a place: full disk, quota, read-only file system
    ├── InvalidName        a text cannot be a name, alias or address in a store
    ├── Conflict           another process has moved the alias meanwhile
    ├── Refused            a store refuses: an unsafe file, a version that failed its check, ...
    └── CorruptStore       the bytes of a store do not match its audit log

Each message says where the problem is, what was found, what was expected and what to do next. A message is a
`Sentence`: its references to options, as in "Name the right one with `text`.", are typed, and each face has words for
them (`AfinaError.said`). The command line prints the message on one or two lines and exits with `exit_code`.

Programs read `code` and `fields` of an error instead of the message, whose words may change. Each package declares its
errors in its module `problems.py`; docs/reference/errors.md lists all codes and messages.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral, Real
from typing import Generic, Self, TypeVar

from afina.sentence import Json, Namer, Sentence

LESS_MEMORY = "Use a smaller `backbone`, or set `token_budget` to 1024 or `checkpointing` to true"
"""The advice in error messages about lack of memory."""


class AfinaError(Exception):
    """Base class of all errors that a user can cause.

    The command line prints the message without a traceback and exits with code 2. An error class for a single situation
    sets `code` as a class attribute. The code "error" means that the error class belongs to another package.

    Attributes:
        code: the stable name of the situation, such as "data.column-missing"; each code belongs to one error class.
        fields: the values in the message as JSON values, such as paths, names, rows and counts.
    """

    exit_code = 2
    code: str = "error"

    def __init__(self, message: str = "", /, *, code: str | None = None, **fields: object) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.fields: dict[str, Json] = {name: _as_json(value) for name, value in fields.items()}

    @property
    def sentence(self) -> Sentence:
        """The message, with its references to options."""
        message = self.args[0] if self.args else ""
        return message if isinstance(message, Sentence) else Sentence([str(message)])

    def said(self, namer: Namer) -> str:
        """Return the message in the words of a face, such as the command line."""
        return self.sentence.named(namer)

    def within(self, *place: str) -> Self:
        """Begin the message with the place of the error, such as a file's name, and return the error."""
        self.args = (Sentence([*place, self.sentence]), *self.args[1:])
        return self

    def advising(self, advice: str) -> Self:
        """Add advice to the end of the message, and return the error."""
        self.args = (Sentence([self.sentence, advice]), *self.args[1:])
        return self

    def as_json(self, namer: Namer | None = None) -> dict[str, Json]:
        """Return the class, code, message and fields of the error as a JSON object.

        `parts` are the parts of the message (`Sentence.as_json`), for a face with other words for its options.
        """
        message = str(self) if namer is None else self.said(namer)
        parts = self.sentence.as_json()
        return {
            "class": type(self).__name__,
            "code": self.code,
            "message": message,
            "parts": parts,
            "fields": self.fields,
        }


Raised = TypeVar("Raised", bound=AfinaError)


class Problem(Generic[Raised]):
    """The declaration of an error for one situation: its class, code and message, in the `problems.py` of a package.

    Calling a Problem with the values of its fields makes the error: `raise problems.COLUMN_MISSING(path=path, ...)`.

    Args:
        error: the exception class of the error.
        code: the code of the situation. Problems that programs need not distinguish have the same code, and are
            declared with a `functools.partial` that has their class and code.
        sentence: the message as a format string. The message says where the problem is, what was found, what is
            expected and what to do next. Each name in the format string is a field whose value has to be passed; other
            fields may be passed, too. A name in backquotes is an option (`Sentence`). A name in the format string that
            begins with an underscore is only for the message and is no field of the error.
    """

    def __init__(self, error: type[Raised], code: str, sentence: str) -> None:
        self.error, self.code, self.sentence = error, code, sentence

    def __call__(self, **fields: object) -> Raised:
        message = Sentence.of(self.sentence, **fields)
        kept = {name: value for name, value in fields.items() if not name.startswith("_")}
        return self.error(message, code=self.code, **kept)


LONGEST = 200
"""The largest number of characters of an unknown name in an error message."""

SYNONYMS = (
    ("learning_rate", "lr"),
    ("batch_size", "bs"),
    ("weight_decay", "wd"),
    ("r", "rank lorarank"),
    ("alpha", "scaling"),
    ("plus", "loraplus loraplusratio"),
    ("accumulate", "gradaccum gas"),
    ("accuracy", "acc"),
    ("auroc", "auc rocauc"),
    ("mcc", "matthews"),
    ("log_loss", "crossentropy nll"),
    ("loss", "crossentropy nll"),
    ("rmse", "mse"),
    ("pearson", "correlation"),
    ("perplexity", "ppl"),
    ("exact_match", "em"),
    ("exact_answer", "em"),
    ("average_precision", "map"),
    ("rouge_l", "rouge"),
    ("full", "finetuning finetune ft sft"),
    ("linear_probe", "probe linear logisticregression"),
    ("setfit", "contrastive sentencetransformers"),
    ("adapter", "adapters houlsby"),
    ("prelayer", "embeddings"),
    ("prompt", "softprompt"),
    ("float32", "fp32 single"),
    ("bfloat16", "bf16 fp16 float16 half"),
    ("float", "fp32 fp16 float16"),
    ("int8", "8bit"),
    ("nf4", "4bit int4"),
    ("number", "regression"),
    ("classes", "classification"),
    ("labels", "multilabel"),
    ("text", "generation summarization"),
    ("embedded", "smollm smollm2135m smollm2"),
    ("bge", "bgesmall bgesmallenv15"),
    ("minilm", "allminilml6v2"),
    ("skip", "drop ignore"),
    ("refuse", "error"),
)
"""Names in afina with the names that other programs use, in lower case without punctuation. If a user gives another
program's name, the error message suggests the first name in afina that exists."""


_FLOOR = "It is a baseline, no method to train: `afina choose` measures it, and so does every study."
_TRUNK = "Outputs of frozen blocks are no longer kept. Leave it out; `layers` says which upper blocks a method adapts."
_TWICE = "No text is asked for twice. Leave it out; the study asks again with another `out`."
ELSEWHERE = {
    **{("method", name): _FLOOR for name in ("tfidf", "bagofwords", "bow", "majority", "majorityclass")},
    **{("key", name): _TRUNK for name in ("trunk", "trunkdropout")},
    **{(kind, "askagain"): _TWICE for kind in ("key", "hyperparameter of endpoint")},
}
"""Sentences for the error message about an unknown name that exists as something else, or did, by kind and name."""


def _bare(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a user most probably meant with an unknown name; None if no known name is similar.

    A known name is suggested if it differs only in case and punctuation, is a usual synonym, or has similar letters.
    """
    names = list(known)
    folded = {one.casefold(): one for one in reversed(names) if len(one) > 1}  # "r" is similar to every short name
    near = [folded[one] for one in difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)]
    return same_name(name, names) or next(iter(near), None)


def same_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that differs only in case and punctuation, or is a usual synonym, or None.

    A key such as `train.lr` is compared by its last part with the keys of the same table.
    """
    names, bare = list(known), _bare(name)
    table, last = name[: name.rfind(".") + 1], _bare(name.rpartition(".")[2])
    same = [one for one in names if _bare(one) == bare]
    meant = [table + one for one, others in SYNONYMS if last in others.split() and table + one in names]
    return next(iter([*same, *meant]), None)


class NotFound(AfinaError):
    """Something that the user named does not exist or cannot be reached."""


class UnknownName(AfinaError):
    """A name is not in a fixed set of names.

    Args:
        kind: the kind of name, such as "method" for the name of a method.
        name: the unknown name.
        known: all names of this kind that exist.
        where: the file or option that contains the unknown name.
    """

    code = "name.unknown"

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = "") -> None:
        known = sorted(known)
        near, shown = nearest(name, known), name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
        guess = f"Did you mean {near!r}? " if near else ""
        if advice := ELSEWHERE.get((kind, _bare(name.rpartition(".")[2]))):
            near, guess = None, Sentence.of(f"{advice} ")
        super().__init__(
            Sentence([where, ": " * bool(where), f"unknown {kind} {shown!r}. ", guess, f"Known: {', '.join(known)}."]),
            kind=kind,
            name=name,
            known=known,
            nearest=near,
            where=where,
        )


class InvalidData(AfinaError):
    """The data of a task cannot be used."""


class Leakage(InvalidData):
    """Evaluation texts occur in the training split."""

    code = "data.leakage"


class InvalidStudy(AfinaError):
    """The settings cannot be run."""


class CorruptAdapter(AfinaError):
    """The files of an adapter do not match its manifest."""


class WrongBackbone(AfinaError):
    """The adapter was made for another backbone."""

    code = "backbone.mismatch"


class OutOfMemory(AfinaError):
    """The GPU or main memory has too little room.

    Args:
        run: the title of the run; "" outside a run.
        gpu: whether the memory of the GPU ran out, not main memory.
        limit: the limit of this process's memory in bytes (`ulimit -v`). None: there is no limit.
    """

    code = "run.out-of-memory"

    def __init__(self, run: str = "", *, gpu: bool = False, limit: int | None = None) -> None:
        place = f"run {run}: " if run else ""
        what = "the GPU has too little memory" if gpu else "main memory ran out"
        stated = "" if limit is None else f" (this process may use {limit / 2**30:.2f} GiB: ulimit -v)"
        advice = LESS_MEMORY if run else "Use a smaller `backbone`"
        if limit is not None:
            advice = f"Raise the limit (ulimit -v unlimited). {advice}"
        elif not run:
            advice += ", or close other programs"
        super().__init__(Sentence([f"{place}{what}{stated}. ", Sentence.of(f"{advice}.")]), run=run, limit=limit)


class Diverged(AfinaError):
    """The training loss is NaN or infinite."""

    code = "run.diverged"


class RunFailed(AfinaError):
    """One run of a study failed.

    If the process of the run reported an error, `fields["cause"]` is the code of the reported error, and
    `fields["of_cause"]` has its fields.
    """

    code = "run.failed"


class Busy(AfinaError):
    """A file, a store or a server is in use, is being changed or answers too late; the same call may succeed later."""


class Overloaded(Busy):
    """A server has too many waiting requests, or a client exceeds its rate limit. `after`: seconds to wait."""

    code = "server.overloaded"

    def __init__(self, message: str, after: float, *, code: str | None = None) -> None:
        super().__init__(message, code=code, after=after)
        self.after = after


class CannotWrite(AfinaError):
    """Nothing can be written to a place. Files that were there before are unchanged.

    `reason` is the cause in a few words, and `full` whether more space would help.
    """

    code = "file.cannot-write"

    def __init__(
        self, place: object, reason: str, *, full: bool = False, code: str | None = None, advice: str | None = None
    ) -> None:
        advice = advice or ("Free disk space there, or choose another place" if full else "Choose another place")
        said = "{place}: cannot be written ({reason}). {advice}; then try again."
        super().__init__(
            Sentence.of(said, place=place, reason=reason, advice=advice),
            code=code,
            path=str(place),
            reason=reason,
        )
        self.reason = reason


class InvalidName(AfinaError):
    """A text cannot be a name, alias or address in a store."""


class Conflict(AfinaError):
    """Something in a store that is to be changed, such as an alias, is in another state than the caller expected."""


class Refused(AfinaError):
    """A store or server refuses an operation."""


class CorruptStore(AfinaError):
    """The bytes of a store do not match its audit log."""


def _as_json(value: object) -> Json:
    match value:
        case None | str() | bool():
            return value
        case Integral():
            return int(value)
        case Real() if math.isfinite(value):
            return float(value)
        case Mapping():
            return {str(key): _as_json(each) for key, each in value.items()}
        case Sequence() | Set():
            return [_as_json(each) for each in value]
        case _:
            return str(value)
