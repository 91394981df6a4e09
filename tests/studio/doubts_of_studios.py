"""What `afina doubts` leaves in the folder of a studio, without its search."""

from __future__ import annotations

import json
from typing import Any

from afina.data.reading_options import ReadingOptions
from afina.studies.labelling.doubts import DoubtfulLabel, Doubts
from afina.studio.folder import Project
from afina.studio.pages import doubts


def found(project: Project, *labels: DoubtfulLabel, kind: str = "classes", **data: Any) -> Doubts:
    """What a search leaves that has found these labels."""
    process = doubts._process(project)
    facts = {"task": project.address, "method": "linear_probe", "backbone": "minilm", "folds": 5, "seed": 0}
    numbers = {"train": 32, "evaluation": 8, "metric": "accuracy", "value": 0.75, "gain": 0.5}
    made = Doubts(**facts, **numbers, kind=kind, labels=labels, data=ReadingOptions(**data)).sealed()
    made.write(doubts._results(project))
    (process.directory / "command.json").write_text(json.dumps({"arguments": ["doubts"]}))
    (process.directory / "exit.json").write_text('{"status": 0}')
    return made
