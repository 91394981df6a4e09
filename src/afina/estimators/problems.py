"""The errors that `afina.estimators` raises, each with its exception class, stable code and message template."""

from __future__ import annotations

from functools import partial

from afina.errors import CorruptAdapter, InvalidData, InvalidStudy, Problem


class InvalidInput(InvalidData, ValueError):
    """The X or y that is passed to an estimator cannot be used. The error is a ValueError, as in scikit-learn."""

    code = "input.invalid"


FILE_NAME_IS_A_PATH = Problem(
    CorruptAdapter,
    "adapter.file-malformed",
    "adapter: the file name {path!r} is a path. Expected the names of an adapter's files.",
)

STATE_WITHOUT_FILES = Problem(
    CorruptAdapter,
    "adapter.file-missing",
    "{estimator}: the state was saved by an earlier version of afina, and has no files of an adapter. Fit the "
    "estimator again, and save it again.",
)

COLUMNS_DIFFER = Problem(
    InvalidInput,
    "input.columns-differ",
    "X: found the columns {found}. {estimator} was fitted on the columns {expected}. Give the same columns in "
    "the same order.",
)

NO_TEXTS = Problem(InvalidInput, "input.empty", "X: found 0 sample(s), expected at least 1 text.")

_input_one_value = partial(Problem, InvalidInput, "input.one-value")
ONE_CLASS = _input_one_value("y: all {texts:,} texts have one class, {label!r}. Expected at least two classes.")
ONE_NUMBER = _input_one_value("y: {_who} the number {number:g}. Expected texts with different numbers.")

_input_entity_invalid = partial(Problem, InvalidInput, "input.entity-invalid")
ENTITY_MALFORMED = _input_entity_invalid(
    "y: text {row}: found {found!r}. Expected entities as (start, end, label), with the place of the first character, "
    "the place after the last, and a label that is a text."
)
ENTITY_OUTSIDE = _input_entity_invalid(
    "y: text {row}: found the entity {found}, but the text has {length:,} characters. Expected "
    "0 <= start < end <= {length}."
)
ENTITIES_OVERLAP = _input_entity_invalid(
    "y: text {row}: the entities {first} and {second} overlap. Remove one of them."
)
ENTITY_WITHIN_WORD = _input_entity_invalid(
    "y: text {row}: the entity {found!r} does not begin and end at a word; its words are {words!r}. Move its start and "
    "end to the borders of words."
)
NO_ENTITIES = Problem(
    InvalidInput, "input.one-value", "y: none of the {texts:,} texts has an entity. Expected entities to learn from."
)
PAIRS_WITHOUT_ENTITIES = Problem(
    InvalidInput,
    "input.pairs-mismatch",
    "X: found pairs of texts. Entities are parts of one text. Give one column.",
)

PAIRS_MISMATCH = Problem(
    InvalidInput, "input.pairs-mismatch", "X: found {found}. {estimator} was fitted on {expected}. Give {expected}."
)

LONE_SURROGATE = Problem(
    InvalidInput, "input.surrogate", "y: label {row}, {found!r}, holds half a surrogate pair. Repair the label."
)

_input_target_missing = partial(Problem, InvalidInput, "input.target-missing")
TARGET_MISSING = _input_target_missing("requires y to be passed, but the target y is None.")
LABEL_MISSING = _input_target_missing("y: label {row} is missing ({found}). Give a label, or remove the text.")

TYPES_MIXED = Problem(
    InvalidInput, "input.types-mixed", "y: found labels of several types ({found}). Expected labels of one type."
)

_input_number_invalid = partial(Problem, InvalidInput, "input.number-invalid")
NOT_NUMBERS = _input_number_invalid(
    "y: found {found}. Expected numbers. Convert a date to a number, such as the days since a fixed day."
)
NUMBERS_TOO_LARGE = _input_number_invalid(
    "y: the numbers are too large: their standard deviation is infinite. Divide the numbers by a constant."
)

_input_weights_invalid = partial(Problem, InvalidInput, "input.weights-invalid")
WEIGHTS_NOT_A_VECTOR = _input_weights_invalid(
    "sample_weight: found {found} dimensions. Sample weights must be 1D: a number for each text."
)
WEIGHTS_INVALID = _input_weights_invalid("sample_weight: {_found}. Expected numbers of 0 or more, and some above 0.")

_option_inapplicable = partial(Problem, InvalidStudy, "option.inapplicable")
WEIGHTS_WITHOUT_TRAINING = _option_inapplicable(
    "`sample_weight` has no effect on method {method}, which trains nothing. Leave `sample_weight` out."
)
WEIGHTS_WITH_TEMPERATURE = _option_inapplicable(
    "`sample_weight`: a temperature is fitted on texts without weights. Leave out `sample_weight` or `temperature`."
)
WEIGHTS_WITH_ABSTENTION = _option_inapplicable(
    "`sample_weight`: the threshold of `abstain_error` counts every text once. Leave out `sample_weight` or "
    "`abstain_error`."
)

METHOD_WITHOUT_ADAPTER = _option_inapplicable(
    "`method` {method}: the method gives no adapter, with which {estimator} could predict. Use the method in a study."
)

_option_invalid = partial(Problem, InvalidStudy, "option.invalid")
OUT_IS_NO_ADAPTER = _option_invalid("`out` {path}: the path exists and is not an adapter. Give a new directory.")
TRAINING_REPEATS_PARAMETER = _option_invalid(
    "`training` has {option}, which is also a parameter of the estimator. Remove one of them."
)
OPTION_NOT_A_DICT = _option_invalid("`{option}`: found a {found}. Expected a dict or None.")

X_UNUSABLE = Problem(InvalidInput, "input.invalid", "X: {reason}")
