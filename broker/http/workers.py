"""Who took what: workers that say their names, and batches that were asked for twice.

A consumer over HTTP has no connection to be known by. One that names itself (``worker``, ``code``) is shown among the
consumers, with what it has on loan. One that names its request (``attempt``) and asks again, because the answer was
lost, gets the same messages again, as far as they are still on loan to it. Both are in memory, and bounded: loans are
referred to weakly, so that nothing is kept of what is settled.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any
from weakref import ref

import attrs

from broker.core.delivery import Delivery
from broker.http.cloudevents import timestamp

#: Workers and attempts remembered; beyond it the oldest are forgotten.
MAX_WORKERS, MAX_ATTEMPTS = 10_000, 1_000


@attrs.define(eq=False)
class _Worker:
    code: str = ""
    #: When it took something last (us).
    seen: int = 0
    taken: list[ref[Delivery]] = attrs.field(factory=list)


class Workers:
    """All of them."""

    def __init__(self) -> None:
        self._workers: OrderedDict[tuple[str, str], _Worker] = OrderedDict()
        self._attempts: OrderedDict[tuple[str, str], list[ref[Delivery]]] = OrderedDict()

    def took(self, channel: str, name: str, code: str, deliveries: list[Delivery], now: int) -> None:
        """Worker `name`, running `code`, got these."""
        if not name:
            return
        worker = self._workers.setdefault((channel, name), _Worker())
        worker.code, worker.seen = code, now
        worker.taken = list(map(ref, [*_held(worker.taken), *deliveries]))
        self._workers.move_to_end((channel, name))
        if len(self._workers) > MAX_WORKERS:
            self._workers.popitem(last=False)

    def of(self, channel: str) -> list[dict[str, Any]]:
        """Those that took something of a channel."""
        return [
            {
                "channel": channel,
                "kind": "worker",
                "worker": name,
                "code": worker.code,
                "unsettled": len(_held(worker.taken)),
                "last_seen": timestamp(worker.seen),
            }
            for (where, name), worker in self._workers.items()
            if where == channel
        ]

    def again(self, channel: str, attempt: str) -> list[Delivery]:
        """What this attempt got before, as far as it is still on loan."""
        return _held(self._attempts.get((channel, attempt), [])) if attempt else []

    def attempted(self, channel: str, attempt: str, deliveries: list[Delivery]) -> None:
        """This attempt got these."""
        if attempt and deliveries:
            self._attempts[channel, attempt] = list(map(ref, deliveries))
            if len(self._attempts) > MAX_ATTEMPTS:
                self._attempts.popitem(last=False)


def _held(taken: list[ref[Delivery]]) -> list[Delivery]:
    return [delivery for one in taken if (delivery := one()) is not None and delivery.on_loan]
