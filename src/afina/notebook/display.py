"""Show the progress of runs in a notebook: an output below the cell, which is updated in place.

IPython is not a dependency of afina: the kernel of a notebook has loaded IPython, and in other processes this module
does not import IPython.
"""

from __future__ import annotations

import sys
from html import escape
from typing import TYPE_CHECKING, Any

from afina import meter
from afina.events import Progress
from afina.report.progress import Lines, doing, figures

if TYPE_CHECKING:
    from afina.studies.runs.run import Run

PAUSE = 0.3
"""The smallest number of seconds between two updates of the progress display."""

MOST = 40
"""The largest number of lines in the progress display; earlier lines are dropped."""

_BAR = "display: inline-block; vertical-align: middle; width: 12em; height: .6em; border: 1px solid currentColor"
_DONE = "display: block; height: 100%; background: currentColor; opacity: .6"


def watcher() -> Display | None:
    """Return a progress display if this process is the kernel of a notebook, else None."""
    return Display() if in_kernel() else None


def in_kernel() -> bool:
    """Return whether this process is the kernel of a notebook; nothing is imported."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class Display(Lines):
    """A progress display in a notebook: a line for each piece of finished work, and a bar for each run in progress."""

    def __init__(self) -> None:
        super().__init__(self._keep)
        self.said: list[str] = []
        self.now: dict[str, Progress] = {}
        self.began = self.last = meter.now()
        self._handle: Any = None

    def _keep(self, line: str) -> None:
        self.said.append(line)
        self._show()

    def begin(self, run: Run, place: str) -> None:
        super().begin(run, place)
        self.now[run.label] = Progress("start")
        self._show()

    def end(self, run: Run) -> None:
        super().end(run)
        self.now.pop(run.label, None)

    def progress(self, run: Run, progress: Progress) -> None:
        if run.label not in self.lines:
            self.begin(run, run.title)
        before = self.now[run.label]
        self.now[run.label] = progress
        if progress.phase != before.phase or meter.now() - self.last >= PAUSE:
            self._show()

    def changed(self, results: object) -> None:
        self._show()

    def stop(self) -> None:
        if self.now:
            self.now.clear()
            self.said.append("Stopped. Recorded runs are kept; the same call continues from there.")
            self._show()

    def html(self) -> str:
        lines = [f"<div>{escape(line)}</div>" for line in self.said[-MOST:]]
        if len(self.said) > MOST:
            lines.insert(0, f"<div>… {len(self.said) - MOST:,} lines before</div>")
        lines += [_bar(self.lines[label].place, progress) for label, progress in self.now.items()]
        return f'<div style="font-size: .9em; line-height: 1.5">{"".join(lines)}</div>'

    def text(self) -> str:
        going = [f"{self.lines[label].place}: {doing(progress)}" for label, progress in self.now.items()]
        return "\n".join([*self.said[-MOST:], *going])

    def _show(self) -> None:
        from IPython import display as outputs

        display: Any = outputs.display
        self.last = meter.now()
        shown = {"text/html": self.html(), "text/plain": self.text()}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)


def _bar(place: str, progress: Progress) -> str:
    share = progress.step / progress.steps if progress.steps else 0.0
    counted = f" {progress.step:,}/{progress.steps:,}" if progress.steps else ""
    said = ": ".join(part for part in (f"{doing(progress)}{counted}", figures(progress)) if part)
    done = f'<span style="{_DONE}; width: {100 * min(share, 1.0):.0f}%"></span>'
    return f'<div>{escape(place)} <span style="{_BAR}">{done}</span> {escape(said)}</div>'
