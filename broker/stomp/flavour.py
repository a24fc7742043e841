"""Whose clients a listener is at home to, as data: what RabbitMQ, ActiveMQ and CoilMQ do otherwise than we.

Only what a client can come to rely on is here. What they do worse (escapes of another version, an ERROR lost with the
connection) is the same in every flavour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from broker.core.destination import Kind


class Flavour(msgspec.Struct, frozen=True):
    """One broker's ways."""

    name: str = "default"
    #: What a destination without a prefix is.
    bare: Kind = Kind.QUEUE
    #: Texts of ERROR's `message`: of an error code, or of a command and its code. ``{named}`` is what it is about.
    words: Mapping[str, str] = {}
    #: What happens after an ERROR that a client can recover from.
    on_error: Literal["close", "keep"] = "close"
    #: An LF follows the NUL of every frame.
    trailing_lf: bool = False
    #: What a NACK without ``requeue`` does: back to its place, or never again.
    nack: Literal["requeue", "dead_letter"] = "requeue"
    #: In mode ``client`` a NACK concerns what came before, too.
    nack_covers: bool = True
    #: How far a cumulative ACK reaches: its own subscription's deliveries, or all of the connection.
    ack_reach: Literal["subscription", "connection"] = "subscription"
    #: When a SEND in a transaction is receipted.
    tx_send_receipt: Literal["immediate", "commit"] = "immediate"
    #: Whether MESSAGE says ``redelivered:false``.
    says_false: bool = True
    #: How many connections may have the same ``client-id``.
    client_ids: Literal["shared", "alone"] = "shared"
    #: Deliveries an acking subscription may have unsettled if it does not say.
    prefetch: int = 1000
    #: What a receiver sees before the name of a temporary queue that is somebody else's.
    replies: Literal["/reply-queue/", "/remote-temp-queue/"] = "/reply-queue/"


DEFAULT = Flavour()

RABBITMQ = Flavour(
    name="rabbitmq",
    words={
        "ACK missing-id": "Missing header",
        "ACK missing-message-id": "Missing header",
        "NACK missing-id": "Missing header",
        "NACK missing-message-id": "Missing header",
        "UNSUBSCRIBE missing-id": "Missing destination or id",
        "CONNECT access-refused": "Bad CONNECT",
        "STOMP access-refused": "Bad CONNECT",
        "access-refused": "access_refused",
        "destination-not-found": "not_found",
        "invalid-ack-mode": "Processing error",
        "invalid-heart-beat": "Processing error",
    },
    on_error="keep",
    trailing_lf=True,
    ack_reach="connection",
    tx_send_receipt="commit",
)

ACTIVEMQ = Flavour(
    name="activemq",
    words={
        "SEND missing-destination": "SEND received without a Destination specified!",
        "SUBSCRIBE missing-destination": "Invalid empty or 'null' Destination header",
        "SUBSCRIBE missing-id": "SUBSCRIBE received without a subscription id!",
        "UNSUBSCRIBE missing-id": "UNSUBSCRIBE received without a subscription id!",
        "no-subscription-found": "No subscription matched.",
        "ACK missing-message-id": "ACK received without a message-id to acknowledge!",
        "ACK missing-subscription": "ACK received without a subscription id for acknowledge!",
        "ACK missing-id": "ACK received without a ack id to acknowledge!",
        "NACK missing-message-id": "NACK received without a message-id to acknowledge!",
        "NACK missing-subscription": "NACK received without a subscription id for acknowledge!",
        "NACK missing-id": "NACK received without a ack id to acknowledge!",
        "message-not-found": "Unexpected {command} received for message-id [{named}]",
        "missing-transaction": "Must specify the transaction",
        "transaction-already-started": "already started: {named}",
        "bad-transaction": "Invalid transaction id: {named}",
        "bad-command": "Unknown STOMP action: {named}",
        "client-id-in-use": "client {named} already connected",
    },
    on_error="keep",
    trailing_lf=True,
    nack="dead_letter",
    nack_covers=False,
    says_false=False,
    client_ids="alone",
    replies="/remote-temp-queue/",
)

COILMQ = Flavour(
    name="coilmq",
    bare=Kind.TOPIC,
    words={
        "missing-destination": "Missing destination for {command} command.",
        "SUBSCRIBE missing-id": "No 'id' specified for SUBSCRIBE command",
        "ACK missing-message-id": "No message-id specified for ACK command",
        "ACK missing-subscription": "No 'subscription' specified for ACK command",
        "missing-transaction": "Missing transaction for {command} command.",
        "SEND bad-transaction": "Invalid transaction specified: {named}",
        "bad-transaction": "Invalid transaction: {named}",
        "not-connected": "Not connected.",
    },
    on_error="keep",
    prefetch=1,
)

FLAVOURS = {flavour.name: flavour for flavour in (DEFAULT, RABBITMQ, ACTIVEMQ, COILMQ)}
