"""Measurements: the processes of `afina plan`, which measure how fast methods train. A run ends them.

A measurement beside a run would slow the run, and its times would be too long. The module does not know a page.
"""

from __future__ import annotations

from afina.studio.command_process import CommandProcess
from afina.studio.folder import Project, StudioFolder

NAME = "plan"


def measurement_of(project: Project, backbone: str) -> CommandProcess:
    """Return the process that measures the methods on a pretrained model, with the present reading options."""
    return project.process(NAME, project.address, dict(project.options), backbone)


def stop_measurements(folder: StudioFolder) -> None:
    """End the measurements of all projects. What they have measured is lost."""
    for directory in folder.root.glob(f"*/processes/{NAME}-*"):
        process = CommandProcess(directory)
        if process.is_running:
            process.kill()
