"""The errors of `afina.models`, each with its exception class, code and message."""

from __future__ import annotations

from functools import partial

from afina.errors import CorruptAdapter, InvalidData, InvalidStudy, NotFound, Problem
from afina.problems import AGAIN

_adapter_changed = partial(Problem, CorruptAdapter, "adapter.changed")
FILE_CHANGED = _adapter_changed(
    "{path}: {_part} digest {found:.19}, the manifest says {expected!s:.19}. The file was changed; copy or train the "
    "adapter again."
)
CLAIMS_CHANGED = _adapter_changed(
    "{where}: metrics, or fields that say what was measured, were changed after training: their digest is "
    "{found:.19}, the manifest says {expected!s:.19}. Copy or train the adapter again."
)

_adapter_file_malformed = partial(Problem, CorruptAdapter, "adapter.file-malformed")
NOT_STRINGS = _adapter_file_malformed("{path}: expected a list of strings. " + AGAIN)
BACKBONE_NAME_MALFORMED = _adapter_file_malformed(
    "{path}: {field} is {found!r}, expected a name of at most {most:,} characters. " + AGAIN
)
FORMAT_MISSING = _adapter_file_malformed("{path}: the field `format` is missing. " + AGAIN)
FIELD_MALFORMED = _adapter_file_malformed("{path}: {_name}{expected} " + AGAIN)

MANIFEST_MISSING = Problem(
    CorruptAdapter,
    "adapter.file-missing",
    "{path}: {file} is missing, but {found} says that afina made this adapter. Without {file}, its label names "
    "and its template are unknown. Copy the adapter again with all its files, or train it again.",
)

FORMAT_UNKNOWN = Problem(
    CorruptAdapter,
    "adapter.format-unknown",
    "{path}: the format is {found!r}, this version of afina reads {expected}. Install the version of afina that made "
    "the adapter, or train or import the adapter again.",
)

TAGS_UNKNOWN = Problem(
    InvalidStudy,
    "adapter.tags-unknown",
    "{path}: a token classifier of peft, whose files do not say which tag each output is. Merge the adapter into its "
    "backbone with peft, save the model with its id2label, and import the model with `backbone`.",
)
HEAD_MISSING = Problem(
    CorruptAdapter,
    "adapter.head-missing",
    '{path}: the adapter has no classification head ({expected}). Save it with task_type="SEQ_CLS", which keeps '
    "the head.",
)

ADAPTER_MISSING = Problem(
    NotFound,
    "adapter.missing",
    "{path}: no adapter found: expected manifest.json (afina) or adapter_config.json (peft) in the directory. "
    "Give an adapter's directory, such as results/adapters/lora-seed0-....",
)

BAG_OF_WORDS_MISMATCH = Problem(
    CorruptAdapter,
    "adapter.tensors-mismatch",
    "{where}: a {method!r} adapter of {terms:,} terms and {labels} labels has tensors {found!r}, expected "
    "'tfidf' and {expected!r}. Copy or train the adapter again.",
)

BAG_OF_WORDS_INVALID = Problem(
    CorruptAdapter,
    "adapter.values-invalid",
    "{where}: a term occurs twice, or a weight is NaN or infinite. Copy or train the adapter again.",
)

BACKBONE_AMBIGUOUS = Problem(
    InvalidStudy,
    "backbone.ambiguous",
    "backbone {backbone}: the name of a packaged model, and of a directory with a model. Write ./{backbone} for "
    "the directory, or rename it.",
)

_backbone_encoder_unsupported = partial(Problem, InvalidStudy, "backbone.encoder-unsupported")
ENCODER_ASKED_IN_WORDS = _backbone_encoder_unsupported(
    "{where}: models of type {family} are encoders, which predict no next word, so they cannot be asked in "
    "words. Set head=random and train a method, or choose a causal language model such as embedded."
)
ENCODER_GENERATES = _backbone_encoder_unsupported(
    "{where}: models of type {family} are encoders, which cannot continue a text, so tasks of kind text are not "
    "supported. Choose a causal language model such as embedded."
)

DRAWS_NOT_BY_TEXT = Problem(
    InvalidStudy,
    "ranks.draws-not-by-text",
    "the model draws random numbers in training that afina cannot draw for each text, so the result would depend on "
    "the number of processes. Set the dropout in the settings of the method to 0, choose another method, or train "
    "with one process.",
)

FAMILY_WITHOUT_TOKEN_CLASSIFIER = Problem(
    InvalidStudy,
    "backbone.family-unsupported",
    "{where}: transformers has no token classifier for models of type {family}. Choose a backbone of one of the types "
    "{known}.",
)

_backbone_missing = partial(Problem, NotFound, "backbone.missing")
ADDRESS_TOO_LONG = _backbone_missing(
    "backbone {backbone}...: found {length:,} characters, expected at most {most:,}. Give a directory that "
    "save_pretrained wrote, or an id on the Hub."
)
DIRECTORY_MISSING = _backbone_missing(
    "backbone {backbone}: there is no directory {path}. Give a directory that save_pretrained wrote."
)
CONFIG_MISSING = _backbone_missing("backbone {backbone}: no config.json in {path}. Give {expected}.")

_backbone_unreadable = partial(Problem, NotFound, "backbone.unreadable")
TENSOR_MISSING = _backbone_unreadable(
    "backbone {backbone}: the weight files have no {tensor} of the size in config.json. Copy the backbone again, "
    "or save it again with save_pretrained."
)
FILE_UNREADABLE = _backbone_unreadable(
    "backbone {backbone}: {_part} cannot be opened ({reason}). Copy the backbone again, or save it again with "
    "save_pretrained."
)
SHARDING_NEEDS_SAFETENSORS = _backbone_unreadable(
    "backbone {backbone}: its weights are not in safetensors files, so a rank cannot read only its part of them. Save "
    "the backbone again with save_pretrained, or train without `shard`."
)
OUTPUT_EMBEDDING_MISSING = _backbone_unreadable(
    "backbone {backbone}: the weight files have no {tensor}, so the backbone cannot answer in words. The files "
    "were not saved from a causal language model. Copy the backbone again, or set head=random."
)

