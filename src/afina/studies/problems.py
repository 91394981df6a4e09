"""Every error of `afina.studies` that a user can cause, each with its exception class, code and message."""

from __future__ import annotations

from functools import partial

from afina.errors import Busy, Diverged, InvalidData, InvalidStudy, NotFound, Problem, Refused, RunFailed

_adapter_ambiguous = partial(Problem, InvalidStudy, "adapter.ambiguous")
SEVERAL_ADAPTERS = _adapter_ambiguous("{path}: several adapters. Choose with `method`: {known}.")
SEVERAL_SETTINGS = _adapter_ambiguous("{path}: {method} was trained with several settings. {_choose}: {known}.")
SEVERAL_BACKBONES = _adapter_ambiguous(
    "{path}: {method} was trained on several backbones.{_others} Choose with `backbone`: {backbones}."
)
_adapter_missing = partial(Problem, NotFound, "adapter.missing")
RUN_WITHOUT_ADAPTER = _adapter_missing("{path}: {_which}{method} has no adapter{_because}.{_instead}")
RUNS_WITHOUT_ADAPTER = _adapter_missing("{path}: no run has an adapter. The methods are {methods}.")
SEED_MISSING = _adapter_missing("{path}: no adapter of {method} with `seed` {seed}. Available seeds: {known}.")

_argument_invalid = partial(Problem, InvalidData, "argument.invalid")
NEXT_COUNT_INVALID = _argument_invalid("`{option}` {found!r}: expected a whole number of at least 1.")
NEXT_COUNT_TOO_LARGE = _argument_invalid(
    "`{option}` {found:,}: {path} has only {texts:,} texts that are not labelled yet. Ask for at most {texts:,}."
)
NEXT_NOTHING_TO_SUGGEST = _argument_invalid(
    "`{option}`: no model can suggest labels, because there are no labelled texts, or because the answers are numbers "
    "or texts. Leave `{option}` out."
)
NOT_ABOVE_ZERO = _argument_invalid("`{argument}` {found}: expected more than 0. {_instead}")
CANDIDATE_BACKBONE_TWICE = _argument_invalid("`backbone`: {_problem}. Give each backbone once.")

KIND_WITHOUT_WORDS = Problem(
    InvalidStudy,
    "ask.kind-unsupported",
    "a task of kind {kind} has no labels with words. Remove the words, and use a random head.",
)

_backbone_encoder_unsupported = partial(Problem, InvalidStudy, "backbone.encoder-unsupported")
ENCODER_ASKED = _backbone_encoder_unsupported(
    "{_table}: backbone {backbone} is an encoder, which cannot be asked in words. {_instead}{_others}."
)
CRF_MISSING = Problem(
    NotFound, "extra.missing", "the baseline CRF needs python-crfsuite. Install it: pip install 'afina[crf]'."
)

ENCODER_NEEDED = Problem(
    InvalidStudy,
    "method.family-unsupported",
    "{_table}: method {method} needs an encoder, but backbone {backbone} is a causal model. Give an encoder such as "
    "bge{_others}, or use lora or linear_probe.",
)
NO_BACKBONE_SUPPORTS_TASK = _backbone_encoder_unsupported("no backbone supports the task: {reason}.")
ENCODER_WITHOUT_RETENTION = _backbone_encoder_unsupported(
    "`retention`: backbone {backbone} of type {family} is an encoder, which predicts no next token, so it has "
    "no language-model loss. Leave `retention` out, or use a causal backbone."
)
ENCODER_CANNOT_WRITE = _backbone_encoder_unsupported(
    "backbone {backbone}: an encoder, which cannot write the texts of {task}. Choose a causal language "
    "model, such as embedded."
)

TOO_SLOW = Problem(
    InvalidStudy,
    "choose.too-slow",
    "`latency` {latency:g}: no model answers a single text in {latency:g} ms on this machine. Measured: "
    "{_measured}. Allow more time, or give a smaller backbone.",
)

