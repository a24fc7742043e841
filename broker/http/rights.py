"""Who sends a request, and whether he may: the one place where this front asks.

401 asks for credentials, whether none came or wrong ones; 403 says what they do not allow. The probes need none.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import assert_never

from broker.auth.door import Access, Door
from broker.auth.rights import Action
from broker.core.destination import Destination, queue, topic
from broker.http.call import Call
from broker.http.parameters import wait_of
from broker.http.problem import Problem
from broker.http.publishing import source_of
from broker.http.routes import Endpoint

#: Endpoints that answer anybody: what watches the broker has no password.
PROBES = (Endpoint.HEALTH, Endpoint.READY)
#: What the audit log calls them.
_DOING = {endpoint: endpoint.name.lower().replace("_", " ") for endpoint in Endpoint}
#: What a client may answer a 401 with (RFC 7617, RFC 6750).
CHALLENGES = [
    (b"WWW-Authenticate", b'Basic realm="broker", charset="UTF-8"'),
    (b"WWW-Authenticate", b'Bearer realm="broker"'),
]


async def identify(door: Door, fields: Sequence[str], address: str, transport: object) -> Access:
    """The access of who sends a request with these ``Authorization`` fields; `Problem` 401 if that is nobody.

    Who sends none is whom a certificate on the connection names.
    """
    access = door.unnamed(transport) if door.open or not fields else await _verified(door, fields, address)
    if access is None:
        raise Problem(401, "unauthorized", "Credentials are needed, and those of a user.")
    return access


async def _verified(door: Door, fields: Sequence[str], address: str) -> Access | None:
    if len(fields) != 1:
        return None
    scheme, _, said = fields[0].strip().partition(" ")
    said = said.strip()
    match scheme.lower():
        case "bearer":
            return await door.token(said, address)
        case "basic":
            try:
                name, colon, password = base64.b64decode(said, validate=True).decode().partition(":")
            except (binascii.Error, ValueError):
                return None
            return await door.password(name, password, address) if colon else None
        case _:
            return None


def check(call: Call) -> None:
    """Raise `NotAllowed` if who sends this request may not have it done; `NotFound` for a message that is not there.

    What lists names, or numbers of several queues, shows what may be seen; that is the endpoint's matter.
    """
    access, match = call.access, call.match
    access.doing = _DOING[match.endpoint]
    match match.endpoint:  # the commonest first: each case is a comparison, and there are 60
        case Endpoint.PUBLISH | Endpoint.PUBLISH_BATCH:
            access.publish(_channel(call))
        case Endpoint.TAKE:
            access.subscribe(_channel(call), waits=wait_of(call.parameters, call.said.last("prefer")) > 0)
        case Endpoint.SETTLE | Endpoint.TOUCH | Endpoint.NACK:
            access.settle(match.message)
        case Endpoint.COMMIT:
            pass  # each operation is looked at by itself
        case Endpoint.WELCOME | Endpoint.HEALTH | Endpoint.READY | Endpoint.OPENAPI | Endpoint.PROBLEM:
            pass
        case Endpoint.CHANNELS | Endpoint.TOPICS | Endpoint.CONSUMERS | Endpoint.REPLAYS | Endpoint.LINEAGE:
            access.look_around()
        case Endpoint.STATS | Endpoint.METRICS | Endpoint.STATUS:
            access.check(Action.BROWSE, None)
        case Endpoint.LEASE | Endpoint.STREAM:
            access.subscribe(_channel(call), waits=True)
        case Endpoint.TOPIC_STREAM:
            access.subscribe(topic(match.topic), waits=False)
        case (
            Endpoint.PEEK
            | Endpoint.BROWSE
            | Endpoint.CHANNEL_STATS
            | Endpoint.CHANNEL_TOPICS
            | Endpoint.CHANNEL_CONSUMERS
            | Endpoint.CHANNEL_CONFIG
            | Endpoint.SOURCES
        ):
            access.check(Action.BROWSE, _channel(call))
        case (
            Endpoint.PURGE
            | Endpoint.UNSUBSCRIBE
            | Endpoint.UNBIND
            | Endpoint.SET_CHANNEL_CONFIG
            | Endpoint.CHANGE_CHANNEL_CONFIG
            | Endpoint.PAUSE
            | Endpoint.RESUME
        ):
            access.check(Action.ADMIN, _channel(call))
        case Endpoint.SUBSCRIBE:
            access.bind(_channel(call), topic(match.topic))
        case Endpoint.BIND:
            access.bind(_channel(call), source_of(match.names["source"]))
        case Endpoint.PUBLISH_TO_TOPIC:
            access.publish(topic(match.topic))
        case Endpoint.TOPIC_CHANNELS | Endpoint.TOPIC_LOG | Endpoint.TOPIC_CONFIG:
            access.check(Action.BROWSE, topic(match.topic))
        case Endpoint.SET_TOPIC_CONFIG | Endpoint.CHANGE_TOPIC_CONFIG:
            access.check(Action.ADMIN, topic(match.topic))
        case (
            Endpoint.RELOAD
            | Endpoint.UPGRADE
            | Endpoint.DEFINITIONS
            | Endpoint.APPLY_DEFINITIONS
            | Endpoint.DRAIN
            | Endpoint.RESUME_ALL
            | Endpoint.SET_STATUS
            | Endpoint.DEBUG
            | Endpoint.SET_LOG_LEVEL
            | Endpoint.STACK
            | Endpoint.TRACE
        ):
            access.check(Action.ADMIN, None)
        case Endpoint.MESSAGE:
            access.look(match.message)
        case Endpoint.BEGIN_REPLAY | Endpoint.REPLAY | Endpoint.CHANGE_REPLAY | Endpoint.END_REPLAY:
            pass  # its source and target are looked at
        case _:
            assert_never(match.endpoint)


def _channel(call: Call) -> Destination:
    return queue(call.match.channel)
