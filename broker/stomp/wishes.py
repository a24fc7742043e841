"""What a SUBSCRIBE asks for, whichever broker's spelling it uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote

import msgspec

from broker.core.destination import Kind
from broker.stomp.consumer import AckMode
from broker.stomp.destinations import DURABLE, Form, Target
from broker.stomp.dialect import Dialect
from broker.stomp.errors import Refused
from broker.stomp.flavour import DEFAULT, Flavour
from broker.stomp.headers import flag, needed, number, rank
from broker.stomp.heartbeat import FLOOR, GRACE
from broker.stomp.selector import BadSelector, Selector, compile_selector

#: Deliveries an ``auto`` subscription may have unsettled when it does not say.
PREFETCH = 1000
#: The name of a durable subscription: Artemis's spellings, then ActiveMQ's.
NAMES = ("durable-subscription-name", "durable-subscriber-name", "activemq.subscriptionName")
#: RabbitMQ's way to ask for one, and its older one.
SHARED = ("durable", "persistent")
_MAX_STAMP = 2**53 - 1


class Terms(msgspec.Struct, frozen=True):
    """What a listener allows its sessions."""

    #: What `prefetch-count:0` means, and the most that can be asked for.
    max_prefetch: int = 65_536
    #: Whose ways it has.
    flavour: Flavour = DEFAULT
    #: In 1.2 an ACK may name its message as in 1.1 does.
    lenient_ack: bool = False
    #: MESSAGE says which user sent it.
    user_id: bool = False
    #: Milliseconds in which a client must take some of what is sent to it; 0: any time.
    send_timeout: int = 60_000
    #: The shortest period of heart-beats (ms), the longest (0: any), and after how many a silent client is gone.
    heart_beat_min: int = FLOOR
    heart_beat_max: int = 0
    heart_beat_grace: float = GRACE


class Durable(msgspec.Struct, frozen=True):
    """A durable subscription: the queue that reads its topic whether anybody is there or not."""

    queue: str
    #: Several may consume it at a time.
    shared: bool


class Wish(msgspec.Struct, frozen=True):
    """One SUBSCRIBE."""

    mode: AckMode
    prefetch: int
    #: Bytes that may be unsettled before nothing more is delivered; 0: any number.
    window: int = 0
    priority: int = 0
    selector: Selector | None = None
    #: Nothing that this session has sent.
    no_local: bool = False
    #: Nobody else gets messages of the queue.
    exclusive: bool = False
    #: All that is there now, without taking it.
    browser: bool = False
    #: The stamp from which on it reads the past; None: from now on.
    since: int | None = None
    durable: Durable | None = None


def wish(headers: Mapping[str, str], targets: Sequence[Target], owner: str, dialect: Dialect, terms: Terms) -> Wish:
    """What these headers say of a subscription to `targets`; `owner` is whose durable ones it means. `Refused`."""
    try:
        mode = AckMode(headers.get("ack", "auto"))
    except ValueError:
        raise Refused("Invalid ack mode", "ack must be auto, client or client-individual") from None
    on_topics = all(target.destination.kind is Kind.TOPIC for target in targets)
    prefetch, window = _prefetch(headers, mode, terms)
    asked = Wish(
        mode,
        prefetch,
        window,
        rank(headers),
        _selector(headers),
        on_topics and (flag(headers, "no-local") or flag(headers, "activemq.noLocal")),
        flag(headers, "activemq.exclusive"),
        flag(headers, "browser"),
        _since(headers, targets),
        _durable(headers, targets, owner),
    )
    if asked.browser:
        _check_browser(asked, targets, dialect)
    return asked


def _prefetch(headers: Mapping[str, str], mode: AckMode, terms: Terms) -> tuple[int, int]:
    """Deliveries, and bytes: RabbitMQ's way, ActiveMQ's, Artemis's."""
    limit = terms.max_prefetch
    count = number(headers, "prefetch-count", 2**63)
    if count is not None:
        return min(count or limit, limit), 0
    count = number(headers, "activemq.prefetchSize", 2**63)
    if count is not None:
        return min(max(count, 1), limit), 0
    default = min(PREFETCH if mode is AckMode.AUTO else terms.flavour.prefetch, limit)
    if headers.get("consumer-window-size") == "-1":
        return limit, 0
    window = number(headers, "consumer-window-size", 2**53)
    if window is None:
        return default, 0
    return (1, 0) if window == 0 else (limit, window)


def _selector(headers: Mapping[str, str]) -> Selector | None:
    text = headers.get("selector", "")
    if not text.strip():
        return None
    try:
        return compile_selector(text)
    except BadSelector as error:
        raise Refused("Invalid selector", str(error)) from None


def _since(headers: Mapping[str, str], targets: Sequence[Target]) -> int | None:
    """A stamp: of ``from-seq``, ``from-time``, or the beginning for ActiveMQ's retroactive subscriptions."""
    said = headers.get("from-seq", "now")
    if said != "now":
        return 0 if said == "start" else number(headers, "from-seq", _MAX_STAMP)
    time = headers.get("from-time")
    if time is not None:
        return _moment(time)
    topics = all(one.destination.kind is Kind.TOPIC for one in targets)
    return 0 if flag(headers, "activemq.retroactive") and topics else None


def _moment(text: str) -> int:
    """Milliseconds since 1970, or RFC 3339, as microseconds."""
    if text.isascii() and text.isdigit() and len(text) < 16:
        return min(int(text) * 1000, _MAX_STAMP)
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        detail = "from-time must be milliseconds since 1970, or a time such as 2030-01-31T12:00:00Z"
        raise Refused("Invalid header", detail) from None
    read = read if read.tzinfo is not None else read.replace(tzinfo=UTC)
    return max(round((read - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000), 0)


def named_queue(headers: Mapping[str, str], owner: str) -> str:
    """The queue of the durable subscription that `owner` names; empty: none is named."""
    name = next((headers[key] for key in NAMES if headers.get(key)), "")
    return f"{DURABLE}{_part(owner)}/{_part(name)}" if name else ""


def shared_queue(headers: Mapping[str, str], target: Target) -> str:
    """The queue of a durable subscription in RabbitMQ's way. Raises `Refused`."""
    if target.destination.name.startswith(DURABLE):
        return target.destination.name
    name = headers.get("x-queue-name") or _part(needed(headers, "id"))
    return name if "x-queue-name" in headers else f"{DURABLE}shared/{target.destination.name}/{name}"


def is_shared(headers: Mapping[str, str]) -> bool:
    """True if a durable subscription is meant that whoever uses the same id shares."""
    return any(flag(headers, key) for key in SHARED)


def _durable(headers: Mapping[str, str], targets: Sequence[Target], owner: str) -> Durable | None:
    name = named_queue(headers, owner)
    topics = len(targets) == 1 and targets[0].destination.kind is Kind.TOPIC and targets[0].form is Form.PLAIN
    if name:
        if not topics:
            raise Refused("Invalid destination", "a durable subscription that has a name is to one topic")
        return Durable(name, shared=False)
    # Of a queue RabbitMQ's words say that it is not to be forgotten: none is.
    return Durable(shared_queue(headers, targets[0]), shared=True) if topics and is_shared(headers) else None


def _part(text: str) -> str:
    return quote(text, safe=" @:,;=!$&'()*")


def _check_browser(asked: Wish, targets: Sequence[Target], dialect: Dialect) -> None:
    if not dialect.needs_id:
        raise Refused("Not supported", f"browser is not supported in {dialect.version}")
    if len(targets) > 1 or targets[0].destination.kind is Kind.TOPIC:
        raise Refused("Not supported", "browser is for one queue")
