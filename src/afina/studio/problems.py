"""The errors of the studio, each with its exception class, code, fields and message."""

from __future__ import annotations

from functools import partial

from afina.errors import Busy, Conflict, CorruptAdapter, InvalidData, NotFound, Problem, Refused, RunFailed

FOLDER_INVALID = Problem(
    NotFound, "studio.folder-invalid", "{folder}: the studio cannot use this folder: {reason}. Give another folder."
)
FOLDER_OCCUPIED = Problem(
    Busy,
    "studio.folder-occupied",
    "{folder}: another `afina studio` has this folder open. Use its page, stop it, or give another folder.",
)
_studio_missing = partial(Problem, NotFound, "studio.missing")
PROJECT_MISSING = _studio_missing("there is no project {project!r:.60} in {folder}.")
RUN_MISSING = _studio_missing("project {project} has no run {run!r:.20}.")
TEST_MISSING = _studio_missing("run {run} has no test {test!r:.20}.")
NO_ADAPTER = _studio_missing(
    "run {run} has no adapter to use: it recommends a baseline without one, or the adapter was removed, or the answer "
    "is not computed yet. Open the answer of the run first."
)
PAGE_MISSING = _studio_missing("there is no page at this address.")

STUDIO_ENDS = Problem(Busy, "studio.ends", "the studio ends, so this was not done. Start it again, and try again.")
CONNECTIONS_FULL = Problem(
    Busy, "studio.connections-full", "the studio answers too many pages at once. Close some of them, and try again."
)
UPLOAD_TOO_LARGE = Problem(
    Refused,
    "studio.upload-too-large",
    "the upload has more than {limit:g} MB. Put the file on this machine and give its path as the address, or start "
    "the studio with a larger `upload_limit`.",
)
PATH_OUTSIDE = Problem(
    Refused,
    "studio.path-outside",
    "{found!r:.200} names no data set and no model, and of the paths of its machine the studio reads {_folder} for its "
    "pages. Upload a file. Whoever starts the studio allows a folder with `files`.",
)
_upload = partial(Problem, InvalidData, "studio.upload-invalid")
NO_FILE = _upload("no file was sent. Choose a file, or give an address.")
SUFFIX_UNKNOWN = _upload("{found!r:.80}: its suffix is none of a file of texts. Give a file with one of: {expected}.")
FORM_MALFORMED = _upload("the form is malformed: {reason}.")
UPLOAD_STALLED = Problem(
    Refused, "studio.upload-stalled", "nothing of the form has arrived for {seconds} seconds. Send it again."
)
FIELD_MISSING = Problem(InvalidData, "studio.field-missing", "the field {field} is empty. Fill it in.")
ENTITIES_MALFORMED = Problem(
    InvalidData,
    "studio.entities-malformed",
    "the entities are {found!r:.100}. Expected a JSON list of objects with start, end and label, "
    "whose labels are among {expected}, and whose places are in the text and do not overlap.",
)
CHOICE_UNKNOWN = Problem(
    InvalidData, "studio.choice-unknown", "the field {field} is {found!r:.60}. Expected one of: {expected}."
)
OUT_OF_RANGE = Problem(
    InvalidData,
    "studio.out-of-range",
    "the field {field} is {found:g}. Give a number above {least:g} and up to {most:g}.",
)
ENCODER_CHOSEN = Problem(
    InvalidData,
    "studio.encoder-chosen",
    "the pretrained model {backbone} is an encoder, which cannot write texts, and this project learns to write texts. "
    "Choose a language model, such as embedded.",
)
NOT_A_NUMBER = Problem(InvalidData, "studio.not-a-number", "the field {field} is {found!r:.40}, not a number.")

_studio_refused = partial(Problem, Refused, "studio.refused")
HOST_REFUSED = _studio_refused("the studio does not answer requests for the host {found!r:.100}. Open {expected}.")
ORIGIN_REFUSED = _studio_refused(
    "a page of another address ({found!r:.100}) has sent this request. Nothing was changed."
)
SIGNED_OUT = _studio_refused(
    "this browser is not signed in. Open the address that `afina studio` printed when it started. Its token works "
    "once: a browser that is signed in shows a link with another, and the studio prints one when it starts again."
)
PASSWORD_ASKED = _studio_refused(
    "this browser is not signed in. Open the studio's page and give its password, or the link of "
    "a browser that is signed in."
)
TOKEN_USED = _studio_refused(
    "this token was used, or is not of this studio. A browser that is signed in shows a link with a new one, and "
    "`afina studio` prints one when it starts."
)
PASSWORD_WRONG = _studio_refused("the password is wrong.")
TOO_MANY_TRIES = Problem(
    Refused, "studio.tries-exhausted", "there were too many wrong passwords. Try again in {seconds} seconds."
)
PASSWORD_MISSING = Problem(
    Refused,
    "studio.password-missing",
    "`host` {host} can be reached from other machines, and {folder} has no password. Set one first "
    "with `set_password`.",
)
PASSWORD_SHORT = Problem(
    InvalidData, "studio.password-short", "a password needs at least {least} characters; this one has {found}."
)
PROJECT_BUSY = Problem(
    Conflict,
    "studio.project-busy",
    "run {run} of {project} is {state}, so the project cannot be deleted. Stop the run first.",
)
RUN_STATE = Problem(Conflict, "studio.run-state", "run {run} is {found}, so it cannot {asked}.")
_studio_damaged = partial(Problem, CorruptAdapter, "studio.damaged")
PROJECT_DAMAGED = _studio_damaged(
    "{path}: the file of the project is damaged: {reason}. Restore the file, or remove the project's folder."
)
RUN_DAMAGED = _studio_damaged("{path}: the file of the run is damaged. Start another run.")
RUN_LOST = Problem(
    RunFailed,
    "studio.run-lost",
    "the process of run {run} was started {starts} times, and was lost each time: something ended the process, or the "
    "machine was stopped. Free memory, and let the run go on.",
)
RUN_KILLED = Problem(
    RunFailed,
    "studio.run-killed",
    "signal {signal} ended the process of run {run}. The usual cause is too little memory. Free memory, and let the "
    "run go on.",
)

