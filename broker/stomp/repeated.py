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
from broker.stomp.messages import USER, to_message
from broker.stomp.wire import Head, Repeated

#: Blocks of which a session knows what they mean to it.
_KNOWN = 16
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
    """One session's. `own` gives the headers that the broker writes."""

    def __init__(self, names: Names, own: Callable[[], dict[str, str]]) -> None:
        self._names = names
        self._own = own
        self._known: dict[Head, Plan | None] = {}

    def of(self, repeated: Repeated) -> Plan | None:
        """None: there is more to it, and it is to be obeyed as any other frame."""
        head = repeated.head
        if head not in self._known:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[head] = self._made(head)
        return self._known[head]

    def _made(self, head: Head) -> Plan | None:
        headers = head.headers
        if "transaction" in headers or "user-id" in headers or headers.get("reply-to", "").startswith(_TEMPORARY):
            return None
        try:
            (target, *others) = self._names.parse(headers.get("destination", ""))
            message = to_message(headers, b"", self._own(), 0)
        except Refused:
            return None  # to be said of each by itself
        if others or target.form is not Form.PLAIN or not target.is_plain:
            return None
        plain = Message(headers=message.headers, content_type=message.content_type)
        return Plan(target.destination, plain) if message == plain else None


def own_headers(user: str) -> dict[str, str]:
    """What the broker writes of a sender whose name it is asked to tell; empty: it is not."""
    return {USER: user} if user else {}
