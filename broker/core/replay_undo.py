"""Undoing a replay: what it put in, and nobody has got, is settled in every queue that reads it, or moved back.

It lies in lanes that the replay had for itself while it ran, so that it is a range of each, whatever its length.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from broker.core.browsing import all_in_memory
from broker.core.directory import Directory
from broker.core.journal import Journal
from broker.core.message import Message, unpack
from broker.core.queue import Queue
from broker.core.reader import Lane, Reader
from broker.core.replay import RUN, Job, home
from broker.core.replay_extent import numbers
from broker.core.replay_work import MAX_MESSAGES, Work
from broker.core.store import IStore

#: Logs looked through in a reactor turn for what a replay has put in.
_LOGS = 5_000
#: Bytes read at a time of what is moved back.
_READ_BYTES = 64 * 1024

#: Messages that wait, each with where it does.
Waiting: TypeAlias = list[tuple[Reader, int, Message]]


@attrs.define(eq=False)
class Undoing:
    """Settles what replays have put in."""

    _store: IStore
    _clock: IReactorTime
    _directory: Directory
    _journal: Journal
    _changed: Callable[[Queue], None]
    _work: Work
    #: Settles by a delivery id.
    _settle: Callable[[int], Awaitable[None]]

    async def undo(self, job: Job, told: Callable[[Job], None]) -> None:
        """Undo all of it but what is on loan; `told` of the job as it goes on, the last time once that is on disk."""
        for lane in await self._lanes(job):
            low, high = await numbers(self._store, lane, job.begun, job.ended + 1)
            for reader in list(lane.readers):
                if job.plan.move and reader.own:
                    async for some in self._stored(reader, low, high):
                        job = await self._work.back(job, some)
                        told(job)
                else:
                    job = _undone(job, await self._settled(reader, low, high))
                    told(job)
        for queue in self._directory.volatile():
            there = self._in_memory(queue, str(job.id))
            if job.plan.move and queue.destination == (job.plan.target or (there and home(there[0][2]))):
                job = await self._work.back(job, there)
            else:
                job = _undone(job, sum(reader.settle(seq, message) for reader, seq, message in there))
                self._changed(queue)
            told(job)
        await self._journal.durable()
        told(await self._work.write(msgspec.structs.replace(job, undoing=False)))

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

    async def _stored(self, reader: Reader, low: int, high: int) -> AsyncIterator[Waiting]:
        """What waits of a range, some at a time."""
        seq = reader.bits.next_open(low)
        while seq < high and (batches := await self._store.read(reader.lane.id, seq, _READ_BYTES)):
            for batch in batches:
                found = enumerate(unpack(batch.count, batch.data), batch.base)
                some = [(reader, number, message) for number, message in found if seq <= number < high]
                for first in range(0, len(some), MAX_MESSAGES):
                    yield some[first : first + MAX_MESSAGES]
                seq = max(seq, batch.base + batch.count)
            seq = reader.bits.next_open(seq)

    def _in_memory(self, queue: Queue, run: str) -> Waiting:
        """What waits in a queue that keeps nothing on disk."""
        return [
            (reader, seq, message)
            for reader in queue.readers
            if not reader.lane.durable
            for seq, message in all_in_memory(reader)
            if message.headers.get(RUN) == run and seq not in reader.on_loan
        ]


def _undone(job: Job, count: int) -> Job:
    """The job after so many more were settled."""
    return msgspec.structs.replace(job, undone=job.undone + count)
