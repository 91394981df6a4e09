"""The errors of `afina.methods`, with their codes and sentences."""

from __future__ import annotations

from afina.errors import CorruptAdapter, InvalidStudy, Problem, WrongBackbone
from afina.problems import AGAIN

PEFT_FILE_CONTRADICTORY = Problem(
    CorruptAdapter,
    "adapter.file-malformed",
    "{path}: {reason}. With peft, the adapter would give other answers. " + AGAIN,
)

TENSORS_MISMATCH = Problem(
    CorruptAdapter, "adapter.tensors-mismatch", "the adapter {found} ({missing} missing, {unknown} unknown tensors)."
)
SHAPE_MISMATCH = Problem(
    CorruptAdapter,
    "adapter.tensors-mismatch",
    "the adapter's {tensor} has shape [{found}], this model's has [{expected}].",
)
NO_TENSOR = Problem(
    CorruptAdapter,
    "adapter.tensors-mismatch",
    "the adapter has no tensor of method {method}. Copy the adapter again, or train it again.",
)
VIRTUAL_TOKENS_MISMATCH = Problem(
    CorruptAdapter,
    "adapter.tensors-mismatch",
    "the adapter's {tensor} has shape [{found}], but method {method} has {tokens:,} virtual tokens. Copy the "
    "adapter again, or train it again.",
)

FROZEN_TENSOR_DIFFERS = Problem(
    WrongBackbone,
    "backbone.mismatch",
    "the adapter's file has the frozen {tensor}, and the backbone has other values there. Name the backbone that "
    "the adapter was trained on.",
)

LORA_INIT_CHANGES_BACKBONE = Problem(
    InvalidStudy,
    "method.changes-backbone",
    "method lora: init={init!r} changes the backbone's weights, but all methods have to share the same backbone. "
    "Choose one of {known}.",
)
PEFT_CHANGES_BACKBONE = Problem(
    InvalidStudy,
    "method.changes-backbone",
    "method peft: {type} with these settings changes the backbone's weights, but all methods have to share the "
    "same backbone. Choose another initialisation.",
)

CHANGES_LOGITS = Problem(
    InvalidStudy,
    "method.changes-logits",
    "method {method}: attaching changes the logits by {change:.1e} of the largest logit, expected at most "
    "{most:.0e}. What the method adds has to start without effect, such as LoRA's B at zero.",
)

VIRTUAL_TOKENS_IN_ENCODER = Problem(
    InvalidStudy,
    "method.family-unsupported",
    "method {method}: models of type {family} are encoders, whose heads read a text's first token. Virtual "
    "tokens would take its place. Use lora, which trains as few parameters.",
)
NO_BIASES = Problem(
    InvalidStudy,
    "method.family-unsupported",
    "method {method}: models of type {family} have no biases. Use layernorm, which trains about as few "
    "parameters, or lora.",
)
FAMILY_UNSUPPORTED = Problem(
    InvalidStudy,
    "method.family-unsupported",
    "method {method}: defined for {known} only, but this backbone is of type {family}. Use `prelayer`.",
)

HEAD_WITHOUT_LABELS = Problem(
    InvalidStudy,
    "method.head-missing",
    "method {method}: the method is a classification head on the frozen model, but a task of kind text is "
    "answered by the language model itself, which has no such head. {_instead}",
)

PACKAGE_UNUSABLE = Problem(
    InvalidStudy,
    "method.package-unusable",
    "{where}: method {method} of another package cannot be used: {reason}. Correct that package.",
)

NEEDS_FLOATS = Problem(
    InvalidStudy,
    "method.precision-unsupported",
    "method {method}: the method needs the backbone's weights as floats, but precision {precision} stores them "
    "in another form. Use another method, or leave `precision` out.",
)
TRAINS_HELD_WEIGHT = Problem(
    InvalidStudy,
    "method.precision-unsupported",
    "method {method}: the method trains {parameter}, a matrix of the backbone, but with precision {precision} "
    "the backbone's matrices stay frozen. Leave `precision` out, or use a method that adds to frozen weights, "
    "such as lora.",
)
PEFT_TYPE_NEEDS_FLOATS = Problem(
    InvalidStudy,
    "method.precision-unsupported",
    "the adapter's peft type {type} needs the backbone's weights as floats. On weights in another precision, "
    "afina opens {known}. If the adapter was trained on floats, leave `precision` out.",
)
TRAINS_FROZEN_MATRIX = Problem(
    InvalidStudy,
    "method.precision-unsupported",
    "method {method}: the method trains {parameter}, which this `precision` keeps frozen. Leave `precision` out, "
    "or use a method that adds to frozen weights, such as lora.",
)

