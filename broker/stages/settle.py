"""From what became of an input to the operations that say so: its ack and its outputs, or why it failed.

A unit is everything that becomes true together for one input. Units share a commit; none is torn apart.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from broker.stages.event import Event
from broker.stages.stage import Stage
from broker.stages.verdict import Later, Reject, Retry
from broker.stages.wire import Loan, publish

#: Operations of one commit, and bytes of what it publishes: what the broker takes, with some room.
MAX_OPS, MAX_BYTES = 1_000, 4 * 1024 * 1024
#: Characters of a reason, and of a traceback: a message whose headers are too long cannot be shown whole.
MAX_REASON, MAX_TRACE = 500, 4_000
_HERE = str(Path(__file__).parent)


@attrs.frozen
class Who:
    """Who works: host and process, and which version of the code he runs."""

    worker: str = ""
    version: str = ""


@attrs.define(eq=False)
class Unit:
    """What is said of one input."""

    loan: Loan
    ops: list[dict[str, Any]]
    #: Bytes of what it publishes, about.
    size: int = 0
    outputs: Sequence[Event] = ()
    #: Why it failed, for the log; empty: it did not.
    failure: str = ""
    #: True if it was given back, as not tried.
    returned: bool = False


def done(loan: Loan, outputs: Sequence[Event]) -> Unit:
    """It succeeded."""
    ops = [{"ack": loan.said}, *map(publish, outputs)]
    return Unit(loan, ops, sum(_size(event) for event in outputs), outputs)


def back(loan: Loan) -> Unit:
    """It is given back, and was not tried."""
    return Unit(loan, [{"nack": {**loan.said, "free": True}}], returned=True)


def failed(stage: Stage, loan: Loan, error: BaseException, who: Who) -> Unit:
    """It failed: again later, or to the dead."""
    if isinstance(error, Later):
        return back(loan)
    reason = reason_of(error)
    attempt = loan.event.attempt
    if isinstance(error, Reject) or attempt > stage.retries:
        return dead(stage, loan, reason, who, _trace(error))
    after = error.after if isinstance(error, Retry) and error.after is not None else stage.waits(attempt)
    nack = {**loan.said, "delay": after, "reason": reason}
    return Unit(loan, [{"nack": nack}], failure=f"{reason} (attempt {attempt}, again in {after:g} s)")


def dead(stage: Stage, loan: Loan, reason: str, who: Who, trace: str = "") -> Unit:
    """It is given up: moved to the dead channel, as it is, with who could not do what."""
    event, channel = loan.event, loan.event.channel
    target = stage.dead_of(channel)
    if not target or not event.raw:  # an empty message can be moved by the broker only
        nack = {**loan.said, "dead": True}
        return Unit(loan, [{"nack": nack}], failure=f"{reason} (dropped)")
    said = {
        "deadreason": reason[:MAX_REASON],
        "deadfrom": channel,
        "deadstage": stage.full_name,
        "deadworker": who.worker,
        "deadversion": who.version,
        "deadtrace": trace[-MAX_TRACE:],
        "attempt": str(event.attempt),
    }
    deaths = event.headers.get("dead-letter-count", "")
    headers = {
        "original-destination": f"/queue/{channel}",
        "dead-letter-reason": reason[:MAX_REASON].replace("\n", " "),
        "dead-letter-attempts": str(event.attempt),
        "dead-letter-count": str(int(deaths) + 1 if deaths.isdigit() and len(deaths) < 10 else 1),
        "dead-letter-time": str(int(time.time() * 1000)),
    }
    letter = attrs.evolve(
        event,
        channel=target,
        attributes={**event.attributes, **{name: value for name, value in said.items() if value}},
        headers={**event.headers, **headers},
        delay=0,
    )
    return Unit(loan, [{"ack": loan.said}, publish(letter)], _size(letter), failure=f"{reason} (dead: {target})")


def unburied(stage: Stage, loan: Loan, reason: str) -> Unit:
    """It is given up, and the dead channel refuses it: back to its place for as long as the stage ever waits."""
    nack = {**loan.said, "delay": max(stage.backoff, default=0), "reason": reason[:MAX_REASON]}
    return Unit(loan, [{"nack": nack}], failure=reason)


def commits(units: Iterable[Unit]) -> list[list[Unit]]:
    """The units, as many together as one commit takes."""
    found: list[list[Unit]] = []
    ops = size = 0
    for unit in units:
        if not found or ops + len(unit.ops) > MAX_OPS or size + unit.size > MAX_BYTES:
            found.append([])
            ops = size = 0
        found[-1].append(unit)
        ops += len(unit.ops)
        size += unit.size
    return found


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    said = " ".join(str(error).split())
    if isinstance(error, Retry | Reject) and type(error).__module__ == Retry.__module__:
        return (said or type(error).__name__)[:MAX_REASON]
    return (f"{type(error).__name__}: {said}" if said else type(error).__name__)[:MAX_REASON]


def too_much(unit: Unit) -> Reject | None:
    """Why no commit can hold it, however often it is tried."""
    if len(unit.ops) > MAX_OPS:
        return Reject(f"{len(unit.outputs)} outputs of one input: a commit holds {MAX_OPS - 1}")
    return None


def _size(event: Event) -> int:
    # JSON may write a byte as six characters, base64 three as four; headers are beside it
    return len(event.raw) * 4 // 3 + 500 + sum(map(len, event.attributes.values()))


def _trace(error: BaseException) -> str:
    trace = error.__traceback__
    if trace is None or type(error).__module__ == Retry.__module__:
        return ""
    while trace.tb_next is not None and trace.tb_frame.f_code.co_filename.startswith(_HERE):
        trace = trace.tb_next  # what we do to call it is no news
    return "".join(traceback.format_exception(type(error), error, trace))
