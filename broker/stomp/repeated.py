"""Header blocks that come again and again: a producer says the same of each message, but for its receipt.

To take such a block apart, to look up what its destination means and which headers are kept takes 12 us; to find that
it was here before takes 1.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.core.destination import Destination
from broker.core.message import Message
from broker.stomp.destinations import TEMPORARY, Form, Names
from broker.stomp.errors import Refused
from broker.stomp.frames import Repeated
from broker.stomp.heads import Head
from broker.stomp.messages import USER, to_message

#: Senders of whom it is known what a block means that they share.
_SENDERS = 16
_TEMPORARY = tuple(TEMPORARY)


class Plan:
    """What a SEND with such a header block is: a message for one destination, of which nothing else is wished."""

    __slots__ = ("_template", "destination")

    def __init__(self, destination: Destination, template: Message) -> None:
        self.destination = destination
        self._template = template

    def message(self, body: bytes) -> Message:
        """The message with this body."""
        return Message(body=body, headers=self._template.headers, content_type=self._template.content_type)


class Plans:
    """One session's. `user` gives the name that the broker tells of it, if it tells one.

    What a block means to one session it means to all of that user: nothing in it is the session's own.
    """

    def __init__(self, names: Names, user: Callable[[], str]) -> None:
        self._names = names
        self._user = user

    def of(self, repeated: Repeated) -> Plan | None:
        """None: there is more to it, and it is to be obeyed as any other frame."""
        head, user = repeated.head, self._user()
        plans: dict[str, Plan | None] = head.plans
        if user not in plans:
            if len(plans) >= _SENDERS:
                plans.clear()
            plans[user] = self._made(head, user)
        return plans[user]

    def _made(self, head: Head, user: str) -> Plan | None:
        headers = head.headers
        if "transaction" in headers or "user-id" in headers or headers.get("reply-to", "").startswith(_TEMPORARY):
            return None
        try:
            (target, *others) = self._names.parse(headers.get("destination", ""))
            message = to_message(headers, b"", own_headers(user), 0)
        except Refused:
            return None  # to be said of each by itself
        if others or target.form is not Form.PLAIN or not target.is_plain:
            return None
        plain = Message(headers=message.headers, content_type=message.content_type)
        return Plan(target.destination, plain) if message == plain else None


def own_headers(user: str) -> dict[str, str]:
    """What the broker writes of a sender whose name it is asked to tell; empty: it is not."""
    return {USER: user} if user else {}
