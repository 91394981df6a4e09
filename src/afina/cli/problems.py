"""The errors of `afina.cli`, each with its exception class, code and message."""

from __future__ import annotations

from functools import partial

from afina.errors import Conflict, InvalidData, InvalidName, InvalidStudy, NotFound, Problem, Refused

COMMAND_OF_TORCHRUN = Problem(
    InvalidStudy,
    "ranks.command-unsupported",
    "`afina {command}` was started as {processes} processes. torchrun can start only `afina train`. Start "
    "`afina {command}` as one process; `afina study` and `afina choose` take `devices`.",
)
OPTION_OF_TORCHRUN = Problem(
    InvalidStudy,
    "option.inapplicable",
    "`{option}` has no effect on processes that torchrun has started. Leave `{option}` out, or start without torchrun.",
)

_argument_invalid = partial(Problem, InvalidData, "argument.invalid")
TEXTS_OR_FILE = _argument_invalid(
    "afina predict: found {found}. Give either texts, or --pair FIRST SECOND, or --file FILE (- for standard input)."
)
TASK_MISSING = _argument_invalid("Missing argument 'FILE': no texts with labels are given. Give a file{_or}.")
TASK_TWICE = _argument_invalid("FILE {found} and `{option}` {other}: two tasks are given. Leave one out.")
WRONG_USAGE = _argument_invalid("{_message}")
GIVEN_TWICE = _argument_invalid("{argument}: is given {count} times. Give the option once.")
ARGUMENT_EMPTY = _argument_invalid("{argument}: is empty. Give a value, or leave it out.")
FILE_NAME_TOO_LONG = _argument_invalid("{found}...: the file name is too long for this system. Give a shorter name.")
NOT_TEXT = _argument_invalid(
    "argument {argument}, {found}: its bytes are not text in this terminal's encoding. Give the argument in "
    "UTF-8. If the argument is a file name, rename the file."
)

CURRENT_DIRECTORY_DELETED = Problem(
    NotFound, "current-directory.deleted", "the current directory was deleted. Change to another directory."
)
DOCSTRINGS_REMOVED = Problem(
    Refused,
    "docstrings.removed",
    "Python removes all docstrings (PYTHONOPTIMIZE=2 or -OO), and transformers reads its own. Unset PYTHONOPTIMIZE, or "
    "set it to 1.",
)

CANARY_CHOICE_MISSING = Problem(
    Refused,
    "canary.choice-missing",
    "found both --promote and --off. Give one: --promote keeps the canary version, --off that in production.",
)

OTHER_THAN_RECOMMENDED = Problem(
    InvalidStudy,
    "train.contradicts-recommendation",
    "`{option}` {found}: {path} recommends {expected}, and its settings were chosen for that. Leave `{option}` out, or "
    "train without `chosen_in`.",
)

_data_option_inapplicable = partial(Problem, InvalidData, "data.option-inapplicable")
COLUMN_WITHOUT_FILE = _data_option_inapplicable(
    "`{option}` {column}: names a column of a `file`, but no file is given. Leave `{option}` out."
)
OPTION_WITHOUT_TASK = _data_option_inapplicable(
    "`{option}`: found without `task`. `{option}` says how the file of `task` is read. Give `task`, or leave "
    "`{option}` out."
)

PACKAGE_MISSING = Problem(
    NotFound, "extra.missing", "`afina serve` needs the package {package}. Install it: pip install 'afina[{extra}]'."
)

_key_missing = partial(Problem, NotFound, "key.missing")
KEY_MISSING = _key_missing(
    "found no key. The server requires a key of scope {scope}. Give --key-file FILE, or set AFINA_KEY."
)
KEY_UNREADABLE = _key_missing(
    "{path}: the key cannot be read ({reason}). Give another file, or set the variable AFINA_KEY."
)

OPTION_OF_DIRECTORIES = Problem(
    InvalidStudy,
    "option.inapplicable",
    "{adapter}: a version is one adapter, so `{option}` cannot be used. Leave `{option}` out.",
)

ALIAS_MISSING = Problem(
    InvalidName,
    "name.alias-missing",
    "{found}: a version number, but servers count the answers of versions with an alias. Give {name}@production, or "
    "another alias.",
)

REFERENCE_MISSING = Problem(
    NotFound,
    "adapter.reference-missing",
    "{version}: the adapter has no counts of its evaluation texts, because it was not trained with this version of "
    "afina. Give evaluation texts with `task`, which are counted now.",
)

VERSION_CHANGED = Problem(
    Conflict,
    "store.version-differs",
    "{version}: the server has another adapter ({found:.19}) than this store ({expected:.19}). Set AFINA_STORE to the "
    "server's store.",
)

SHARE_INVALID = Problem(
    InvalidData, "option.share-invalid", "`{option}` {found}: expected a number between 0 and 1. Give another value."
)

NO_METHOD_SUITS = Problem(
    InvalidStudy,
    "method.family-unsupported",
    "plan: no backbone suits {methods}. The lines above say why. Give another `method` or another `backbone`: "
    "{backbones} were given.",
)

ENDPOINT_WITHOUT_TASK = Problem(
    InvalidStudy,
    "option.missing",
    "`{option}` is given without `{needed}`: the tokens are those of its texts. Give `{needed}`.",
)

_option_invalid = partial(Problem, InvalidStudy, "option.invalid")
BACKBONE_TWICE = _option_invalid("`backbone` {found} is given more than once. Give each backbone once.")
SEVERAL_BACKBONES = _option_invalid(
    "`backbone`: found {found}. This command takes one backbone; `afina study` and `afina choose` compare several."
)
WORDS_MALFORMED = _option_invalid("`words` {found}: expected LABEL=WORD,WORD, such as positive=great,good.")
OPTIONS_NEED_RAY = _option_invalid("{given}: used only with `ray`. Add `ray`, or leave {given} out.")

VERSIONS_DIFFER = Problem(
    Conflict,
    "server.versions-differ",
    "the servers compare different versions. A server notices a moved alias within about a second. Run the "
    "command again.",
)

SHADOW_CHOICE_MISSING = Problem(
    Refused,
    "shadow.choice-missing",
    "found more than one of VERSION, --off and --server. Give one: VERSION begins a comparison, --off ends the "
    "comparison, and --server prints its counts.",
)

STORE_TWICE = Problem(
    InvalidName, "store.address-malformed", "`store`: found two stores, {found!r} and {store!r}. Leave one out."
)

STORE_MISSING = Problem(
    NotFound, "store.missing", "store {store}: there is no store. Give another with `store`, or {_how}."
)
