"""``POST /commit``: acks, nacks, touches and publishes that become true together, or one by one with ``atomic=0``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from broker.auth.door import Access
from broker.core.broker import Broker
from broker.core.destination import Destination, queue, topic
from broker.core.message import Message
from broker.core.route import Published
from broker.core.transaction import Transaction
from broker.errors import BadValue, BrokerError, MessageTooLarge
from broker.http import problem
from broker.http.call import Answer, Call, Limits, json
from broker.http.cloudevents import message_of
from broker.http.consuming import MAX_REASON, held
from broker.http.parameters import MAX_SECONDS
from broker.http.problem import Problem

#: Operations in one request.
MAX_OPS = 1_000


class Loan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message on loan, and the lease under which it is."""

    id: int
    lease: str | None = None


class Back(Loan, frozen=True, forbid_unknown_fields=True):
    """How it is given back. `delay` in seconds."""

    delay: float | None = None
    reason: str = ""
    dead: bool = False
    free: bool = False


class Again(Loan, frozen=True, forbid_unknown_fields=True):
    """For how many seconds the lease begins anew; None: its own length."""

    timeout: float | None = None


class Post(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message to publish: as `event`, or as `body` with its type. Times in seconds."""

    channel: str | None = None
    topic: str | None = None
    event: dict[str, Any] | None = None
    body: str | None = None
    content_type: str | None = None
    headers: dict[str, str] = {}
    priority: int = 0
    delay: float = 0
    linger: float = 0
    timeout: float = 0
    deliver: int = 0
    group: str = ""
    key: str = ""


class Op(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One operation: exactly one of the four."""

    ack: Loan | None = None
    nack: Back | None = None
    touch: Again | None = None
    publish: Post | None = None


class Ops(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body."""

    ops: list[Op]


class Commit:
    """The endpoint."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def commit(self, call: Call) -> Answer:
        """``POST /commit``: all of it or nothing; ``atomic=0``: each by itself, with the outcome of each."""
        ops = _ops(await call.document())
        if call.parameters.text("atomic") is not None and not call.parameters.flag("atomic"):
            results = [await self._alone(call, op) for op in ops]
            return json(200, {"results": results})
        transaction = self._broker.begin()
        failed: list[tuple[int, BrokerError]] = []
        for number, op in enumerate(ops):
            try:
                self._add(call, transaction, op)
            except BrokerError as error:
                failed.append((number, error))
        if failed:
            transaction.abort()
            raise _refused(failed)
        await transaction.commit()
        published = iter(transaction.published)
        return json(200, {"results": [_done(op, published.__next__) for op in ops]})

    async def _alone(self, call: Call, op: Op) -> dict[str, Any]:
        transaction = self._broker.begin()
        try:
            self._add(call, transaction, op)
            await transaction.commit()
        except BrokerError as error:
            transaction.abort()
            trouble = problem.of(error)
            return {"status": trouble.status, "type": f"/problems/{trouble.kind}", "detail": trouble.reason}
        return _done(op, iter(transaction.published).__next__)

    def _add(self, call: Call, transaction: Transaction, op: Op) -> None:
        if op.publish is not None:
            destination, message = _published(op.publish, call.limits)
            call.access.publish(destination)
            transaction.publish(destination, message)
        for loan in (op.ack, op.nack, op.touch):
            if loan is not None:
                self._end(call.access, transaction, loan)

    def _end(self, access: Access, transaction: Transaction, loan: Loan) -> None:
        access.settle(loan.id)
        one = [held(self._broker, loan.id, loan.lease)]
        match loan:
            case Back(dead=True):
                transaction.reject(one)
            case Back(free=True):
                transaction.release(one)
            case Back():
                delay = None if loan.delay is None else _milliseconds(loan.delay, "delay")
                transaction.nack(one, reason=loan.reason[:MAX_REASON], delay=delay)
            case Again():
                transaction.touch(one, 0 if loan.timeout is None else max(_milliseconds(loan.timeout, "timeout"), 1))
            case _:
                transaction.ack(one)


def _ops(said: object) -> list[Op]:
    try:
        ops = msgspec.convert(said, Ops).ops
    except msgspec.ValidationError as error:
        words, _, place = str(error).partition(" - at `$")
        where = {"pointer": place.rstrip("`").replace("[", ".").replace("]", "").replace(".", "/")}
        said = {"errors": [{"detail": words, **(where if place else {})}]}
        raise Problem(400, "bad-parameter", f"Invalid body: {error}", said=said) from None
    if len(ops) > MAX_OPS:
        raise BadValue(f"Invalid body: {len(ops)} operations, at most {MAX_OPS} are allowed.")
    for number, op in enumerate(ops):
        if [op.ack, op.nack, op.touch, op.publish].count(None) != 3:
            said = {"errors": [{"detail": "one of ack, nack, touch, publish", "pointer": f"/ops/{number}"}]}
            raise Problem(400, "bad-parameter", f"Invalid body: ops[{number}] is not one operation.", said=said)
    return ops


def _published(post: Post, limits: Limits) -> tuple[Destination, Message]:
    if (post.channel is None) == (post.topic is None):
        raise BadValue("publish: either channel or topic says where to")
    destination = queue(post.channel) if post.channel is not None else topic(post.topic or "")
    if (post.event is None) == (post.body is None):
        raise BadValue("publish: either event or body says what")
    if post.event is not None:
        message = message_of(post.event)
    else:
        message = Message(body=(post.body or "").encode(), content_type=post.content_type)
    if not message.body:
        raise BadValue("publish: the message is empty")
    if len(message.body) > limits.size:
        raise MessageTooLarge(f"publish: the message has {len(message.body)} bytes, at most {limits.size} are allowed")
    if not -(2**63) <= post.priority < 2**63 or not 0 <= post.deliver < 2**63:
        raise BadValue("publish: priority and deliver are numbers of 64 bits")
    return destination, msgspec.structs.replace(
        message,
        headers={name.lower(): value for name, value in post.headers.items()} | message.headers,
        priority=post.priority,
        delay=_milliseconds(post.delay, "delay"),
        ttl=_milliseconds(post.linger, "linger"),
        lease=_milliseconds(post.timeout, "timeout"),
        max_attempts=post.deliver,
        group=post.group,
        key=post.key,
    )


def _milliseconds(seconds: float, called: str) -> int:
    if not 0 <= seconds < float("inf"):
        raise BadValue(f"{called}: not a number of seconds")
    return int(min(seconds, MAX_SECONDS) * 1000)


def _done(op: Op, published: Callable[[], Published]) -> dict[str, Any]:
    if op.publish is None:
        return {"status": 204}
    outcome = published()
    if op.publish.topic is not None:
        found: dict[str, Any] = {"status": 202, "ids": outcome.deliveries}
    else:
        found = {"status": 202, "id": next(iter(outcome.deliveries.values()), 0)}
    return found | ({"duplicate": True} if outcome.duplicate else {})


def _refused(failed: list[tuple[int, BrokerError]]) -> Problem:
    """Why nothing was done, by the first that failed; a lease that is lost, and a message that is gone, are one."""
    first = problem.of(failed[0][1])
    status, kind = (409, "lease-lost") if first.status == 404 else (first.status, first.kind)
    errors = [{"detail": error.reason, "pointer": f"/ops/{number}"} for number, error in failed]
    said = {"failed": [number for number, _ in failed], "errors": errors}
    return Problem(status, kind, first.reason, retry_after=first.retry_after, said=said)