_backbone_unsupported = partial(Problem, InvalidStudy, "backbone.unsupported")
FAMILY_UNKNOWN = _backbone_unsupported("{where}: models of type {family!r} are not supported. Supported: {known}.")
FAMILY_REFUSED = _backbone_unsupported("{where}: models of type {family!r} are not supported: {reason}.")
SIZE_INVALID = _backbone_unsupported(
    "{where}: {field} is {found}, expected an integer of at least 1. Copy config.json from the backbone again."
)
WEIGHTS_QUANTISED = _backbone_unsupported(
    "backbone {backbone}: the weights are saved quantised ({found}). Give the model with float weights; "
    "`precision` says how afina stores them, such as nf4."
)
SLOW_TOKENIZER = _backbone_unsupported(
    "backbone {backbone}: afina needs a fast (Rust) tokenizer, this one has none. Choose another backbone."
)
POSITIONS_UNSUPPORTED = _backbone_unsupported(
    "backbone {backbone}: the position encoding {rope_type!r} is not supported: a long text would change the "
    "results of other texts in its batch. Choose another backbone."
)
CONFIG_VALUE_UNSUPPORTED = _backbone_unsupported(
    "backbone {backbone}: config.json has {field}={found}, expected {expected}. Choose another backbone."
)

BITSANDBYTES_MISSING = Problem(
    NotFound, "extra.missing", "weights in nf4 need bitsandbytes: pip install 'afina[quant]'"
)

_metric_inapplicable = partial(Problem, InvalidStudy, "metric.inapplicable")
METRIC_OF_OTHER_KIND = _metric_inapplicable(
    "`metric` {metric}: not available for the task's kind, {kind}{_hint}. Give one of {known}."
)
METRIC_NOT_A_MEAN = _metric_inapplicable(
    "`metric` {metric}: {found} is not a mean over texts, so methods cannot be compared by it. The report shows "
    "it in any case. Give another metric."
)

_model_config_unusable = partial(Problem, InvalidStudy, "model.config-unusable")
PROBLEM_TYPE_UNKNOWN = _model_config_unusable(
    "{where}: problem_type is {found!r}, expected one of {known}. Correct it there."
)
TAGS_UNUSABLE = _model_config_unusable(
    "{where}: id2label is {found!r:.200}, expected O, and B- and I- of each label. Rename the tags there, or train an "
    "adapter."
)
PROBLEM_TYPE_CONTRADICTORY = _model_config_unusable(
    "{where}: problem_type is {found} with {labels} labels; expected one output for regression, two or more for "
    "multi_label_classification. Correct it there."
)

_option_inapplicable = partial(Problem, InvalidStudy, "option.inapplicable")
PRECISION_OF_MANIFEST = _option_inapplicable(
    "{path}: the manifest says that the adapter was trained on weights in {expected}, not in {found}. Leave "
    "`precision` out."
)
DECODING_INAPPLICABLE = _option_inapplicable(
    "`{option}`: an adapter of kind {kind} does not generate its answers. Leave it out."
)
KIND_LACKS = _option_inapplicable("`{option}`: tasks of kind {kind} have no {_lacking}. Leave it out.")
DISTILLATION_INAPPLICABLE = _option_inapplicable(
    "`teacher`: a student learns from its teacher's probabilities or numbers, and a teacher of kind {kind} has none. "
    "Leave `teacher` out."
)
UNUSED_BY_RANDOM_HEAD = _option_inapplicable(
    '`{option}`: a head that is "random" does not use it. Leave out `{option}`, or `head`.'
)

TEMPLATE_OF_ENTITIES = _option_inapplicable(
    "`template`: words of a template would get tags like words of the text, so tasks of kind {kind} have no template. "
    "Leave it out."
)
PAIRS_OF_ENTITIES = Problem(
    InvalidStudy,
    "task.pairs-unsupported",
    "a task of kind {kind} has single texts, found pairs of texts. Leave out `text_pair`.",
)

_option_invalid = partial(Problem, InvalidStudy, "option.invalid")
TOKEN_UNKNOWN = _option_invalid(
    "`{option}`: found {_tokens}, not in the model's vocabulary of {_size} tokens, whose ids are 0 to {most}. Give ids "
    "of the model's own tokenizer."
)
DECODING_INVALID = _option_invalid("`{option}` {found!r}: {expected} Give another value.")

PREDICTIONS_CHANGED = Problem(
    InvalidData,
    "results.changed",
    "{path}: the file was changed after it was recorded. Remove the file, and run the study again.",
)

PREDICTIONS_DAMAGED = Problem(
    InvalidData,
    "results.damaged",
    "{path}: the file is missing or damaged. Run the study again; it computes missing files again.",
)

WORDS_AMBIGUOUS = Problem(
    InvalidStudy,
    "words.ambiguous",
    "`words`: {earlier!r} of {other!r} and {word!r} of {label!r} begin with the same token, {token!r}, so the "
    "model cannot tell the labels apart. Give other words with `words`.",
)

_words_missing = partial(Problem, InvalidStudy, "words.missing")
LABELS_ARE_NO_WORDS = _words_missing(
    "the labels {labels} are not words that a language model could answer with. Give words for each label with `words`."
)
LABEL_WITHOUT_WORDS = _words_missing(
    "`words`: label {label!r} has no words. Give a list of at least one word for every label."
)
