"""The errors of the studio, each with its exception class, code, fields and message."""

from __future__ import annotations

from functools import partial

from afina.errors import Busy, Conflict, InvalidData, NotFound, Problem, Refused

FOLDER_OCCUPIED = Problem(
    Busy,
    "studio.folder-occupied",
    "{folder}: another `afina studio` has this folder open. Use its page, stop it, or give another folder.",
)
PORT_LACKS = Problem(
    Busy,
    "studio.port-occupied",
    "port {port} of {host} is in use. Stop the program that uses it, or give another `port`.",
)
_studio_missing = partial(Problem, NotFound, "studio.missing")
PROJECT_MISSING = _studio_missing("there is no project {project!r:.60} in {folder}.")
RUN_MISSING = _studio_missing("project {project} has no run {run!r:.20}.")
PAGE_MISSING = _studio_missing("there is no page at this address.")

UPLOAD_TOO_LARGE = Problem(
    Refused,
    "studio.upload-too-large",
    "the upload has more than {limit} MB. Put the file on this machine and give its path as the address, or start the "
    "studio with a larger `upload_limit`.",
)
_upload = partial(Problem, InvalidData, "studio.upload-invalid")
NO_FILE = _upload("no file was sent. Choose a file, or give an address.")
SUFFIX_UNKNOWN = _upload("{found!r:.80}: its suffix is none of a file of texts. Give a file with one of: {expected}.")
FORM_MALFORMED = _upload("the form is malformed: {reason}.")
FIELD_MISSING = Problem(InvalidData, "studio.field-missing", "the field {field} is empty. Fill it in.")

_studio_refused = partial(Problem, Refused, "studio.refused")
HOST_REFUSED = _studio_refused("the studio does not answer requests for the host {found!r:.100}. Open {expected}.")
ORIGIN_REFUSED = _studio_refused(
    "a page of another address ({found!r:.100}) has sent this request. Nothing was changed."
)
SIGNED_OUT = _studio_refused(
    "this browser is not signed in. Open the address that `afina studio` printed when it started. Its token works "
    "once: start the studio again for a new token."
)
TOKEN_USED = _studio_refused(
    "this token was used, or is not of this studio. Start `afina studio` again for a new token."
)
PASSWORD_WRONG = _studio_refused("the password is wrong.")
TOO_MANY_TRIES = _studio_refused("there were too many wrong passwords. Try again in {seconds} seconds.")
PASSWORD_MISSING = Problem(
    Refused,
    "studio.password-missing",
    "`host` {host} can be reached from other machines, and {folder} has no password. Set one first: "
    "afina studio {folder} --set-password.",
)
PASSWORD_SHORT = Problem(
    InvalidData, "studio.password-short", "a password needs at least {least} characters; this one has {found}."
)
RUN_STATE = Problem(Conflict, "studio.run-state", "run {run} is {found}, so it cannot {asked}.")
