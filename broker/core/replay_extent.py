"""How much lies between a replay's bounds: for its progress, and for what an undo settles."""

from __future__ import annotations

from broker.core.directory import Directory
from broker.core.reader import Lane, Reader
from broker.core.replay import Plan
from broker.core.store import IStore, Range


async def numbers(store: IStore, lane: Lane, since: int, until: int) -> Range:
    """The numbers of what has a stamp from `since` on and before `until`, as far as it is kept."""
    low = await store.seek(lane.id, since)
    if not since:
        batches = await store.read(lane.id, 0, 1)
        low = batches[0].base if batches else lane.next
    return low, max(await store.seek(lane.id, until), low)


async def between(store: IStore, directory: Directory, plan: Plan) -> int:
    """Messages between the plan's bounds; about, where some of them are settled."""
    if plan.waiting:
        queue = directory.find(plan.source.name)
        readers = list(queue.readers) if queue is not None else []
        return sum([await _waiting(store, reader, plan) for reader in readers])
    log = directory.find_log(plan.source)
    lanes = [lane for lane in log.lanes.values() if not lane.run] if log is not None else []
    ranges = [await numbers(store, lane, plan.since, plan.until) for lane in lanes]
    return sum(high - low for low, high in ranges)


async def _waiting(store: IStore, reader: Reader, plan: Plan) -> int:
    if not reader.lane.durable:
        return reader.waiting
    low, high = await numbers(store, reader.lane, plan.since, plan.until)
    return min(reader.waiting, max(high - max(low, reader.bits.cursor), 0))
