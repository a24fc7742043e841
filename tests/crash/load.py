"""The load: producers and consumers of all three fronts at once, each a thread with connections of its own."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from tests.crash import consumers, producers
from tests.crash.clients import Gone, Ports
from tests.crash.ledger import Ledger

Work = Callable[[Ports, Ledger, random.Random], None]

WORKS: tuple[Work, ...] = (
    producers.by_memcache,
    producers.by_stomp,
    producers.by_http,
    producers.with_keys,
    consumers.by_memcache,
    consumers.by_stomp,
    consumers.beside_it,
    consumers.in_runs,
    consumers.in_transactions,
    consumers.live,
    consumers.by_http,
)


class Load:
    """All clients, at work from the start of this object until their connections end."""

    def __init__(self, ports: Ports, ledger: Ledger, seed: int) -> None:
        self.errors: list[BaseException] = []
        self._ports = ports
        self._ledger = ledger
        self._threads = [
            threading.Thread(target=self._run, args=(work, random.Random(seed + place)), daemon=True)
            for place, work in enumerate(WORKS)
        ]
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float) -> None:
        """Wait until every client has noticed that the broker is gone."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
            assert not thread.is_alive(), "a client does not notice that the broker is gone"

    def _run(self, work: Work, chance: random.Random) -> None:
        try:
            work(self._ports, self._ledger, chance)
        except Gone:
            pass
        except BaseException as error:
            self.errors.append(error)
