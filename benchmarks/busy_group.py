"""A busy message group does not starve the others: a million of its messages at the head, and one of another group.

    .venv/bin/python -m benchmarks.busy_group [MESSAGES]

One consumer holds the first message of the busy group, so that nobody else may have the rest of it; another waits.
With a ``max_scan`` of twice the messages it gets the other group's message. With a tenth of them (100,000 of a million
are the default) the queue says that it is ``blocked``, and delivers it when the first consumer has worked off enough.
The message's place in the log is known, so that what is delivered, and when, is asserted and not only measured.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore

from benchmarks.measuring import Folder, Row, mib, own_rss, report
from benchmarks.prepare import fill
from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.core.destination import queue
from broker.core.message import Message
from broker.core.policy import Policy
from broker.storage.sqlite import SQLiteStore

#: Seconds each part may take.
LIMIT = 600.0
#: What one search may add to the process: as much as a backlog of any size.
MOST_MEMORY = 64 * 1024 * 1024
#: What the consumer of the busy group holds at a time while it works it off.
_PREFETCH = 500


class Consumer:
    """What a subscription got, the newest last."""

    def __init__(self, broker: Broker, prefetch: int) -> None:
        self.got: list[Delivery] = []
        self.subscription = broker.subscribe(queue("q0"), self.got.append, prefetch=prefetch)

    @property
    def groups(self) -> list[str]:
        """The groups of what it got."""
        return [delivery.message.group for delivery in self.got]


async def _until(reactor: Any, done: Any) -> float:
    """Wait until something is so; the seconds it took."""
    begun = time.perf_counter()
    while not done():
        if time.perf_counter() - begun > LIMIT:
            raise RuntimeError(f"not done in {LIMIT:.0f} s")
        await task.deferLater(reactor, 0.002)
    return time.perf_counter() - begun


async def _pass_over(reactor: Any, broker: Broker) -> float:
    """The other group's message is delivered beside the busy one; the seconds until then."""
    holder, other = Consumer(broker, 1), Consumer(broker, 1)
    took = await _until(reactor, lambda: other.got)
    assert (holder.groups, other.groups) == (["busy"], ["next"])
    assert not broker.queue_stats("q0").blocked
    broker.unsubscribe(holder.subscription)
    broker.unsubscribe(other.subscription)
    broker.release([*holder.got, *other.got])
    return took


async def _blocked(reactor: Any, broker: Broker, count: int, max_scan: int) -> tuple[float, str, int]:
    """Blocked until the head has shrunk: the seconds of that, what the queue says before, and how many were left.

    The holder works the head off until so much is left that the search fits, and no further.
    """
    holder, other = Consumer(broker, _PREFETCH), Consumer(broker, 1)
    await _until(reactor, lambda: broker.queue_stats("q0").blocked)
    reason = broker.queue_stats("q0").blocked
    begun, settled = time.perf_counter(), 0
    while not other.got and count - settled > max_scan - 2 * _PREFETCH:
        done, held = holder.got[:-1], holder.got[-1:]  # whoever settles the last one he holds gives the group away
        assert {delivery.message.group for delivery in holder.got} == {"busy"}
        holder.got[:] = held
        assert [delivery.seq for delivery in done] == list(range(settled, settled + len(done)))
        settled += len(done)
        await broker.ack(done)
        await _until(reactor, lambda: len(holder.got) > 1 or other.got)
        assert time.perf_counter() - begun < LIMIT
    await _until(reactor, lambda: other.got)
    assert other.groups == ["next"]
    left = count - settled
    assert left <= max_scan + _PREFETCH, "max_scan passes over more than it says"
    return time.perf_counter() - begun, reason, left


async def measure(reactor: Any, count: int) -> list[Row]:
    """Both parts, over one file."""
    rows: list[Row] = []
    body = bytes(100)
    with Folder() as folder:
        path = folder / "group.sqlite"
        await fill(path, 1, count + 1, lambda stamp, n: Message(stamp, body, group="busy" if n < count else "next"))
        for max_scan in (2 * count, count // 10):
            store = SQLiteStore(str(path), sync="normal", reserve=0)
            broker = Broker(store, reactor, policy=Policy(groups=True, max_scan=max_scan))
            await broker.start()
            try:
                before = own_rss()
                row: dict[str, object] = {"busy messages": count, "max_scan": max_scan}
                if max_scan > count:
                    row["delivered after s"] = round(await _pass_over(reactor, broker), 2)
                else:
                    took, reason, left = await _blocked(reactor, broker, count, max_scan)
                    row |= {"delivered after s": round(took, 2), "when left": left, "blocked": reason}
                rows.append(row | {"over idle MiB": mib(own_rss() - before)})
            finally:
                await broker.stop()
    return rows


def missed(rows: list[Row]) -> list[str]:
    """The goals that were not reached."""
    said = []
    for row in rows:
        if float(str(row["over idle MiB"])) * 2**20 > MOST_MEMORY:
            said.append(f"max_scan {row['max_scan']}: {row['over idle MiB']} MiB over idle")
        if "blocked" in row and not str(row["blocked"]).startswith("max_scan"):
            said.append(f"max_scan {row['max_scan']}: the reason is {row['blocked']!r}")
    return said


async def run(reactor: Any, count: int) -> None:
    rows = await measure(reactor, count)
    if report("busy_group", rows, missed(rows)):
        raise SystemExit(1)


def main(reactor: IReactorCore, count: str = "1000000") -> Deferred[None]:
    return Deferred.fromCoroutine(run(reactor, int(count)))


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
