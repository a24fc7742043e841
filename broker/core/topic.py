"""Live subscribers of topics: private queues in memory, fed with what is published while they are there.

A live subscriber's queue behaves like any other (prefetch, acks, nacks, order) but skips the store. Its buffer is
bounded: when it is full, the oldest message waiting is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.core.consumers import Subscription
from broker.core.delivery import Delivery
from broker.core.destination import Destination
from broker.core.message import Message
from broker.core.policy import Policy
from broker.core.queue import Queue
from broker.core.reader import Lane, Reader
from broker.core.window import Budget

#: What a live subscriber's messages may take while it does not read, in bytes. One larger message is always taken.
MAX_BUFFER = 16 * 1024 * 1024
#: A mark no number reaches: nothing needs to be reserved where nothing is stored.
_UNRESERVED = 1 << 62


def live_subscription(
    topic: Destination, deliver: Callable[[Delivery], None], prefetch: int, policy: Policy
) -> Subscription:
    """A subscriber of `topic` with a queue of its own, which gets what `offer` gives it."""
    queue = Queue(str(topic), Destination(topic.kind, topic.name), policy)
    lane = Lane(0, topic, 0, durable=False)
    reader = Reader(0, queue, lane, Budget(MAX_BUFFER))
    reader.reserved = reader.claiming = _UNRESERVED
    reader.ids = {}
    lane.readers.append(reader)
    queue.readers.append(reader)
    subscription = Subscription(queue, topic, deliver, prefetch)
    queue.attach(subscription)
    return subscription


def offer(subscription: Subscription, message: Message, message_id: str) -> None:
    """Put one message at the end of a live subscriber's queue, dropping from its head if there is no room."""
    queue = subscription.queue
    (reader,) = queue.readers
    lane = reader.lane
    assert reader.ids is not None
    while reader.window.bytes + message.size > MAX_BUFFER and (oldest := reader.head()) is not None:
        reader.settle(oldest[0])
        reader.head()  # lets the window go of it
        queue.counts.discarded += 1
    reader.ids[lane.next] = message_id
    reader.window.append(lane.next, [message], message.size)
    lane.next += 1
    queue.counts.published += 1
