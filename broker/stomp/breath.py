"""What a client says in one breath: SENDs and ACKs that came together are put in, and settled, together.

Each by itself would be a unit, a promise and an answer of its own, and ride in the same commit. What that saves stands
where it is done: `broker.core.burst` for SENDs, `broker.stomp.wire` for ACKs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from broker.core.burst import Burst
from broker.core.destination import Destination
from broker.errors import BrokerError, OverLimit
from broker.outbox import Outbox, Promise
from broker.stomp.frames import Acks, Frame, Repeated
from broker.stomp.repeated import Plan
from broker.stomp.session import Session

#: ACKs that are settled together: as many messages as a reactor turn may handle.
MAX_ACKS = 1_000
#: SENDs that were gathered, and bytes of their bodies, from which on no further burst joins; each is bounded itself.
MAX_SENDS = 256
MAX_SENT = 1024 * 1024


class Refuse(Protocol):
    """Answers that frames are refused, in the place of `promise` if it is given; it may end the connection."""

    def __call__(self, error: BaseException, *frames: Frame, promise: Promise | None = None) -> None: ...


class Breath:
    """One connection's, again and again: `send` and `ack` as long as they come, then `out`.

    `reply_after` promises what a client is told once a Deferred has fired. `goes_on` is False once nothing more is to
    be obeyed.
    """

    def __init__(
        self,
        session: Session,
        outbox: Outbox,
        *,
        trailing_lf: bool,
        refuse: Refuse,
        reply_after: Callable[[Deferred[Any], Frame, bytes], None],
        goes_on: Callable[[], bool],
    ) -> None:
        self._session = session
        self._outbox = outbox
        self._end = b"\n\n\0\n" if trailing_lf else b"\n\n\0"
        self._refuse = refuse
        self._reply_after = reply_after
        self._goes_on = goes_on
        self._sends: list[Repeated] = []
        #: What puts them in, where the last of them goes, and the bytes of the bodies in all others.
        self._bursts: list[Burst] = []
        self._sent_to: Destination | None = None
        self._sent = 0
        self._acks = 0

    def send(self, send: Repeated) -> bool:
        """Have it put in with the others; False if it must be by itself."""
        plan = self._session.plan(send)
        if plan is None:
            return False
        if self._bursts and self._sent_to == plan.destination:
            return self._add(self._bursts[-1], plan, send)
        burst = self._session.burst(plan.destination)
        if burst is None:
            return False
        if self._bursts:
            last = self._bursts[-1]
            self._sent += last.bodies
            if burst.alone or last.alone or len(self._sends) >= MAX_SENDS or self._sent >= MAX_SENT:
                self.out()
        return self._add(burst, plan, send)

    def _add(self, burst: Burst, plan: Plan, send: Repeated) -> bool:
        try:
            if not self._session.add(burst, plan, send.body):
                return False
        except OverLimit as error:
            self.out()
            self._refuse(error, send.frame)
            return True
        if not self._bursts or burst is not self._bursts[-1]:
            self._bursts.append(burst)
            self._sent_to = plan.destination
        self._sends.append(send)
        return True

    def ack(self, frame: Frame) -> bool:
        """Have it settled with the others; False if it must be obeyed by itself."""
        if "receipt" in frame.headers or "transaction" in frame.headers:
            return False
        try:
            self._session.gather_ack(frame)
        except Exception as error:
            self.out()
            self._refuse(error, frame)
        self._count(1)
        return True

    def acks(self, acks: Acks) -> None:
        """The same for ACKs that came together; one after the other if one of them is not as it should be."""
        if self._session.gather_acks(acks):
            self._count(len(acks.numbers))
            return
        for frame in acks.frames:
            if not self._goes_on():
                return  # one of them was refused, and that was the end
            self.ack(frame)

    def _count(self, acks: int) -> None:
        self._acks += acks
        if self._acks >= MAX_ACKS:
            self.out()

    def out(self) -> None:
        """Put in, and then settle, what there is: never an input before its output."""
        if self._sends:
            self._put_in()
        if self._acks:
            self._acks = 0
            try:
                settled = self._session.settle()
            except Exception as error:
                self._refuse(error, Frame("ACK"))
                return
            if settled is not None:
                self._reply_after(settled, Frame("ACK"), b"")

    def _put_in(self) -> None:
        """Their receipts are one reply."""
        bursts, self._bursts = self._bursts, []
        sends, self._sends = self._sends, []
        promise = self._outbox.promise(self._sent + bursts[-1].bodies, len(sends))
        self._sent = 0
        end = self._end
        receipts = b"".join(
            [b"RECEIPT\nreceipt-id:" + send.receipt + end for send in sends if send.receipt is not None]
        )

        def told(error: BrokerError | None) -> None:
            if error is None:
                promise.keep(receipts)
            else:
                self._refuse(error, *[send.frame for send in sends], promise=promise)

        self._session.put(bursts, told)