_data_changed = partial(Problem, InvalidData, "data.changed")
FILE_CHANGED = _data_changed(
    "{_file}: found digest {found:.19}. Expected {expected:.19}, which the run names. The content changed after the "
    "run was requested; start the run again."
)
FILE_OF_OPTION_CHANGED = _data_changed(
    "`{option}` {path}: the file changed after the run was requested. Start the run again."
)
INPUT_CHANGED = _data_changed(
    "{_input}: its files are not those for which the run was requested. They changed meanwhile, or a process reads "
    "other files. Start the run again, with equal files for all processes."
)
_data_option_inapplicable = partial(Problem, InvalidData, "data.option-inapplicable")
NOTHING_TO_CHOOSE_FROM = _data_option_inapplicable(
    "{path}: the directory has no results of a study, so `{option}` has nothing to choose from. Remove `{option}`."
)
TASK_READ_OTHERWISE = _data_option_inapplicable(
    "task {task}: the task was read with `{option}` {expected!r}, and `data` says {found!r}. Give one of them."
)
_data_type_wrong = partial(Problem, InvalidData, "data.type-wrong")
DATA_NOT_DICT = _data_type_wrong("`data`: found a {found}. Expected a dict, such as {{'label': 'stars'}}.")
TASK_MADE_BY_HAND = _data_type_wrong(
    "task {task}: the task was made by hand, so another process cannot read it. Make it with Task.load or "
    "Task.of, or give it to Run.execute."
)

METRIC_NOT_RECORDED = Problem(
    InvalidStudy,
    "metric.not-recorded",
    "`metric` {metric}: the record of {run} lacks this metric. Train again with `fresh`.",
)
METRIC_UNDEFINED = Problem(
    InvalidData,
    "metric.undefined",
    "task {task}: {_metric} is undefined on the {examples} held-out texts: the metric needs {_needs}. Add such "
    "texts, or set another `metric`.",
)

_option_inapplicable = partial(Problem, InvalidStudy, "option.inapplicable")
COST_WITHOUT_TASK = _option_inapplicable(
    "`{option}` {found}: the cost depends on the lengths of {_texts}. Give a `task`."
)
NO_TEACHER = _option_inapplicable(
    "run {run}: `{option}` has no effect without a `teacher`, from whose outputs the run would learn. Give a "
    "`teacher`, or leave `{option}` out."
)
METHOD_WITHOUT_TEACHER = _option_inapplicable(
    "run {run}: method {method} cannot learn from a teacher's probabilities. Leave `{option}` out, or choose another "
    "method, such as full."
)
FITTED_HEAD = _option_inapplicable(
    "run {run}: `{option}` has no effect on method {method}, whose head scikit-learn fits. Leave `{option}` out, "
    "or set it in the tables of other methods only."
)
ABSTENTION_TEXTS = Problem(
    InvalidStudy,
    "abstention.too-few-texts",
    "`{option}` {error:g}: {found:,} texts are set aside to choose the threshold, and a promise of this error takes at "
    "least {expected:,} right answers without a wrong one. Add about {more:,} training texts, or give a larger "
    "`{option}`.",
)
_option_invalid = partial(Problem, InvalidStudy, "option.invalid")
WATCHER_TYPE = _option_invalid("`watcher`: found a {found}. Expected a Watcher, such as afina.Lines(print).")

_method_products_unsupported = partial(Problem, InvalidStudy, "method.products-unsupported")
PRODUCTS_OF_METHOD = _method_products_unsupported(
    "run {run}: method {method} {_why}, so no product with frozen weights can be in {products}. For this method, "
    "set products to float."
)

PRODUCTS_UNSUPPORTED = Problem(
    InvalidStudy, "products.unsupported", "`products` {products}: {reason}. Set `products` to float."
)

OUT_NOT_DIRECTORY = Problem(
    NotFound,
    "out.not-directory",
    "`out` {path}: cannot create this directory ({reason}). Give a directory that can be written to.",
)
OUT_OCCUPIED = Problem(
    Busy,
    "out.occupied",
    "`out` {path}: another study or recommendation is writing to this directory. Wait until it ends, or give "
    "another `out`.",
)

_plan_too_large = partial(Problem, InvalidStudy, "plan.too-large")
TOO_MANY_STEPS = _plan_too_large(
    "`epochs` {found:,}: the run has {steps:,} steps, but a cost is forecast for at most {most:,} steps. Set "
    "fewer epochs."
)
BATCH_TOO_LARGE = _plan_too_large(
    "`batch_size` {found:,}: with {tokens:,} tokens a text, a batch has more than {most:,} tokens, the most for "
    "which a cost is forecast. Set a smaller batch."
)

