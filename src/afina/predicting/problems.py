"""Every error of `afina.predicting` that a user can cause, each with its exception class, code and message."""

from __future__ import annotations

from functools import partial

from afina.errors import CorruptAdapter, InvalidData, InvalidStudy, Leakage, NotFound, Problem, Refused, WrongBackbone

_adapter_file_malformed = partial(Problem, CorruptAdapter, "adapter.file-malformed")
MAX_LENGTH_BEYOND_BACKBONE = _adapter_file_malformed(
    "{where}: the maximum length is {found} tokens, but backbone {backbone} takes at most {most}{_beside}. Copy the "
    "adapter again, or train it again."
)
PROBE_SHAPE = _adapter_file_malformed(
    "{where}: the golden test has shape [{expected}], the outputs have shape [{found}]. Copy the adapter again, or "
    "train it again."
)
PROBE_DIFFERS = Problem(
    CorruptAdapter,
    "adapter.probe-differs",
    "{where}: the golden test's outputs differ by {difference:.1e} of the largest output, expected at most "
    "{tolerance:.0e}. With the installed libraries, the adapter computes other outputs than when it was made. Install "
    "these versions: {_versions}.",
)
HEAD_SHAPE = Problem(
    CorruptAdapter,
    "adapter.tensors-mismatch",
    "{where}: the head {tensor} has shape [{found}], but its task needs {labels} rows. Copy the adapter again, or "
    "train it again.",
)
OUTPUTS_NOT_FINITE = Problem(
    CorruptAdapter,
    "adapter.values-invalid",
    "{where}: outputs are NaN or infinite for some of the texts. Train the adapter again.",
)

TEACHER_UNSUITED = Problem(
    InvalidStudy,
    "adapter.teacher-unsuited",
    "`teacher` {path}: its {_what}: found {found}. The task has {expected}. Give a teacher of the same {_what}.",
)
TEACHER_SAW_EVALUATION = Problem(
    Leakage,
    "data.leakage",
    "`teacher` {path}: {leaked:,} of {evaluation:,} evaluation texts are training texts of the teacher, expected at "
    "most {limit:.0%}. The student would be measured on texts that its teacher knows. Train a teacher without them.",
)
TEACHER_SAW_ABSTENTION = Problem(
    Leakage,
    "data.leakage",
    "`teacher` {path}: {leaked:,} of the {texts:,} texts that are set aside to choose the threshold of abstention are "
    "training texts of the teacher. The student's promise of an error would not hold. Train the teacher with "
    "`abstain_error`, too.",
)

OUT_IS_INPUT = Problem(
    InvalidData, "argument.invalid", "`out` {path}: the texts are read from this file. Give another name."
)
ASK_KIND = Problem(
    InvalidStudy,
    "ask.kind-unsupported",
    "task {task}: the kind is {kind}, but words can answer only for classes. Train a method.",
)

OTHER_BACKBONE = Problem(
    WrongBackbone,
    "backbone.mismatch",
    "{where}: made for backbone {expected} with digest {_expected:.19}, but {found} has {_found:.19} ({_difference}). "
    "Give the adapter's own backbone with `backbone`.",
)
CHAT_TEMPLATE_EDITED = Problem(
    CorruptAdapter,
    "backbone.chat-template",
    "{where}: the chat template of {backbone} was edited after the training of this adapter. Restore the "
    "chat template, which is the field `chat_template` of the adapter's manifest, or train again.",
)
BACKBONE_UNNAMED = Problem(
    NotFound, "backbone.unnamed", "{where}: the adapter names no backbone. Give its backbone with `backbone`."
)

