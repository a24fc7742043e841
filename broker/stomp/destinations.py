"""STOMP's destination strings, and what they mean here."""

from __future__ import annotations

import re

from broker.core.destination import Destination, queue, topic
from broker.errors import BadName
from broker.stomp.errors import Refused

_QUEUE, _TOPIC = "/queue/", "/topic/"

#: Prefixes other brokers give a meaning that this one does not have yet. Taking them for queues would lose messages.
_RESERVED = (
    "/exchange/",
    "/amq/queue/",
    "/temp-queue/",
    "/temp-topic/",
    "/reply-queue/",
    "/remote-temp-queue/",
    "/remote-temp-topic/",
    "/dsub/",
    "/advisory/",
)

_WILDCARDS = {"*", "#", ">"}


def parse(text: str) -> Destination:
    """The destination a frame names: ``/queue/x``, ``/topic/x``, and anything without a known prefix is a queue.

    Raises `Refused` for an empty or illegal name, and for what has a meaning elsewhere and none here: patterns,
    lists of destinations (ActiveMQ's comma), and the prefixes of exchanges and temporary destinations.
    """
    try:
        if text.startswith(_TOPIC):
            found = topic(text[len(_TOPIC) :])
        else:
            found = queue(text.removeprefix(_QUEUE))
    except BadName as error:
        raise Refused("Invalid destination", error.reason) from None
    if text.startswith(_RESERVED):
        raise Refused("Invalid destination", f"{text}: destinations of this kind are not supported")
    if "," in text:
        raise Refused("Invalid destination", f"{text}: lists of destinations are not supported")
    if text.startswith(_TOPIC) and not _WILDCARDS.isdisjoint(re.split("[./]", found.name)):
        raise Refused("Invalid destination", f"{text}: wildcards are not supported")
    return found