_results_changed = partial(Problem, InvalidData, "results.changed")
FILE_EDITED = _results_changed("{path}: the file is not as afina wrote it: {problem}. {_instead}")
RECORD_CHANGED = _results_changed(
    "{where}: the record of {run}, seed {seed}, was changed after it was made: {problem}. Restore the line, or "
    "remove it and run the study again."
)
PREDICTIONS_OF_ANOTHER_RUN = _results_changed(
    "{where}: the predictions do not belong to {run}, seed {seed}: found outputs of shape {_outputs} and targets "
    "of shape {_targets}. Expected {expected} outputs a text. Remove the file, and run the study again."
)
_results_damaged = partial(Problem, InvalidData, "results.damaged")
FILE_DAMAGED = _results_damaged("{path}: the file is missing or damaged. {_instead}")
RECORD_DAMAGED = _results_damaged(
    "{where}: not a record of this version of afina ({_what}: {reason}). Remove this line, or give another `out`."
)
BASELINE_UNKNOWN = Problem(
    InvalidStudy,
    "study.baseline-unknown",
    "`baselines`: found {found!r}, expected {_expected}. `baselines = true` measures the baselines that take seconds.",
)

BASELINE_NOT_A_STUDY = Problem(
    InvalidStudy,
    "results.baseline-recommended",
    "{path}: {method} is recommended, a baseline without a language model. A study file has methods that adapt a "
    "language model; `afina study fair` compares these.",
)
RECOMMENDATION_MISSING = Problem(
    NotFound,
    "results.recommendation-missing",
    "{path}: the directory has no {file}, so `afina choose` has recommended nothing there. Give the `out` of an "
    "`afina choose` that has finished.",
)
RESULTS_MISSING = Problem(
    NotFound,
    "results.missing",
    "{path}: the directory has no {file}, so there is no finished run to show. Give the `out` of a study or a "
    "recommendation.",
)

OUTPUTS_NOT_FINITE = Problem(
    Diverged,
    "run.diverged",
    "after the last step, the weights give NaN or infinite outputs. Lower the learning rate ({learning_rate:g}).",
)
_run_max_length = partial(Problem, InvalidStudy, "run.max-length")
NO_ROOM_FOR_TEXT = _run_max_length(
    "method {method}: its {tokens:,} virtual tokens leave no room for a text. Backbone {backbone} takes at most "
    "{most:,} tokens. Set fewer virtual tokens."
)
MAX_LENGTH = _run_max_length(
    "`max_length` is {found}, but backbone {backbone} takes at most {longest} tokens{_virtual}. Set {most} or less."
)
NAME_INVALID = Problem(
    InvalidStudy,
    "run.name-invalid",
    "{what} {name!r}: the name cannot be part of a file name: {problem}. Use letters, digits, spaces, and "
    "characters such as - and _.",
)

ENDPOINT_INCOMPLETE = Problem(
    InvalidStudy,
    "endpoint.incomplete",
    "an endpoint: `{missing}` is missing. Give both `url` and `model`.",
)

TEXTS_NOT_SENT = Problem(
    Refused,
    "run.texts-not-sent",
    "run {run}: this run would send {_told}. Give `{option}` to allow this. Nothing was sent.",
)

