"""Retention: how far back a log can be read although every reader has settled what is there (``retain``).

Each retained lane has a mark, `Lane.keep`: nothing at or above it is freed. The mark rises as time passes (``retain``)
and as the log grows (``retain_bytes``); with both, what either keeps is kept. So is
what a replay has still to read.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from broker.core.destination import Destination, Kind
from broker.core.directory import Directory
from broker.core.policy import Policy, TopicPolicy
from broker.core.reader import Lane
from broker.core.store import IStore

#: Lanes whose marks are looked up at a time, at about 0.4 ms each.
_LANES = 50


class Retention:
    """The marks of all lanes whose policy says that they are retained."""

    def __init__(self, store: IStore, now: Callable[[], int], directory: Directory) -> None:
        self._store = store
        self._now = now
        self._directory = directory
        #: Says from which stamp on a replay still needs a log; 0: none does.
        self.needed: Callable[[Destination], int] = lambda destination: 0
        #: Those whose turn to be looked up comes first, first.
        self._lanes: dict[Lane, None] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def survey(self) -> None:
        """Look at all lanes: the policies are new."""
        retain = self._directory.policies.speaks_of("retain", "retain_bytes")
        for log in self._directory.logs.values() if retain or self._lanes else ():
            for lane in log.lanes.values():
                self.watch(lane)

    def watch(self, lane: Lane) -> None:
        """Retain what is and comes in this lane, if its policy says so, or a replay needs it."""
        policy = self._policy(lane)
        if policy is not None and (policy.retain or policy.retain_bytes or self.needed(lane.destination)):
            lane.keep = max(lane.keep, 0)
            self._lanes.setdefault(lane)
        elif lane.keep >= 0:
            lane.keep = -1
            self._lanes.pop(lane, None)

    async def marks(self) -> dict[int, int]:
        """The marks of all retained lanes, by lane; those of some of them raised. `StoreUnavailable`."""
        for lane in list(islice(self._lanes, _LANES)):
            del self._lanes[lane]
            policy = self._policy(lane)
            if lane.gone or policy is None:
                continue
            self._lanes[lane] = None
            needed = self.needed(lane.destination)
            if not (needed or policy.retain or policy.retain_bytes):
                self.watch(lane)  # a replay was all that needed it
                continue
            marks = [await self._store.seek(lane.id, needed)] if needed else []
            if policy.retain:
                marks.append(await self._store.seek(lane.id, self._now() - policy.retain * 1000))
            if policy.retain_bytes:
                marks.append(await self._store.seek_bytes(lane.id, policy.retain_bytes))
            if lane.keep >= 0 and marks:
                lane.keep = max(lane.keep, min(marks))
        return {lane.id: lane.keep for lane in self._lanes if lane.keep >= 0}

    def _policy(self, lane: Lane) -> Policy | TopicPolicy | None:
        kind, name = lane.destination.kind, lane.destination.name
        if kind in (Kind.SLOT, Kind.REPLAY):
            return None
        policies = self._directory.policies
        return policies.of_topic(name) if kind is Kind.TOPIC else policies.of(name)
