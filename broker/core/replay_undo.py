"""Undoing a replay: what it put in, and nobody has got, is settled in every queue that reads it.

It lies in lanes that the replay had for itself while it ran, so that it is a range of each, whatever its length.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from broker.core.browsing import all_in_memory
from broker.core.directory import Directory
from broker.core.journal import Journal
from broker.core.queue import Queue
from broker.core.reader import Lane, Reader
from broker.core.replay import RUN, Job
from broker.core.replay_extent import numbers
from broker.core.store import IStore

#: Logs looked through in a reactor turn for what a replay has put in.
_LOGS = 5_000


@attrs.define(eq=False)
class Undoing:
    """Settles what replays have put in."""

    _store: IStore
    _clock: IReactorTime
    _directory: Directory
    _journal: Journal
    _changed: Callable[[Queue], None]
    #: Settles by a delivery id.
    _settle: Callable[[int], Awaitable[None]]

    async def settle(self, job: Job) -> int:
        """Settle all of it but for what is on loan; how much that was, once it is on disk."""
        undone = 0
        for lane in await self._lanes(job):
            low, high = await numbers(self._store, lane, job.begun, job.ended + 1)
            for reader in list(lane.readers):
                undone += await self._settled(reader, low, high)
        for queue in self._directory.volatile():
            undone += self._settled_in_memory(queue, str(job.id))
        await self._journal.durable()
        return undone

    async def _lanes(self, job: Job) -> list[Lane]:
        """The lanes that it filled; others may have, before and after it."""
        if job.plan.target is not None:
            log = self._directory.find_log(job.plan.target)
            logs = [log] if log is not None else []
        else:
            logs = list(self._directory.logs.values())
        found = []
        for number, log in enumerate(logs, 1):
            found += [lane for lane in log.lanes.values() if lane.run == job.run]
            if number % _LOGS == 0:
                await deferLater(self._clock, 0)
        return found

    async def _settled(self, reader: Reader, low: int, high: int) -> int:
        """Settle a range for one queue, and what is held back of it; how much that was."""
        before = reader.waiting
        held_back = [seq for seq, loan in reader.on_loan.items() if loan.delayed and low <= seq < high]
        for first, end in reader.settle_range(low, high):
            self._journal.settle(reader, first, end)
        for seq in held_back:
            if seq in reader.on_loan:
                await self._settle(reader.delivery_id(seq))
        self._changed(reader.queue)
        return before - reader.waiting

    def _settled_in_memory(self, queue: Queue, run: str) -> int:
        """The same for a queue that keeps nothing on disk."""
        settled = 0
        for reader in [reader for reader in queue.readers if not reader.lane.durable]:
            for seq, message in all_in_memory(reader):
                if message.headers.get(RUN) == run and seq not in reader.on_loan:
                    settled += reader.settle(seq, message)
        self._changed(queue)
        return settled
