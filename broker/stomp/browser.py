"""Browsing: SUBSCRIBE with ``browser:true`` shows what is in a queue, and takes nothing.

ActiveMQ's way: the messages come as on any subscription, without ``ack``, and after the last one that was there a
MESSAGE with ``browser:end`` and no body.
"""

from __future__ import annotations

from broker.core.broker import Broker
from broker.core.browsing import State
from broker.core.destination import Destination
from broker.core.message import Message
from broker.stomp.consumer import Consumer
from broker.stomp.delivering import Delivering

#: Messages looked at for one page.
_PAGE = 100
#: How far a stamp may be ahead of the clock (us): where many messages come at once, or the clock was set back.
_AHEAD = 1_000_000


async def browse(broker: Broker, delivering: Delivering, consumer: Consumer, queue: Destination) -> None:
    """Show a consumer what is in `queue` at this moment, whether it is on loan or not; not what waits for its time."""
    selector = consumer.wish.selector

    def accepts(message: Message, source: Destination) -> bool:
        return selector is None or selector.accepts(message)

    after: int | None = 0
    until = broker.now() + _AHEAD
    while after is not None:
        page = await broker.browse(
            queue,
            states=(State.READY, State.ON_LOAN),
            after=after,
            until=until,
            limit=_PAGE,
            accepts=accepts,
        )
        await delivering.room(consumer)
        if consumer.closed:
            return
        for seen in page.seen:
            delivering.show(consumer, seen)
        after = page.after
    delivering.shown(consumer, queue)