_study_contradiction = partial(Problem, InvalidStudy, "study.contradiction")
BOTH_GIVEN = _study_contradiction("{where}: {_first} and {_second} cannot both be given. Remove one of them.")
SAME_ON_ALL_BACKBONES = _study_contradiction(
    "{where}.by_backbone: {key} cannot differ between backbones. Add another table of the method."
)
BACKBONE_UNUSED = _study_contradiction(
    "{where}: no method runs on backbone {backbone}{_why}. Remove this backbone, or add a method for it."
)
SEARCH_WITHOUT_TUNE = _study_contradiction(
    "{where}: methods.{method}.search has no effect without a [tune] section. Add a [tune] section, or remove search."
)
VALIDATION_AND_TUNE = _study_contradiction(
    "{where}: data.validation cannot be combined with a [tune] section. Set tune.validation instead."
)
BUDGET_DIFFERS = _study_contradiction(
    "{where}, methods.{method}: {key} differs from the other methods, so a budget in steps would not be the same "
    "for all. Set train.{key} instead."
)
HEAD_OF_METHOD = _study_contradiction("{where}: {method} {_has} by definition. Remove {key}.")
PRICES_DIFFER = _study_contradiction(
    "{where}: {method} and {other} ask the same model in the same way, and have different prices. Set the same "
    "`price_in` and `price_out` for both, or remove one of them."
)
_study_of_endpoint = partial(Problem, InvalidStudy, "study.key-of-endpoint")
KEY_OF_ENDPOINT = _study_of_endpoint(
    "{where}: {key} has no effect on method {method}, which asks a model behind an API. Remove {key}."
)
BACKBONE_OF_ENDPOINT = _study_of_endpoint(
    "run {run}: method {method} asks {expected}, so `backbone` {found} would not be used. Leave `backbone` out."
)
SEND_TEXTS_IN_FILE = Problem(
    InvalidStudy,
    "study.consent-in-file",
    "{where}: {key} cannot be a key of a study, because a study file could then send the texts of its user. Give "
    "`send_texts` when the study is run.",
)
_study_key_missing = partial(Problem, InvalidStudy, "study.key-missing")
KEY_MISSING = _study_key_missing("{where}: {key} is missing. Add this key{_or_other}.")
_teacher_invalid = partial(Problem, InvalidStudy, "study.teacher-invalid")
TEACHER_CIRCLE = _teacher_invalid(
    "{where}: `teacher` {found}: {_circle}, so no run can be the first. Name another teacher for {method}."
)
TEACHER_UNKNOWN = _teacher_invalid(
    "{where}: `teacher` {found!r}: no such directory{_no_table}. {_guess}Give the directory of a trained "
    "adapter{_tables}."
)
TEACHER_OF_SEVERAL = _teacher_invalid(
    "`teacher` {found}: the directory holds several adapters. Give the directory of one of them, such as {known}."
)
TEACHER_AMBIGUOUS = _teacher_invalid("{where}: `teacher` {found} runs on several backbones. Choose one of {known}.")
TEACHER_WITHOUT_ADAPTER = _teacher_invalid(
    "{where}: `teacher` {found}: method {method} gives no adapter, whose probabilities a student could learn. Name "
    "another method."
)
TEACHER_NOT_STRING = _teacher_invalid(
    "{where}: `teacher` {found!r}: expected the name of another table of the study, or the directory of an adapter."
)
TEACHER_FAILED = Problem(
    InvalidStudy,
    "study.teacher-failed",
    "run {run}: its teacher {teacher} has no adapter, because the teacher's run failed. Start the study again.",
)
UNLABELLED_WITHOUT_TEACHER = Problem(
    InvalidStudy,
    "study.unlabelled-unused",
    "{where}: `unlabelled` needs `teacher`, the directory of a trained adapter{_or_method}.",
)
KEY_UNKNOWN = Problem(InvalidStudy, "study.key-unknown", "{where}: unknown key {key!r}. Did you mean {nearest!r}?")
_study_malformed = partial(Problem, InvalidStudy, "study.malformed")
STUDY_NOT_TABLE = _study_malformed("{where}: found {found!r:.80}. Expected a table of fields by name, such as methods.")
NO_METHODS = _study_malformed("{where}: no methods. Add a table such as [methods.lora]. Known methods: {known}.")
NOT_TOML = _study_malformed("{path}: not valid TOML: {reason}.")
STUDY_MISSING = Problem(
    NotFound,
    "study.missing",
    "study file {path} does not exist. Give an existing file, or one of the presets: {known}.",
)
_study_override_malformed = partial(Problem, InvalidStudy, "study.override-malformed")
OVERRIDE_MALFORMED = _study_override_malformed("`overrides` {found}: expected key=value, such as `epochs`=1.")
OVERRIDE_TOO_DEEP = _study_override_malformed("`overrides` {found}...: arrays or tables are nested too deeply.")
OVERRIDE_TWICE = _study_override_malformed(
    "`overrides` {key}: the key is given more than once, here or by an option of its own. Give each key once."
)
OVERRIDE_OF_VALUE = _study_override_malformed(
    "`overrides` {found}: {key} is a value, not a table, so it has no keys. Set {key} itself."
)
_study_value_invalid = partial(Problem, InvalidStudy, "study.value-invalid")
FORM_WRONG = _study_value_invalid("{_place} = {found!r}: expected {_expected}.")
GIVEN_TWICE = _study_value_invalid(
    "{_what} is given more than once, which would repeat the same runs. Give each {_kind} once."
)
SEED_OF_RUN = _study_value_invalid("run {run}: `seed` is {seed}. Expected an integer from 0 to 2**63 - 1.")
VALUE_INVALID = _study_value_invalid("{where}: {key} = {found!r}: {expected}")
NOTHING_TO_TUNE = _study_value_invalid("{where}: method {method} has nothing to tune. Remove search.")

