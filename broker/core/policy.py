"""Policies: what a queue does with its messages unless the message itself wishes otherwise."""

from __future__ import annotations

import msgspec


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules of a queue. Durations are milliseconds, sizes bytes; 0 means "no limit" where not said otherwise."""

    #: The length of a loan made over HTTP, where no message, binding or consumer says otherwise. Linger's 30 s.
    lease: int = 30_000
    #: The longest a message may wait.
    ttl: int = 0
    #: Failed deliveries before a message is given up.
    max_attempts: int = 0
    #: Messages a queue holds, on loan or waiting, before publishes to it are refused (Linger's high-level mark).
    max_messages: int = 0
    #: The largest body a publish may have.
    max_message_size: int = 16 * 1024 * 1024


class BindingPolicy(msgspec.Struct, frozen=True, array_like=True):
    """What a binding says about the messages it brings; None = as the message or the queue says."""

    priority: int | None = None
    lease: int | None = None
    ttl: int | None = None
    max_attempts: int | None = None