MULTIPLIER_INVALID = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "{where}.{setting} = {found!r}: expected a number above 0 and below {most:g}.",
)
SETTING_INVALID = Problem(InvalidStudy, "method.setting-invalid", "{_place}{method}.{setting} = {found!r}: {expected}")
SETTINGS_NOT_A_TABLE = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "{_place}{method}.{setting} = {found!r}: expected a table of its hyperparameters.",
)
ADAPTER_SETTINGS = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "method adapter: reduction={reduction}, scale={scale}; expected reduction >= 1 and 0 < scale <= {most:,.0f}.",
)
IA3_FEEDFORWARD = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "method ia3: feedforward {feedforward!r} is not a target. Add it to `targets`.",
)
VERA_SETTINGS = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "method vera: r={r}, d_initial={d_initial}, dropout={dropout}; expected 1 <= r <= {most:,}, 0 <= dropout < 1 "
    "and a d_initial other than 0.",
)
VERA_KEY = Problem(InvalidStudy, "method.setting-invalid", "method vera: key={key}; expected a seed of at least 0.")
POOLING_OF_FILES_UNUSABLE = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "{path}: {found}, expected a Transformer, a Pooling by the first, last or mean token, and optionally a "
    'Normalize. Set pooling to "family", "first", "last" or "mean".',
)
NORMALIZE_BEFORE_OWN_LAYERS = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "method {method}: normalize is true, but the head of {family} has further layers behind its own pooling. Set "
    'pooling to "first", "last" or "mean".',
)
PROBE_NOT_EXPORTABLE = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "its {found}, which transformers' classifier of this family does not compute. For export, fit the probe with "
    'pooling = "family" and normalize = false.',
)
POOLING_FIRST_OF_DECODER = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "method {method}: pooling is first, but in a model of type {family}, a text's first token sees no other "
    'token. Set pooling to "family", "last" or "mean".',
)
LORA_SETTINGS = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "method lora: r={r}, alpha={alpha}, dropout={dropout}; expected r >= 1, 0 < alpha <= {most:,.0f} and 0 <= "
    "dropout < 1.",
)
LORA_PLUS = Problem(
    InvalidStudy, "method.setting-invalid", "method lora: plus={plus}; expected 0 < plus <= {most:,.0f}. 16 is usual."
)
LORA_INIT_UNKNOWN = Problem(
    InvalidStudy, "method.setting-invalid", "method lora: init={init!r}; expected one of {known}."
)
LORA_ORTHOGONAL_ODD = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "method lora: init='orthogonal' with r={r}: expected an even r, because A and B each get half of the rows of "
    "an orthogonal matrix. Choose an even r.",
)
RANK_TOO_LARGE = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "method {method}: r is {r:,}, but the widest adapted layer has {widest:,} inputs or outputs. A larger rank "
    "adds nothing. Choose a smaller r; 4 to 64 are usual.",
)
TOKENS_INVALID = Problem(
    InvalidStudy, "method.setting-invalid", "method {method}: tokens={tokens}; expected at least 1."
)
TOKENS_TOO_MANY = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "method {method}: tokens is {tokens:,}, but this model takes {most:,} tokens at once, so no room would be "
    "left for a text. Set fewer; 8 to 32 are usual.",
)
LAYER_DECAY_INVALID = Problem(
    InvalidStudy, "method.setting-invalid", "method full: layer_decay={layer_decay}; expected 0 < layer_decay <= 1."
)
BLOCKS_INVALID = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "method last: blocks={blocks}; expected at least 1. To train only the head, use method `head`.",
)
BLOCKS_TOO_MANY = Problem(
    InvalidStudy,
    "method.setting-invalid",
    "method {method}: blocks is {blocks:,}, but this model has {found}. Set fewer, or use method `full`, which "
    "also trains the embeddings.",
)

PART_TWICE = Problem(
    InvalidStudy, "method.sum-contradiction", "{_place}method {method}: {part} is named twice. Leave one out."
)
PART_WITHOUT_EFFECT = Problem(
    InvalidStudy, "method.sum-contradiction", "method {method}: {part} {reason}. Leave it out."
)
BOTH_WRAP = Problem(
    InvalidStudy, "method.sum-contradiction", "method {method}: {parts} both wrap the model with peft. Leave one out."
)
BOTH_TRAIN = Problem(
    InvalidStudy, "method.sum-contradiction", "method {method}: {parts} both train {parameter}. Leave one out."
)
TRAINS_WHAT_ANOTHER_ADDS_TO = Problem(
    InvalidStudy,
    "method.sum-contradiction",
    "method {method}: {part} trains {parameter}, but another part adds to the same weight. Leave one out, or "
    "name other targets.",
)