RANKS_UNLIKE = Problem(
    RunFailed,
    "ranks.unlike",
    "process {rank} of the run differs from process 0: {what} is {found}, expected {expected}. Give all processes the "
    "same files, the same versions of packages and the same kind of device.",
)
NOT_SHARDED = Problem(
    InvalidStudy,
    "ranks.not-sharded",
    "{option}: with `shard`, no process has the backbone's whole weights, which this setting needs. Leave {option} "
    "out, or train without `shard`.",
)
RANKS_WITHOUT_USE = Problem(
    InvalidStudy,
    "ranks.unused",
    "`method` {method} computes nothing here, so {ranks} processes cannot share its work. Start one process.",
)

VALIDATION_METRIC_UNDEFINED = Problem(
    RunFailed,
    "tune.metric-undefined",
    "run {run}: the metric that chooses a candidate is undefined on the validation split. Raise tune.validation, "
    "or set another `metric`.",
)
NO_CANDIDATE = Problem(
    RunFailed,
    "tune.no-candidate",
    "run {run}: none of the {candidates} candidates took all steps. Lower methods.{run}.search.learning_rate, or raise "
    "tune.candidates.",
)

DOUBTS_INAPPLICABLE = Problem(
    InvalidStudy,
    "doubts.kind-unsupported",
    "a task of kind {kind} has texts to write, and many different texts can be right, so none can be called doubtful. "
    "Give a task with classes, labels or numbers.",
)
FOLDS_INVALID = Problem(
    InvalidStudy, "doubts.folds-invalid", "`folds` {found}: expected a number of folds from 2 to {most}."
)
TOO_FEW_TO_CROSS_FIT = Problem(
    InvalidData,
    "doubts.too-few-texts",
    "{task}: found {texts} labelled texts, expected {least} or more. So few labels are checked faster by reading them.",
)
ONE_LABEL_TO_CROSS_FIT = Problem(
    InvalidData,
    "doubts.one-label",
    "{task}: in {folds} folds, there are too few different texts of all labels but one to learn a difference. Add "
    "texts of the other labels.",
)
LABEL_IN_ONE_FOLD = Problem(
    InvalidData,
    "doubts.label-in-one-fold",
    "{task}: all texts of the label {label!r} are equal, nearly equal or only one, so a run without these texts cannot "
    "learn the label. Add texts of this label, or give `method` {method}.",
)
DOUBTS_OF_ENDPOINT = Problem(
    InvalidStudy,
    "doubts.method-unsupported",
    "`method` {found}: a model behind an API gives no probabilities, which doubts are ordered by. Give another "
    "`method`, such as linear_probe or lora.",
)
FOLD_FAILED = Problem(RunFailed, "doubts.fold-failed", "fold {fold}: the run {run} failed: {reason}")
FOLDS_WITHOUT_DIRECTORY = Problem(
    InvalidStudy,
    "doubts.directory-missing",
    "`method` {method} is trained in runs, whose results need a directory. Give `out`, or leave `method` out.",
)
FOLDS_OF_WORDS = Problem(
    InvalidStudy,
    "doubts.method-unsupported",
    "`{option}` {found}: doubtful labels of tasks of kind {kind} are found only by {known}. Leave `{option}` and its "
    "settings out.",
)
DOUBTS_MISSING = Problem(NotFound, "doubts.missing", "{path}: there are no doubts. Run `afina doubts` first.")
DOUBTS_DAMAGED = Problem(
    InvalidData, "doubts.damaged", "{path}: the file is damaged or was changed ({reason}). Run `afina doubts` again."
)