_server_state = partial(Problem, Conflict, "studio.server-state")
SERVER_OFF = _server_state("the server does not run. Start it first.")
SERVER_RUNS = _server_state("the server runs with the backbone {backbone}. Stop it first.")
SERVER_PORT_OCCUPIED = Problem(
    Busy,
    "studio.port-occupied",
    "port {port} is in use. Give another port, or leave the field empty for a free one.",
)
STILL_PUBLISHING = Problem(
    Busy, "studio.publishing", "an adapter of {project} is being published. Wait until it is published."
)
ADAPTER_MISSING = _studio_missing("project {project} has no finished run with the adapter {adapter!r:.80}.")
VERSION_MISSING = _studio_missing("{name} has no version {version!r:.20}.")
OWN_KEY = Problem(Refused, "studio.own-key", "key {key} is that of the studio's own pages. Stop the server instead.")
NOTHING_PUBLISHED = _studio_missing(
    "project {project} has no published version. Publish one on the page Keep and serve."
)
NO_CORRECTIONS = _studio_missing("project {project} has no corrections yet.")
DOUBT_MISSING = _studio_missing("project {project} has no such doubtful label. Load the page of doubts anew.")
DECIDED_MEANWHILE = Problem(
    Conflict,
    "studio.decided-meanwhile",
    "this label was decided meanwhile: {found}. Nothing was changed. Load the page of doubts anew to see the decision.",
)
DECISIONS_DAMAGED = _studio_damaged(
    "{path}: the file of decisions about labels is damaged. Restore the file, or remove it and decide again."
)
OTHER_TEXTS_LEFT_OUT = Problem(
    Conflict,
    "studio.other-texts-left-out",
    "project {project} already leaves out the texts of {path}. Empty the field `{field}` of the page Data first; "
    "its list can be one or the other.",
)
LABELLING_DAMAGED = _studio_damaged(
    "{path}: the file of texts to label is damaged. Restore the file, or remove it and choose texts again."
)
TEXT_MISSING = _studio_missing("project {project} has no such text to label. Load the page of texts to label anew.")
COUNT_OF_TEXTS = Problem(
    InvalidData,
    "studio.count-invalid",
    "the number of texts is {found!r:.40}. Give a whole number from 1 to {most}.",
)
DECISION_HELD_OUT = Problem(
    Conflict,
    "studio.decision-held-out",
    "this text is held out: every run is measured on its label, so the label is neither changed nor left out here. If "
    "the label is wrong, correct it in your file, and make a new project of the file.",
)
LABEL_MISSING = Problem(
    InvalidData,
    "studio.label-missing",
    "no text of the project has the label {label!r:.80}. Choose one of {expected}.",
)
SUGGESTION_AMBIGUOUS = Problem(
    InvalidData,
    "studio.suggestion-ambiguous",
    "the suggestion {found!r:.80} cannot be read as labels of the project. Give the right labels on the page Try, and "
    "leave out the text.",
)
VERSIONS_CHOSEN = Problem(
    InvalidData, "studio.versions-chosen", "{found} versions are chosen. Choose between 1 and {most} of them."
)
BACKBONE_UNNAMED = Problem(
    InvalidData,
    "studio.backbone-unnamed",
    "{name} names no backbone, so the studio cannot start a server for it. Choose a file of texts, which needs no "
    "server, or use `afina predict`, whose command is at the end of the page.",
)
NO_ANSWER = Problem(
    Conflict,
    "studio.no-answer",
    "run {run} is {found} and has no results, so there is no answer. Wait until it has ended.",
)
ANSWER_FAILED = Problem(Conflict, "studio.answer-failed", "the answer of run {run} could not be computed: {reason}")
