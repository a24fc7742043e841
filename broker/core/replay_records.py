"""The records of replays: what each has done so far, on disk in the commit that holds what it did.

A replay's record is the last message of a log of its own (kind ``replay``, its number as the name), read by a queue
that nobody consumes; writing it settles the one before.
"""

from __future__ import annotations

import msgspec
from twisted.logger import Logger

from broker.core.destination import Destination, Kind
from broker.core.directory import Directory
from broker.core.message import unpack
from broker.core.publishing import Publishing
from broker.core.reader import Reader
from broker.core.replay import Job, from_message, to_message
from broker.core.store import IStore
from broker.core.unit import Append, Unit


class Records:
    """All records."""

    _log = Logger()

    def __init__(self, store: IStore, directory: Directory, publishing: Publishing) -> None:
        self._store = store
        self._directory = directory
        self._publishing = publishing

    async def load(self) -> list[Job]:
        """What is on disk, by number. What cannot be read is logged, and gone."""
        found = []
        for queue in list(self._directory.replays.values()):
            job = await self._last(queue.readers[0]) if queue.readers else None
            if job is not None and str(job.id) == queue.name:
                found.append(job)
            else:
                self._log.warn("what replay {name} has done cannot be read: it is forgotten", name=queue.name)
                self._directory.drop(queue)
        return sorted(found, key=lambda job: job.id)

    async def _last(self, reader: Reader) -> Job | None:
        seq = reader.lane.next - 1
        batches = await self._store.read(reader.lane.id, seq, 1) if seq >= 0 else []
        if not batches or not batches[0].base <= seq < batches[0].base + batches[0].count:
            return None
        try:
            return from_message(unpack(batches[0].count, batches[0].data)[seq - batches[0].base])
        except msgspec.MsgspecError:
            return None

    def write(self, job: Job, unit: Unit) -> Reader:
        """Put the record into a unit, in the place of the one before; whose reader then settles that in memory."""
        destination = Destination(Kind.REPLAY, str(job.id))
        lane = self._directory.lane(self._directory.log(destination), 0)
        (reader,) = lane.readers
        message = self._publishing.accept(destination, to_message(job))
        unit.appends.append(Append(lane, message, message.size))
        unit.ranges.append((reader, reader.bits.cursor, lane.next))
        unit.size += message.size
        return reader

    def drop(self, job: Job) -> None:
        """Forget it, with the next commit."""
        queue = self._directory.replays.get(str(job.id))
        if queue is not None:
            self._directory.drop(queue)
