"""The errors of `afina.methods`, each with its exception class, code and message."""

from __future__ import annotations

from functools import partial

from afina.errors import CorruptAdapter, InvalidStudy, Problem, WrongBackbone
from afina.problems import AGAIN

PEFT_FILE_CONTRADICTORY = Problem(
    CorruptAdapter,
    "adapter.file-malformed",
    "{path}: {reason}. With peft, the adapter would give other answers. " + AGAIN,
)

_adapter_tensors_mismatch = partial(Problem, CorruptAdapter, "adapter.tensors-mismatch")
TENSORS_MISMATCH = _adapter_tensors_mismatch("the adapter {found} ({missing} missing, {unknown} unknown tensors).")
SHAPE_MISMATCH = _adapter_tensors_mismatch("the adapter's {tensor} has shape [{found}], this model's has [{expected}].")
NO_TENSOR = _adapter_tensors_mismatch(
    "the adapter has no tensor of method {method}. Copy the adapter again, or train it again."
)
VIRTUAL_TOKENS_MISMATCH = _adapter_tensors_mismatch(
    "the adapter's {tensor} has shape [{found}], but method {method} has {tokens:,} virtual tokens. Copy the "
    "adapter again, or train it again."
)

FROZEN_TENSOR_DIFFERS = Problem(
    WrongBackbone,
    "backbone.mismatch",
    "the adapter's file has the frozen {tensor}, and the backbone has other values there. Name the backbone that "
    "the adapter was trained on.",
)

_method_changes_backbone = partial(Problem, InvalidStudy, "method.changes-backbone")
LORA_INIT_CHANGES_BACKBONE = _method_changes_backbone(
    "method lora: init={init!r} changes the backbone's weights, but all methods have to share the same backbone. "
    "Choose one of {known}."
)
PEFT_CHANGES_BACKBONE = _method_changes_backbone(
    "method peft: {type} with these settings changes the backbone's weights, but all methods have to share the "
    "same backbone. Choose another initialisation."
)

CHANGES_LOGITS = Problem(
    InvalidStudy,
    "method.changes-logits",
    "method {method}: attaching changes the logits by {change:.1e} of the largest logit, expected at most "
    "{most:.0e}. What the method adds has to start without effect, such as LoRA's B at zero.",
)

_method_family_unsupported = partial(Problem, InvalidStudy, "method.family-unsupported")
VIRTUAL_TOKENS_IN_ENCODER = _method_family_unsupported(
    "method {method}: models of type {family} are encoders, whose heads read a text's first token. Virtual "
    "tokens would take its place. Use lora, which trains as few parameters."
)
NO_BIASES = _method_family_unsupported(
    "method {method}: models of type {family} have no biases. Use layernorm, which trains about as few "
    "parameters, or lora."
)
ENCODER_NEEDED = _method_family_unsupported(
    "method {method}: models of type {family} are causal, but the method trains embeddings of an encoder. Give an "
    "encoder such as bge, or use lora or linear_probe."
)
FAMILY_UNSUPPORTED = _method_family_unsupported(
    "method {method}: defined for {known} only, but this backbone is of type {family}. Use `prelayer`."
)

HEAD_WITHOUT_LABELS = Problem(
    InvalidStudy,
    "method.head-missing",
    "method {method}: the method is a classification head on the frozen model, but a task of kind text is "
    "answered by the language model itself, which has no such head. {_instead}",
)

KIND_UNSUPPORTED = Problem(
    InvalidStudy,
    "method.kind-unsupported",
    "method {method}: the task is of kind {kind}, but the method supports only {known}. Use another method, such as "
    "lora or full.",
)

PACKAGE_UNUSABLE = Problem(
    InvalidStudy,
    "method.package-unusable",
    "{where}: method {method} of another package cannot be used: {reason}. Correct that package.",
)

_method_not_sharded = partial(Problem, InvalidStudy, "method.not-sharded")
READS_UNREAD = _method_not_sharded(
    "method {method}: the first value of {parameter} is computed from the backbone's weights, which no rank has whole "
    "with `shard`. Use a method whose first values do not depend on these weights, such as lora, or leave `shard` out."
)
ATTACHES_TO_VALUES = _method_not_sharded(
    "method {method}: attaching the method needs the backbone's weights, which no rank has whole with `shard` "
    "({reason}). Use another method, such as lora, or leave `shard` out."
)
_method_precision_unsupported = partial(Problem, InvalidStudy, "method.precision-unsupported")
NEEDS_FLOATS = _method_precision_unsupported(
    "method {method}: the method needs the backbone's weights as floats, but precision {precision} stores them "
    "in another form. Use another method, or leave `precision` out."
)
TRAINS_HELD_WEIGHT = _method_precision_unsupported(
    "method {method}: the method trains {parameter}, a matrix of the backbone, which `precision` keeps frozen. Leave "
    "`precision` out, or use a method that adds to frozen weights, such as lora."
)
PEFT_TYPE_NEEDS_FLOATS = _method_precision_unsupported(
    "the adapter's peft type {type} needs the backbone's weights as floats. On weights in another precision, "
    "afina opens {known}. If the adapter was trained on floats, leave `precision` out."
)

