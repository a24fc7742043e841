"""Several messages in one body: an array of JSON, lines of it, or a batch of events."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from broker.core.message import Message
from broker.errors import BrokerError
from broker.http import cloudevents
from broker.http.call import SLACK
from broker.http.elements import ARRAY, elements, wrong
from broker.http.problem import Problem
from broker.http.rendering import JSON, NDJSON

#: Messages in one batch.
MAX_BATCH = 1_000

_LINES = (NDJSON, "application/jsonl", "application/x-jsonlines")
_line = re.compile(rb"[^\r\n]+")


def messages_of(media: str, body: bytes, size: int) -> list[Message]:
    """The messages of a batch, none of them larger than `size`; `Problem` with the place of what is wrong.

    For any thread: 8 MiB take 0.1 s, in pieces of one message.
    """
    if media not in (JSON, cloudevents.BATCH, *_LINES):
        known = f"{JSON} (an array), {NDJSON}, {cloudevents.BATCH}"
        raise Problem(415, "unsupported-type", f"A batch is one of {known}.")
    found: list[Message] = []
    for said in _lines(body) if media in _LINES else elements(body, 2 * size + SLACK):
        if len(found) == MAX_BATCH:
            raise Problem(413, "too-large", f"The batch has more than {MAX_BATCH} messages.")
        found.append(_message(media, said, len(found), size))
    if not found:
        raise Problem(400, "empty-message", "There is no message in the batch.")
    return found


def _lines(body: bytes) -> Iterator[bytes]:
    return (line for found in _line.finditer(body) if (line := found[0].strip()))


def _message(media: str, said: bytes, number: int, size: int) -> Message:
    if media != cloudevents.BATCH and len(said) > size:
        raise _too_large(number, len(said), size)
    try:
        if media == cloudevents.BATCH:
            message = cloudevents.message_of(msgspec.json.decode(said))
        else:
            message = Message(body=_checked(media, said), content_type=JSON)
    except BrokerError as error:
        raise wrong(400, "bad-parameter", f"Message {number}: {error.reason}", ARRAY, number) from None
    except (ValueError, RecursionError) as error:
        raise wrong(400, "bad-parameter", f"Message {number} is not JSON: {error}", ARRAY, number) from None
    if not message.body:
        raise wrong(400, "empty-message", f"Message {number} is empty.", ARRAY, number)
    if len(message.body) > size:
        raise _too_large(number, len(message.body), size)
    return message


def _checked(media: str, said: bytes) -> bytes:
    """The JSON of an element as it came, or of a line without blanks; `ValueError` if it is none."""
    if media == JSON:
        return bytes(msgspec.json.decode(said, type=msgspec.Raw))
    said.decode()  # what is in strings is copied unseen
    return msgspec.json.format(said, indent=0)


def _too_large(number: int, length: int, size: int) -> Problem:
    return wrong(413, "too-large", f"Message {number} has {length} bytes, at most {size}.", ARRAY, number)
