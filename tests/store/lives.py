"""What a client of a store has to have, as the processes told that did all of it and were killed at some time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Life:
    """What a client has, as the processes told that did all of it: one after another, each killed at some time."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        self.digests = digests
        self.has: dict[str, Any] = {}
        self.pending: list[Any] | None = None
        self.acknowledged = 0

    def told(self, values: list[list[Any]]) -> None:
        """What one process yielded, and then it was killed."""
        for kind, *rest in values:
            if kind == "found":
                self.found(rest[0])
            elif kind == "begun":
                self.pending = rest
            else:
                after = self.after(rest)
                if kind == "done":
                    self.acknowledged += 1
                    assert rest[0] not in CHECKED or self.answer(rest[0], after, rest) == rest[4]
                    self.has = after
                else:
                    assert after == self.has, rest
                self.pending = None

    def found(self, state: dict[str, Any]) -> None:
        """What is there now: as it was acknowledged, or with what was under way when the process was killed."""
        outcomes = [self.has]
        if self.pending is not None:
            answers = [[{"to": number}] for number in range(1, 99)] if self.pending[0] == "rollback" else [[]]
            outcomes += [self.after([*self.pending, *answer]) for answer in answers]
        assert state in outcomes, (self.pending, state, outcomes)
        self.has, self.pending = state, None

    def answer(self, action: str, after: dict[str, Any], told: list[Any]) -> Any:
        """What a process has to be told of such an action."""
        if action == "delete":
            return told[3]
        versions = after[told[1]]["versions"]
        (number,) = (int(one) for one, digest in versions.items() if digest == self.digests[told[2]])
        created = versions != self.has.get(told[1], {}).get("versions")
        return {"name": told[1], "version": number, "digest": self.digests[told[2]], "created": created}

    def after(self, told: list[Any]) -> dict[str, Any]:
        """What is there after such an action, which needs what was there."""
        action, name, which, number, *answer = told
        made = {one: {kind: dict(there) for kind, there in has.items()} for one, has in self.has.items()}
        mine = made.get(name)
        if action == "erase":
            return {}
        if action == "publish":
            mine = made.setdefault(name, {"versions": {}, "aliases": {}})
            if self.digests[which] not in mine["versions"].values():
                mine["versions"][str(len(mine["versions"]) + 1)] = self.digests[which]
        elif mine is None:
            return made
        elif action == "alias" and mine["versions"].get(str(number)):
            mine["aliases"]["production"] = number
        elif action == "delete" and mine["versions"].get(str(number)) and number not in mine["aliases"].values():
            mine["versions"][str(number)] = None
        elif action == "rollback" and answer and isinstance(answer[0], dict) and mine["aliases"]:
            mine["aliases"]["production"] = answer[0]["to"]
        return made


CHECKED = ("publish", "delete")
"""Actions whose answer follows from what was there."""
