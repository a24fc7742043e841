"""Taking messages and ending loans: one by one, several at once, and several ends in one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
from twisted.internet.task import deferLater

from broker.core.binding import named_source
from broker.core.broker import Broker
from broker.core.delivery import Delivery
from broker.errors import BadValue, LeaseLost, NotFound, OverLimit
from broker.http import metadata
from broker.http.call import Answer, Call
from broker.http.counts import Counts
from broker.http.parameters import FORM, LONG_POLL, MAX_SECONDS, MULTIPART, Integer, wait_of
from broker.http.problem import Problem
from broker.http.rendering import delivered, form_of
from broker.http.workers import Workers

#: Messages, and bytes of bodies, that one request takes at most. One larger message is always taken.
MAX_BATCH, MAX_BATCH_BYTES = 1_000, 1024 * 1024
#: Messages taken in one reactor turn: 100 take 5 ms, and more where a channel has very many priorities.
_PER_TURN = 100
#: Bytes of bodies written in one reactor turn: 1 MiB of JSON takes 100 ms.
_BYTES_PER_TURN = 256 * 1024
#: Characters of a reason that are kept.
MAX_REASON = 1_000


class Wanted(msgspec.Struct, frozen=True):
    """What ``POST /channels/C/lease`` may say in JSON, beside or instead of parameters. Seconds."""

    max: Integer = 1
    wait: Integer = 0
    timeout: Integer | None = None
    #: Who takes them, and which version of what he runs; see `Workers`.
    worker: str = ""
    code: str = ""
    #: The same again gets the same messages again.
    attempt: str = ""


class Consuming:
    """``GET /channels/C``, ``/lease``, and the ends of loans under ``/messages``."""

    def __init__(self, broker: Broker, counts: Counts, workers: Workers) -> None:
        self._broker = broker
        self._counts = counts
        self._workers = workers

    async def take(self, call: Call) -> Answer:
        """``GET /channels/C``: the next message, on loan for its lease; 204 if none comes in time."""
        self._counts.takes += 1
        name, lease = call.match.channel, _lease_of(call)
        how = (call.parameters.text("ack") or "").lower()
        if how not in ("", "auto"):
            raise BadValue("Invalid message ack: auto, or leave it out.")
        wait = wait_of(call.parameters, call.said.last("prefer"))
        worker, code = (call.parameters.text(name) or "" for name in ("worker", "code"))
        call.access.room()
        taken = await self._next(call, wait, 1, 1, leased=not how, lease=lease)
        if not taken:
            return _nothing(name)
        (delivery,) = taken
        call.access.lent(taken)
        with self._back_unless_answered(taken):
            answer = delivered(call, delivery, self._broker.now())
        if not how:
            self._workers.took(name, worker, code, taken, self._broker.now())
            return msgspec.structs.replace(answer, lost=partial(self._lost, taken))
        if delivery.reader.queue.policy.get_settles == "before":
            await self._broker.ack([delivery])
            return answer
        return msgspec.structs.replace(answer, sent=partial(self._sent, delivery))

    async def _next(self, call: Call, wait: int, most: int, size: int, *, leased: bool, lease: int) -> list[Delivery]:
        """The next messages, as far as they are at hand, at least one; none if none comes in time; `OverLimit`.

        What is at hand is taken without a wait: 15 us less. That nothing is ready is said at once: 75 us less.
        """
        name = call.match.channel
        if named_source(name) is None:  # else the first take has it read another queue
            found = self._broker.several_at_hand(name, most, size, leased=leased, lease=lease)
            if found:
                return found
            if not wait and self._broker.nothing_ready(name):
                self._broker.status.check_take()
                return []
        delivery = await call.wait(self._broker.take(name, wait=wait, leased=leased, lease=lease))
        if delivery is None:
            return []
        with self._back_unless_answered([delivery]):
            room = call.access.room()  # other requests of his may have used it up meanwhile
        return self._broker.with_share(delivery, min(most, room), size, leased=leased, lease=lease)

    def _sent(self, delivery: Delivery, all_of_it: bool) -> None:
        """An answer with ``ack=auto`` is out of our send buffer, or its client is gone."""
        if not delivery.on_loan:
            return  # purged meanwhile
        if all_of_it:
            _ = self._broker.ack([delivery]).addErrback(lambda _: None)  # the journal goes on trying
        else:
            self._broker.lost([delivery])

    async def peek(self, call: Call) -> Answer:
        """``HEAD /channels/C``: what a GET with ``nowait`` would bring, left where it is."""
        name = call.match.channel
        delivery = await call.wait(self._broker.peek(name))
        return _nothing(name) if delivery is None else delivered(call, delivery, self._broker.now())

    async def lease(self, call: Call) -> Answer:
        """``POST /channels/C/lease``: several messages, each on loan; 204 if none comes in time."""
        self._counts.takes += 1
        name, wanted = call.match.channel, await _wanted(call)
        lease = 0 if wanted.timeout is None else min(wanted.timeout, MAX_SECONDS) * 1000
        taken = self._workers.again(name, wanted.attempt)
        again, size, turn = bool(taken), 0, 0
        wait = wanted.wait
        with self._back_unless_answered(taken):
            while not again and len(taken) < wanted.max and size < MAX_BATCH_BYTES:
                try:
                    room = min(wanted.max - len(taken), _PER_TURN - turn, call.access.room())
                    found = await self._next(call, wait, room, MAX_BATCH_BYTES - size, leased=True, lease=lease)
                except OverLimit:
                    if not taken:
                        raise
                    break
                if not found:
                    break
                taken += found
                call.access.lent(found)
                size += sum(len(delivery.message.body) for delivery in found)
                if self._broker.contended(name):
                    break  # what follows is for those who wait: joining them for each message made 469 calls 641
                wait, turn = 0, turn + len(found)
                if turn == _PER_TURN:
                    turn = 0
                    await deferLater(self._broker.clock, 0)
            answer = await self._written(call, taken) if taken else _nothing(name)
        if not again:
            self._workers.took(name, wanted.worker, wanted.code, taken, self._broker.now())
            self._workers.attempted(name, wanted.attempt, taken)
        # whoever asks again gives back nothing: the next answer may reach him
        return answer if wanted.attempt else msgspec.structs.replace(answer, lost=partial(self._lost, taken))

    async def _written(self, call: Call, taken: list[Delivery]) -> Answer:
        form, now, pieces, size = form_of(call), self._broker.now(), [], 0
        for delivery in taken:
            pieces.append(form.one(delivery, now))
            size += len(delivery.message.body)
            if size >= _BYTES_PER_TURN:
                size = 0
                await deferLater(self._broker.clock, 0)
        return form.together(pieces)

    @contextmanager
    def _back_unless_answered(self, taken: list[Delivery]) -> Iterator[None]:
        """Give back what was taken if the answer that would name it is not made."""
        try:
            yield
        except BaseException:
            self._broker.release(taken)
            raise

    def _lost(self, taken: list[Delivery]) -> None:
        """A client that is gone before it has the whole answer does not keep its messages for a lease."""
        self._broker.lost(taken)

    # -- by id

    async def settle(self, call: Call) -> Answer:
        """``DELETE /messages/N``: by anyone, in any state; with ``lease`` only while it is on loan under that."""
        with known():
            if call.parameters.text("lease") is None:
                await self._broker.settle(call.match.message)
            else:
                await self._broker.ack([held(self._broker, call.match.message, call.parameters.text("lease"))])
        return Answer(204)

    async def touch(self, call: Call) -> Answer:
        """``POST /messages/N/touch``: its lease begins anew; a message that waits is hidden for one."""
        token = call.parameters.text("lease")
        with known():
            if token is not None:
                held(self._broker, call.match.message, token)
            await self._broker.touch(call.match.message, _lease_of(call))
        return Answer(204)

    async def nack(self, call: Call) -> Answer:
        """``POST /messages/N/nack``: give it back as failed; ``dead``: for good; ``free``: not as failed."""
        said = call.parameters
        delay = said.milliseconds("delay", least=0, called="delay")
        reason = (said.text("reason") or "")[:MAX_REASON]
        with known():
            delivery = held(self._broker, call.match.message, said.text("lease"))
            if said.flag("dead"):
                await self._broker.reject([delivery])
                return Answer(204)
            if said.flag("free"):
                self._broker.release([delivery])
            else:
                self._broker.nack([delivery], reason=reason, delay=delay)
            await self._broker.durable()
        return Answer(204)


def held(broker: Broker, id: int, token: str | None) -> Delivery:
    """What is on loan under this id, and under this lease if a token is given; `LeaseLost`, `NotFound`."""
    delivery = broker.find(id)
    if delivery is None and broker.queue_of(id) is None:
        raise NotFound("Message not found.")
    if delivery is None or delivery.delayed or delivery.claimed:
        raise LeaseLost(f"message {id} is not on loan")
    if token is not None and delivery.token != token:
        raise LeaseLost(f"message {id} is not on loan under this lease")
    return delivery


@contextmanager
def known() -> Iterator[None]:
    """Linger's answer about a message that is not there."""
    try:
        yield
    except NotFound:
        raise Problem(404, "not-found", "Message not found.", silent=True) from None