_method_asks_endpoint = partial(Problem, InvalidStudy, "method.asks-endpoint")
ENDPOINT_WITHOUT_MODEL = _method_asks_endpoint(
    "method {method}: a model behind an API answers, so there is no model to adapt and no adapter to keep. Use the "
    "method in a study or in `afina train`, or name another method."
)
ENDPOINT_IN_SUM = _method_asks_endpoint(
    "method {method}: {part} asks a model behind an API, so {part} cannot be combined with another method. Use {part} "
    "alone."
)

_method_setting_invalid = partial(Problem, InvalidStudy, "method.setting-invalid")
MULTIPLIER_INVALID = _method_setting_invalid(
    "{where}.{setting} = {found!r}: expected a number above 0 and below {most:g}."
)
SETTING_INVALID = _method_setting_invalid("{_place}{method}.{setting} = {found!r}: {expected}")
HYPERPARAMETERS_INVALID = _method_setting_invalid("method {method}: {_found}; expected {_expected}.")
SETTING_MISSING = _method_setting_invalid("{_place}method {method}: `{setting}` is missing. Give {expected}.")
SETTINGS_NOT_A_TABLE = _method_setting_invalid(
    "{_place}{method}.{setting} = {found!r}: expected a table of its hyperparameters."
)
IA3_FEEDFORWARD = _method_setting_invalid(
    "method ia3: feedforward {feedforward!r} is not a target. Add it to `targets`."
)
POOLING_OF_FILES_UNUSABLE = _method_setting_invalid(
    "{path}: {found}, expected a Transformer, a Pooling by the first, last or mean token, and optionally a "
    'Normalize. Set pooling, such as to "mean".'
)
NORMALIZE_BEFORE_OWN_LAYERS = _method_setting_invalid(
    "method {method}: normalize is true, but the head of {family} has further layers behind its own pooling. Set "
    'pooling to "first", "last" or "mean".'
)
PROBE_NOT_EXPORTABLE = _method_setting_invalid(
    "its {found}, which transformers' classifier of this family does not compute. For export, fit the probe with "
    'pooling = "family" and normalize = false.'
)
EMBEDDINGS_NOT_EXPORTABLE = _method_setting_invalid(
    "method {method}: its head reads embeddings with pooling {pooling}, which transformers' classifier of this family "
    "does not compute. For export, train with method full."
)
POOLING_OF_WORDS = _method_setting_invalid(
    "method {method}: pooling is {pooling} and normalize is {normalize}, but for words, the features are the hidden "
    "states of each word's first token. Leave `pooling` and `normalize` out."
)
POOLING_FIRST_OF_DECODER = _method_setting_invalid(
    "method {method}: pooling is first, but in a model of type {family}, a text's first token sees no other "
    'token. Set pooling to "family", "last" or "mean".'
)
LABEL_EXAMPLES_OF_DECODER = _method_setting_invalid(
    "method {method}: label_examples={label_examples:g}, but models of type {family} are causal, and the name of a "
    "label is compared with texts by an encoder of sentences. Set label_examples to 0, or use an encoder such as bge."
)
LORA_ORTHOGONAL_ODD = _method_setting_invalid(
    "method lora: init='orthogonal' with r={r}: expected an even r, because A and B each get half of the rows of "
    "an orthogonal matrix. Choose an even r."
)
RANK_TOO_LARGE = _method_setting_invalid(
    "method {method}: r is {r:,}, but the widest adapted layer has {widest:,} inputs or outputs. A larger rank "
    "adds nothing. Choose a smaller r; 4 to 64 are usual."
)
TOKENS_TOO_MANY = _method_setting_invalid(
    "method {method}: tokens is {tokens:,}, but this model takes {most:,} tokens at once, so no room would be "
    "left for a text. Set fewer; 8 to 32 are usual."
)
DRAW_WITHOUT_SHOTS = _method_setting_invalid(
    "method {method}: draw={draw} has no effect without examples. Give the number of examples with `shots`, such as 16."
)
BLOCKS_TOO_MANY = _method_setting_invalid(
    "method {method}: {_setting} is {_count:,}, but this model has {found} transformer blocks. Set fewer."
)
LAYERS_INVALID = _method_setting_invalid(
    "method {method}: layers = {layers!r}; expected one of {known}, or a number of blocks of at least 1. To train "
    "only the head, use method `head`."
)

