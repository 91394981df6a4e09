"""Which replicas are late: those that have not answered a question for some rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from afina.server.ray_serve.liveness import ROUNDS, Liveness


class Replica:
    """A replica that answers at once, or not while it is stopped; `asked` counts its questions."""

    def __init__(self) -> None:
        self.asked, self.works, self.going = 0, True, asyncio.Event()
        self.going.set()

    async def __call__(self) -> bool:
        self.asked += 1
        await self.going.wait()
        return self.works


async def rounds(asked: Liveness, questions: dict[str, Callable[[], Awaitable[bool]]], count: int) -> frozenset[str]:
    """Ask in some rounds, and return what the last one found."""
    late: frozenset[str] = frozenset()
    for _ in range(count):
        late = asked.round(questions)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return late


def test_a_stopped_replica_is_late_after_some_rounds_and_has_one_open_question_and_is_not_late_once_it_answers() -> (
    None
):
    async def checked() -> None:
        asked, well, stopped = Liveness(), Replica(), Replica()
        both: dict[str, Callable[[], Awaitable[bool]]] = {"well": well, "stopped": stopped}
        assert await rounds(asked, both, 10) == frozenset()
        stopped.going.clear()
        before = stopped.asked
        assert await rounds(asked, both, ROUNDS) == frozenset()
        assert await rounds(asked, both, 1) == {"stopped"}
        assert await rounds(asked, both, 50) == {"stopped"}
        assert stopped.asked == before + 1
        stopped.going.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await rounds(asked, both, 1) == frozenset()

    asyncio.run(checked())


def test_a_replica_that_cannot_be_reached_is_late_and_is_asked_again() -> None:
    async def checked() -> None:
        asked, lost = Liveness(), Replica()
        lost.works = False
        assert await rounds(asked, {"lost": lost}, ROUNDS) == frozenset()
        assert await rounds(asked, {"lost": lost}, 1) == {"lost"}
        assert lost.asked == ROUNDS + 1
        lost.works = True
        assert await rounds(asked, {"lost": lost}, 2) == frozenset()

    asyncio.run(checked())


def test_a_replica_that_has_ended_is_forgotten_and_its_question_too() -> None:
    async def checked() -> None:
        asked, gone = Liveness(), Replica()
        gone.going.clear()
        await rounds(asked, {"gone": gone}, ROUNDS + 1)
        assert await rounds(asked, {}, 1) == frozenset()
        assert len(asyncio.all_tasks()) == 1
        assert await rounds(asked, {"gone": gone}, 1) == frozenset()

    asyncio.run(checked())
