"""The numbers of queues as JSON: one of them, or those that a pattern names, page by page."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from typing import Any

import msgspec

from broker.core.broker import Broker
from broker.core.destination import Kind
from broker.core.stats import QueueStats
from broker.core.survey import Surveyor
from broker.http.call import Answer, Call, json

#: Queues in one answer: 1,000 take 6 ms, in which nobody else is served.
PAGE = 1_000


def wanted(call: Call) -> Callable[[str], bool]:
    """What the parameter ``queue`` says: a pattern, ``*`` any run of characters, ``?`` any one; without it any name."""
    pattern = call.parameters.text("queue")
    if pattern is None:
        return lambda name: True
    # fnmatch's translation takes no time on names that nearly match; its brackets mean themselves here
    matches = re.compile(fnmatch.translate(pattern.replace("[", "[[]"))).match
    return lambda name: matches(name) is not None


def full(stats: QueueStats) -> dict[str, Any]:
    """Everything there is about a queue."""
    return msgspec.structs.asdict(stats)


def listed(broker: Broker, surveyor: Surveyor, call: Call) -> Answer:
    """``GET /channels?detail``: the queues that exist, sorted; with ``after`` if there are more behind that name."""
    limit = min(call.parameters.integer("limit", least=1, called="limit") or PAGE, PAGE)
    matches, access = wanted(call), call.access
    names = surveyor.queues(
        lambda name: matches(name) and bool(access.seen(Kind.QUEUE, [name])),
        after=call.parameters.text("after") or "",
        most=limit + 1,
    )
    page = names[:limit]
    channels = [{"name": name, **full(broker.queue_stats(name))} for name in page]
    return json(200, {"channels": channels, **({"after": page[-1]} if len(names) > limit else {})})