_method_sum_contradiction = partial(Problem, InvalidStudy, "method.sum-contradiction")
PART_TWICE = _method_sum_contradiction("{_place}method {method}: {part} is named twice. Leave one out.")
PART_WITHOUT_EFFECT = _method_sum_contradiction("method {method}: {part} {reason}. Leave it out.")
PART_ON_PAIRS = _method_sum_contradiction(
    "method {method}: {part} trains on pairs of texts, and the other methods on single texts. Use {part} alone."
)
BOTH_WRAP = _method_sum_contradiction("method {method}: {parts} both wrap the model with peft. Leave one out.")
BOTH_TRAIN = _method_sum_contradiction("method {method}: {parts} both train {parameter}. Leave one out.")
TRAINS_WHAT_ANOTHER_ADDS_TO = _method_sum_contradiction(
    "method {method}: {part} trains {parameter}, but another part adds to the same weight. Leave one out, or "
    "name other targets."
)

_method_target_missing = partial(Problem, InvalidStudy, "method.target-missing")
TARGET_MISSING = _method_target_missing(
    "method {method}: targets: this model has no module named {target!r}. The default for {family} is {usual}.",
)
TARGET_BELOW_LAYERS = _method_target_missing(
    "method {method}: targets: no module named {target!r} is in the transformer blocks that `layers` selects, which "
    "begin with block {first}. Leave the target or `layers` out."
)

_method_trains_wrong = partial(Problem, InvalidStudy, "method.trains-wrong")
TRAINS_WRONG = _method_trains_wrong(
    "method {method}: {trained} of this model would train. Name parameters or modules of this model."
)
HEAD_NOT_TRAINED = _method_trains_wrong(
    "method {method}: the head would not train, so it would stay random. Let the head require gradients (in "
    'peft: task_type="SEQ_CLS", or modules_to_save), or set trains_head to False.'
)
TRAINS_FROZEN = _method_trains_wrong(
    "method {method}: {parameter} would train, one of {count} parameters that the method states are frozen. "
    "Freeze these parameters in `attach`."
)

CANNOT_MERGE = Problem(InvalidStudy, "peft.cannot-merge", "peft cannot merge it into the weights ({reason}).")

_peft_settings_unusable = partial(Problem, InvalidStudy, "peft.settings-unusable")
SETTINGS_UNUSABLE = _peft_settings_unusable("method {method}: {reason}")
PEFT_SETTING_UNUSABLE = _peft_settings_unusable("the peft setting {setting} is {found!r}: {reason}.")
PEFT_SETTINGS_UNUSABLE = _peft_settings_unusable("the peft settings cannot be used ({reason}).")
PEFT_VIRTUAL_TOKENS_INVALID = _peft_settings_unusable(
    "the peft settings have num_virtual_tokens {found!r:.40} and num_transformer_submodules "
    "{submodules!r:.40}. Expected a number of tokens, and one module."
)
PEFT_TYPE_UNUSABLE = _peft_settings_unusable(
    "method peft: {type} cannot be used with these settings ({reason}). Correct the settings."
)
VOCABULARY_RESIZED = _peft_settings_unusable(
    "the adapter's {tensor} has shape [{found}], the backbone's has [{expected}]: the vocabulary was resized for the "
    "adapter. afina opens adapters of models whose vocabulary is that of their tokenizer's backbone."
)
PEFT_SETTING_UNKNOWN = _peft_settings_unusable(
    "the peft setting {setting} is {found!r}: the installed peft does not know this setting of {type}, "
    "and would ignore it. Install a later version of peft."
)

_peft_type_unsupported = partial(Problem, InvalidStudy, "peft.type-unsupported")
PEFT_TYPE_NOT_OPENED = _peft_type_unsupported(
    "the adapter's peft type {type} is not supported: {reason}. afina opens types that change the model's "
    "layers, such as LORA and IA3."
)
PEFT_TYPE_NOT_TRAINED = _peft_type_unsupported("method peft: afina does not train type {type}: {reason}.")
PEFT_TYPE_NOT_INSTALLED = _peft_type_unsupported(
    "method peft: the installed peft has no type {type}. Install a later version of peft."
)
PREFIX_IN_WINDOW = _peft_type_unsupported(
    "the adapter's peft type PREFIX_TUNING cannot be opened on this model: a token attends to the last {window} "
    "tokens only. peft counts the prefix among them, and afina does not."
)