OUT_COLUMN_TAKEN = Problem(
    InvalidData,
    "data.column-repeated",
    "{where}: the column {column!r} has the name of a column that `out` adds. Rename that column.",
)
OUT_COLUMN_NEW = Problem(
    InvalidData,
    "data.columns-differ",
    "{where}: the column {column!r} is missing in the rows before. Give `out` a name that ends in .jsonl.",
)
OUT_SUFFIX = Problem(
    InvalidData,
    "data.format-unknown",
    "`out` {path}: unknown file type, expected a name that ends in one of {expected}. Choose another name.",
)
_data_pairs_mismatch = partial(Problem, InvalidData, "data.pairs-mismatch")
PAIRS_EXPECTED = _data_pairs_mismatch(
    "{where}: trained on {expected} of texts, but single texts are given. Give both texts with `pair`, or a `file` "
    "with a column of second texts, and name that column with `text_pair`."
)
SINGLE_TEXTS_EXPECTED = _data_pairs_mismatch(
    "{where}: trained on single {expected}, but pairs are given. Give one text, or name the only column to read with "
    "`text`."
)

PROBE_DTYPE = Problem(
    InvalidStudy,
    "dtype.unsuitable",
    "the golden test was recorded in float32, but this predictor computes in {dtype}. Check it in float32.",
)
METHOD_NOT_IN_INT8 = Problem(
    InvalidStudy,
    "dtype.unsupported",
    "{where}: method {method} reads the backbone's weights as floats, so products cannot be in {dtype}. Use float32, "
    "bfloat16 or auto.",
)
BACKBONE_NEEDLESS = Problem(
    InvalidStudy, "option.inapplicable", "{where}: the adapter needs no {option}. Leave `{option}` out."
)
PROBE_MISSING = Problem(
    InvalidStudy,
    "probe.missing",
    "{where}: the adapter has no golden test, so nothing can be checked. Leave the check out.",
)

NO_ROOM_FOR_TEXT = Problem(
    InvalidData,
    "request.malformed",
    "the text is to be truncated to {found} tokens. Expected at least {least} tokens: template and special tokens have "
    "one less.",
)
TOO_FEW_SENTENCES = Problem(
    InvalidData,
    "retention.texts-unusable",
    "`retention` {source}: {sentences} sentences have two tokens or more, expected at least two sentences. Give a file "
    "of whole sentences.",
)

TENSOR_NOT_FLOAT = _adapter_file_malformed("{path}: {tensor} is {found}, expected floats. Save the model unquantised.")

HEAD_MISSING = Problem(
    CorruptAdapter,
    "adapter.head-missing",
    "{where}: there is no classification head ({expected}). Give a fine-tuned classifier. peft saves the head with "
    'task_type="SEQ_CLS".',
)

_backbone_mismatch = partial(Problem, WrongBackbone, "backbone.mismatch")
CONFIG_DIFFERS = _backbone_mismatch(
    "{path}: {field} is {found!r:.80}, but {expected!r:.80} in backbone {backbone}. Give the model that was "
    "fine-tuned with `backbone`."
)
WEIGHTS_DO_NOT_FIT = _backbone_mismatch(
    "{path}: the weights do not fit a classifier on backbone {backbone}: {reason} Give the model that was "
    "fine-tuned with `backbone`."
)

INSTEAD = (
    "Save the weights with save_pretrained, which writes safetensors (in older versions only with its argument "
    "safe_serialization), and leave this file out"
)
FILE_UNSAFE = Problem(Refused, "intake.file-unsafe", f"{{path}}: {{reason}}. {INSTEAD}.")

_model_config_unusable = partial(Problem, InvalidStudy, "model.config-unusable")
NOT_A_CLASSIFIER = _model_config_unusable(
    "{path}: architectures is {found!r:.80}, expected a ...ForSequenceClassification. A language model does not "
    "tell its prompts: use it as a `backbone` instead."
)
LABELS_UNUSABLE = _model_config_unusable(
    "{path}: id2label is {found!r:.80}, expected a different name for each of 0, 1, ... Correct id2label and "
    "label2id there."
)

MODEL_FILE_MISSING = Problem(
    NotFound,
    "model.file-missing",
    "{path}: no {file} there, expected {expected}. Give a directory with a classifier and its tokenizer, which "
    "save_pretrained wrote.",
)
