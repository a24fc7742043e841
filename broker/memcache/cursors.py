"""Siberite's cursors: queue ``orders.audit`` reads what queue ``orders`` holds, without taking it from there.

A cursor is a queue bound to the other. It begins with its first use, at the oldest message that is there then, and
follows the queue: what is settled there is settled here.
"""

from __future__ import annotations

from broker.auth.door import Access
from broker.core.broker import Broker
from broker.core.browsing import State
from broker.core.destination import Destination, Kind
from broker.memcache.keys import Key


async def begin(broker: Broker, access: Access, key: Key) -> None:
    """The cursor of `key` is there, from now on at the latest."""
    name, source = key.destination.name, Destination(Kind.QUEUE, key.cursor_of)
    if name in broker.bound(source):
        return
    access.subscribe(source, waits=False)
    access.subscribe(key.destination, waits=True)
    page = await broker.browse(source, states=(State.READY, State.ON_LOAN), limit=1)
    await broker.bind(name, source, since=page.seen[0].message.stamp if page.seen else None, follows=True)


async def forget(broker: Broker, queue: str) -> None:
    """The cursors of `queue` are gone; the next use of one begins anew."""
    for name in broker.bound(Destination(Kind.QUEUE, queue)):
        if name.startswith(f"{queue}."):
            await broker.delete(name)
