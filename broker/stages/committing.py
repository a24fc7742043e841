"""Committing units: as many together as go, again while the next channel is full, and what can never be is a failure.

While a commit waits for room its inputs stay on loan, and whoever waits takes no more: so a full channel slows the
stage before it, and that one its own input, up to the door.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import Any

from broker.stages.keeper import Keeper
from broker.stages.link import Link, Refused, Unreachable, channel_path
from broker.stages.settle import Unit, Who, commits, failed, unburied
from broker.stages.stage import Stage
from broker.stages.verdict import Reject

log = logging.getLogger("broker.stages")

#: Seconds between two tries while the broker does not answer, or a channel is full, at most.
LONGEST = 2.0


class Committing:
    """The commits of one stage's worker."""

    def __init__(self, stage: Stage, who: Who, link: Link, keeper: Keeper, given_up: threading.Event) -> None:
        """`given_up` is set when nobody may wait for room, or for the broker, any more."""
        self._stage = stage
        self._who = who
        self._link = link
        self._keeper = keeper
        self._given_up = given_up

    def commit(self, units: list[Unit]) -> None:
        """Make these true. Returns when each is, or its lease is lost, or nobody waits any more."""
        waiting = commits(units)
        tries = 0
        empty: dict[str, tuple[int, ...]] = {}
        while waiting:
            some = waiting[0]
            try:
                with self._keeper.away([unit.loan for unit in some]):
                    self._link.request("POST", "/commit", {"ops": [op for unit in some for op in unit.ops]})
            except Unreachable as error:
                if self._given_up.is_set():
                    return
                tries += 1
                log.warning("%s: the broker does not answer: %s", self._stage.full_name, error)
                self._given_up.wait(min(0.1 * 2**tries, LONGEST))
                continue
            except Refused as error:
                if error.temporary and self._given_up.is_set():
                    return
                waiting[:1] = self._refused(some, error, tries, empty)
                tries += 1
                continue
            waiting.pop(0)
            tries = 0
            for unit in some:
                if unit.failure:
                    log.warning("%s: %s: %s", self._stage.full_name, unit.loan.event.id, unit.failure)

    def _refused(
        self, units: list[Unit], error: Refused, tries: int, empty: dict[str, tuple[int, ...]]
    ) -> list[list[Unit]]:
        """What to try instead. `empty` is for `_never`, from one refusal to the next."""
        if error.status == 507 and len(units) > 1:
            half = len(units) // 2  # they may be more than the channel ever holds
            return [units[:half], units[half:]]
        if error.status == 507 and tries % 5 in (1, 2) and (never := self._never(units[0], empty)):
            return [[failed(self._stage, units[0].loan, never, self._who)]]
        if error.temporary:
            if tries in (0, 60):
                log.warning("%s: waits: %s", self._stage.full_name, error)
            self._given_up.wait(min(error.after, LONGEST))
            return [units]
        fallen = _fallen(units, error.failed)
        if error.status in (404, 409) and fallen:
            for unit in fallen:
                log.warning("%s: the lease of %s is lost", self._stage.full_name, unit.loan.event.id)
            self._keeper.drop([unit.loan for unit in fallen])
            rest = [unit for unit in units if unit not in fallen]
            return [rest] if rest else []
        if len(units) > 1:
            return [[unit] for unit in units]
        unit = units[0]
        if unit.failure:
            log.error("%s: %s: cannot be settled: %s", self._stage.full_name, unit.loan.event.id, error)
            if len(unit.ops) > 1:  # the dead channel does not take it: it stays where it is, and says why
                return [[unburied(self._stage, unit.loan, f"{unit.failure}: {error}")]]
            self._keeper.drop([unit.loan])
            return []
        return [[failed(self._stage, unit.loan, Reject(f"the broker refuses its outputs: {error}"), self._who)]]

    def _never(self, unit: Unit, empty: dict[str, tuple[int, ...]]) -> Reject | None:
        """Why its outputs will never have room: the channel they go to is empty, and still too small.

        That it is empty after a refusal says nothing: a reader may have emptied it since. It was empty all the time if
        it was so before the try as well, and nothing came and went; `empty` keeps what was seen.
        """
        before, counts = dict(empty), Counter(event.channel for event in unit.outputs)
        empty.clear()
        for channel, count in counts.items():
            if count == 1 or channel.startswith("topic:"):
                continue
            try:
                held: dict[str, Any] = self._link.request("GET", channel_path(channel, "/stats?full=1")).json()
            except (Unreachable, Refused):
                return None
            if any(held[name] for name in ("ready", "on_loan", "incoming")):
                continue
            empty[channel] = tuple(held[name] for name in ("published", "settled", "expired", "discarded", "moved"))
            if before.get(channel) == empty[channel]:
                return Reject(f"its {count} outputs are more than channel {channel} ever holds")
        return None


def _fallen(units: list[Unit], failed_ops: list[int]) -> list[Unit]:
    """The units that these operations are of."""
    found, at = [], 0
    for unit in units:
        if any(at <= number < at + len(unit.ops) for number in failed_ops):
            found.append(unit)
        at += len(unit.ops)
    return found
