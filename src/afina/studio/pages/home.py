"""Home: the projects of the studio, and a form that makes a project of a file, of an address, or of the example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina.data.readers.source import COMPRESSED
from afina.studio import problems
from afina.studio.folder import Project
from afina.studio.forms import SUFFIXES, Form, safe_name
from afina.studio.page import PageRouter, ShownOnce, Visit
from afina.studio.run_queue import runs_of

EXAMPLE = "snippets:movies"
"""The task of the first visit: sentences of film reviews that come from the package index."""

router = PageRouter()


@dataclass(frozen=True)
class HomeFacts:
    """The projects, the newest first, and what can be uploaded.

    Attributes:
        projects: `name`, `title`, `task`, number of `runs` and the `state` of the latest run (None: no run) of each.
        most: The largest upload, in megabytes.
    """

    projects: Sequence[Mapping[str, Any]]
    suffixes: Sequence[str]
    most: int
    command: str


@router.page("/", "home.html.j2")
def home(visit: Visit) -> HomeFacts:
    """Return the projects of the studio."""
    found = [_summary(one) for one in visit.folder.projects()]
    most = visit.studio.upload_limit // 10**6
    return HomeFacts(found, (*SUFFIXES, *COMPRESSED), most, f"afina studio {visit.folder.root}")


def _summary(project: Project) -> dict[str, Any]:
    runs = runs_of(project)
    state = runs[0].state if runs else None
    return {"name": project.name, "title": project.title, "task": project.task, "runs": len(runs), "state": state}


@router.form("/", home, "home.html.j2")
def new_project(visit: Visit, form: Form) -> str:
    """Make a project of the uploaded file, of the address of a task, or of the example."""
    if form.get("example"):
        made = visit.folder.create("Example: film reviews", EXAMPLE, backbones=["minilm"], minutes=3)
    elif form.upload is not None:
        name = safe_name(form.upload.name)
        made = visit.folder.create(form.get("title") or name.partition(".")[0], name, form.upload.path)
    elif address := form.get("address"):
        visit.check_address(address)
        made = visit.folder.create(form.get("title") or address.rstrip("/").rpartition("/")[2] or address, address)
    else:
        raise problems.NO_FILE()
    return f"/{made.name}/data"


@router.form("/login/link", home, "home.html.j2")
def link_for_another_browser(visit: Visit, form: Form) -> ShownOnce:
    """Show a link that signs one more browser in, once."""
    return ShownOnce({"token": visit.studio.access.new_token()})
