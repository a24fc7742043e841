"""``POST /commit``: acks, nacks, touches and publishes that become true together, or one by one with ``atomic=0``."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import msgspec
from twisted.internet.threads import deferToThread

from broker.auth.door import Access
from broker.core.broker import Broker
from broker.core.destination import Destination, queue, topic
from broker.core.message import Message
from broker.core.route import Published
from broker.core.transaction import Transaction
from broker.errors import BadValue, BrokerError, MessageTooLarge
from broker.http import problem
from broker.http.call import AT_ONCE, SLACK, Answer, Call, json
from broker.http.cloudevents import message_of
from broker.http.consuming import MAX_REASON, held
from broker.http.elements import OPS, elements, wrong
from broker.http.parameters import MAX_SECONDS, Integer
from broker.http.problem import Problem

#: Operations in one request.
MAX_OPS = 1_000


class Loan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message on loan, and the lease under which it is."""

    id: Integer
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
    priority: Integer = 0
    delay: float = 0
    linger: float = 0
    timeout: float = 0
    deliver: Integer = 0
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


_ops = msgspec.json.Decoder(list[Op])


class Step(msgspec.Struct, frozen=True):
    """An operation that was read: what it publishes, or why it cannot be."""

    op: Op
    publish: tuple[Destination, Message] | None = None
    error: BrokerError | None = None


class Commit:
    """The endpoint."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def commit(self, call: Call) -> Answer:
        """``POST /commit``: all of it or nothing; ``atomic=0``: each by itself, with the outcome of each."""
        body, size = call.json_body(), call.limits.size
        steps = await deferToThread(_steps, body, size) if len(body) > AT_ONCE else _steps(body, size)
        if call.parameters.text("atomic") is not None and not call.parameters.flag("atomic"):
            return json(200, {"results": await self._one_by_one(call, steps)})
        transaction = self._broker.begin()
        failed: list[tuple[int, BrokerError]] = []
        for number, step in enumerate(steps):
            try:
                self._add(call, transaction, step)
            except BrokerError as error:
                failed.append((number, error))
        if failed:
            transaction.abort()
            raise _refused(failed)
        await transaction.commit()
        published = iter(transaction.published)
        return json(200, {"results": [_done(step.op, next(published) if step.publish else None) for step in steps]})

    async def _one_by_one(self, call: Call, steps: list[Step]) -> list[dict[str, Any]]:
        """The outcome of each. Acks in a row share a commit, as none can spoil another: 20 us less for each."""
        results: list[dict[str, Any]] = []
        for acks, run in groupby(steps, lambda step: step.op.ack is not None):
            if acks:
                results += await self._acked(call, list(run))
            else:
                results += [await self._alone(call, step) for step in run]
        return results

    async def _acked(self, call: Call, steps: list[Step]) -> list[dict[str, Any]]:
        transaction = self._broker.begin()
        results: list[dict[str, Any]] = []
        for step in steps:
            try:
                self._add(call, transaction, step)
                results.append(_done(step.op, None))
            except BrokerError as error:
                results.append(_trouble(error))
        if not transaction.count:
            transaction.abort()
            return results
        try:
            await transaction.commit()
        except BrokerError as error:
            transaction.abort()
            return [_trouble(error) if result["status"] == 204 else result for result in results]
        return results

    async def _alone(self, call: Call, step: Step) -> dict[str, Any]:
        transaction = self._broker.begin()
        try:
            self._add(call, transaction, step)
            await transaction.commit()
        except BrokerError as error:
            transaction.abort()
            return _trouble(error)
        return _done(step.op, next(iter(transaction.published), None))

    def _add(self, call: Call, transaction: Transaction, step: Step) -> None:
        if step.error is not None:
            raise step.error
        if step.publish is not None:
            destination, message = step.publish
            call.access.publish(destination)
            call.access.put_in(1, len(message.body))
            transaction.publish(destination, message)
        for loan in (step.op.ack, step.op.nack, step.op.touch):
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


def _steps(body: bytes, size: int) -> list[Step]:
    """The operations of a body, no message larger than `size`; `Problem` with the place of what is wrong.

    For any thread, as `broker.http.batch` is.
    """
    found: list[Step] = []
    if (ops := _short(body)) is not None:
        return [_step(op, size) for op in ops]
    for said in elements(body, 2 * size + SLACK, OPS):
        if len(found) == MAX_OPS:
            raise BadValue(f"Invalid body: at most {MAX_OPS} operations are allowed.")
        found.append(_step(_op(said, len(found)), size))
    return found


def _short(body: bytes) -> list[Op] | None:
    """The operations of a short body in which nothing is wrong, read in one go: 6 us less for each; else None."""
    if len(body) > AT_ONCE:
        return None
    begin, last = body.find(b"["), body.rfind(b"]")
    before, after = body[: begin + 1].decode("latin-1"), body[last:].decode("latin-1")
    if not OPS.opening.fullmatch(before) or not OPS.closing.fullmatch(after):
        return None
    try:
        ops = _ops.decode(body[begin : last + 1])
    except (ValueError, RecursionError):
        return None  # wherever it is, whoever reads one after the other finds it
    whole = len(ops) <= MAX_OPS and all(map(_is_one, ops))
    return ops if whole else None


def _is_one(op: Op) -> bool:
    return [op.ack, op.nack, op.touch, op.publish].count(None) == 3


def _step(op: Op, size: int) -> Step:
    if op.publish is None:
        return Step(op)
    try:
        return Step(op, _published(op.publish, size))
    except BrokerError as error:
        return Step(op, error=error)


def _op(said: bytes, number: int) -> Op:
    try:
        op = msgspec.json.decode(said, type=Op)
    except (ValueError, RecursionError) as error:
        words, _, place = str(error).partition(" - at `$")
        # a member of any name is [...]
        within = place.rstrip("`").replace("[...]", "").replace("[", ".").replace("]", "").replace(".", "/")
        reason = f"Invalid body: ops[{number}]{place.rstrip('`')}: {words}"
        raise wrong(400, "bad-parameter", reason, OPS, number, within) from None
    if not _is_one(op):
        raise wrong(400, "bad-parameter", f"Invalid body: ops[{number}] is not one operation.", OPS, number)
    return op


def _published(post: Post, size: int) -> tuple[Destination, Message]:
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
    if len(message.body) > size:
        raise MessageTooLarge(f"publish: the message has {len(message.body)} bytes, at most {size} are allowed")
    if post.deliver < 0:
        raise BadValue("publish: deliver is 0 or more")
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


def _trouble(error: BrokerError) -> dict[str, Any]:
    trouble = problem.of(error)
    return {"status": trouble.status, "type": f"/problems/{trouble.kind}", "detail": trouble.reason}


def _done(op: Op, outcome: Published | None) -> dict[str, Any]:
    if op.publish is None or outcome is None:
        return {"status": 204}
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