def _nothing(channel: str) -> Answer:
    return Answer(204, fields=[(b"X-Linger-Channel", metadata.header_name(channel))])


def _lease_of(call: Call) -> int:
    """The lease the consumer wants (ms); 0: he says nothing."""
    return call.parameters.milliseconds("timeout", least=1, called="visibility timeout") or 0


async def _wanted(call: Call) -> Wanted:
    """What a batch is to be; `Problem`, `BadValue`."""
    said: Any = await call.document() if _json(call) else {}
    try:
        wanted = msgspec.convert(said, Wanted)
    except msgspec.ValidationError as error:
        raise BadValue(f"Invalid body: {error}") from None
    parameters = call.parameters
    limit = parameters.integer("limit", least=1, called="limit")
    timeout = parameters.integer("timeout", least=1, called="visibility timeout")
    wanted = Wanted(
        max=min(wanted.max if limit is None else limit, MAX_BATCH),
        wait=wait_of(parameters, None) if "wait" in parameters else wanted.wait,
        timeout=wanted.timeout if timeout is None else timeout,
        worker=parameters.text("worker") or wanted.worker,
        code=parameters.text("code") or wanted.code,
        attempt=parameters.text("attempt") or wanted.attempt,
    )
    if wanted.max < 1 or not 0 <= wanted.wait <= LONG_POLL or (wanted.timeout is not None and wanted.timeout < 1):
        raise BadValue(f"Invalid body: max is 1 or more, wait 0 to {LONG_POLL}, timeout 1 or more.")
    return wanted


def _json(call: Call) -> bool:
    """True if the body should be JSON: it is there, and is not made of parameters."""
    kind = (call.content_type or "").lower()
    return bool(call.received) and not kind.startswith((FORM, MULTIPART))