TARGET_MISSING = Problem(
    InvalidStudy,
    "method.target-missing",
    "method {method}: targets: this model has no module named {target!r}. The default for {family} is {usual}.",
)

TRAINS_WRONG = Problem(
    InvalidStudy,
    "method.trains-wrong",
    "method {method}: {trained} of this model would train. Name parameters or modules of this model.",
)
HEAD_NOT_TRAINED = Problem(
    InvalidStudy,
    "method.trains-wrong",
    "method {method}: the head would not train, so it would stay random. Let the head require gradients (in "
    'peft: task_type="SEQ_CLS", or modules_to_save), or set trains_head to False.',
)
TRAINS_FROZEN = Problem(
    InvalidStudy,
    "method.trains-wrong",
    "method {method}: {parameter} would train, one of {count} parameters that the method states are frozen. "
    "Freeze these parameters in `attach`.",
)

CANNOT_MERGE = Problem(InvalidStudy, "peft.cannot-merge", "peft cannot merge it into the weights ({reason}).")

SETTINGS_UNUSABLE = Problem(InvalidStudy, "peft.settings-unusable", "method {method}: {reason}")
PEFT_SETTING_UNUSABLE = Problem(
    InvalidStudy, "peft.settings-unusable", "the adapter's peft setting {setting} is {found!r}: {reason}."
)
PEFT_SETTINGS_UNUSABLE = Problem(
    InvalidStudy, "peft.settings-unusable", "the adapter's peft settings cannot be used ({reason})."
)
PEFT_SETTING_TOO_LARGE = Problem(
    InvalidStudy,
    "peft.settings-unusable",
    "the adapter's peft settings cannot be used: {found:g} is larger than a float32. Correct them.",
)
PEFT_VIRTUAL_TOKENS_INVALID = Problem(
    InvalidStudy,
    "peft.settings-unusable",
    "the adapter's peft settings have num_virtual_tokens {found!r:.40} and num_transformer_submodules "
    "{submodules!r:.40}. Expected a number of tokens, and one module.",
)
PEFT_SETTINGS_UNREADABLE = Problem(
    InvalidStudy, "peft.settings-unusable", "the adapter's peft settings cannot be read ({reason})."
)
PEFT_SETTING_OWNED = Problem(
    InvalidStudy, "peft.settings-unusable", "method peft: {type}.{setting} {reason}. Leave it out."
)
PEFT_CONFIG_UNUSABLE = Problem(
    InvalidStudy,
    "peft.settings-unusable",
    "method peft: the settings of {type} cannot be used ({reason}). Correct the settings.",
)
PEFT_NOT_ATTACHABLE = Problem(
    InvalidStudy, "peft.settings-unusable", "method peft: {type} cannot be attached ({reason}). Correct the settings."
)
VOCABULARY_RESIZED = Problem(
    InvalidStudy,
    "peft.settings-unusable",
    "the adapter's {tensor} has shape [{found}], the backbone's has [{expected}]: the vocabulary was resized for the "
    "adapter. afina opens adapters of models whose vocabulary is that of their tokenizer's backbone.",
)
PEFT_SETTING_UNKNOWN = Problem(
    InvalidStudy,
    "peft.settings-unusable",
    "the adapter's peft setting {setting} is {found!r}: the installed peft does not know this setting of {type}, "
    "and would ignore it. Install a later version of peft.",
)

PEFT_TYPE_NOT_OPENED = Problem(
    InvalidStudy,
    "peft.type-unsupported",
    "the adapter's peft type {type} is not supported: {reason}. afina opens types that change the model's "
    "layers, such as LORA and IA3.",
)
PEFT_TYPE_NOT_TRAINED = Problem(
    InvalidStudy, "peft.type-unsupported", "method peft: afina does not train type {type}: {reason}."
)
PEFT_TYPE_NOT_INSTALLED = Problem(
    InvalidStudy,
    "peft.type-unsupported",
    "method peft: the installed peft has no type {type}. Install a later version of peft.",
)
PREFIX_IN_WINDOW = Problem(
    InvalidStudy,
    "peft.type-unsupported",
    "the adapter's peft type PREFIX_TUNING cannot be opened on this model: a token attends to the last {window} "
    "tokens only. peft counts the prefix among them, and afina does not.",
)
