"""What a memcache client can ask for, as values, whichever protocol it speaks.

Each carries the voice it is to be answered with. Keys and exptimes are as sent.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from broker.core.level import Level
from broker.memcache.voice import Outcome, Voice


class _Asked(msgspec.Struct, frozen=True, gc=False):
    voice: Voice


class Get(_Asked, frozen=True, gc=False):
    """One message of each of these keys. With `look` none is taken: whether there is one is asked for."""

    keys: list[bytes]
    look: bool = False


class Set(_Asked, frozen=True, gc=False):
    """Put a message in."""

    key: bytes
    flags: int
    exptime: int
    body: bytes


class Cas(_Asked, frozen=True, gc=False):
    """Put a message in and settle another, which is on loan under the id `unique`, in the same commit."""

    key: bytes
    flags: int
    exptime: int
    body: bytes
    unique: int


class Settle(_Asked, frozen=True, gc=False):
    """Settle the message of this queue that is on loan under an id, to anybody."""

    key: bytes
    unique: int


class Touch(_Asked, frozen=True, gc=False):
    """Begin this connection's oldest open read anew, for so many seconds."""

    key: bytes
    seconds: int


class Delete(_Asked, frozen=True, gc=False):
    """Remove a queue."""

    key: bytes


class Flush(_Asked, frozen=True, gc=False):
    """Settle what waits in a queue (Kestrel)."""

    key: bytes


class FlushAll(_Asked, frozen=True, gc=False):
    """Empty every queue."""


class FlushExpired(_Asked, frozen=True, gc=False):
    """Settle what has expired at the head of a queue, or of every queue (Kestrel)."""

    key: bytes | None


class Monitor(_Asked, frozen=True, gc=False):
    """Open what comes for so many seconds, at most `most` messages (0: as many as may be open) (Kestrel)."""

    key: bytes
    seconds: int
    most: int


class Confirm(_Asked, frozen=True, gc=False):
    """Close the oldest open reads of a queue (Kestrel)."""

    key: bytes
    count: int


class Stats(_Asked, frozen=True, gc=False):
    """Numbers; the argument in lower case, empty if there is none."""

    argument: bytes = b""


class DumpStats(_Asked, frozen=True, gc=False):
    """The numbers of these queues, or of all, in Kestrel's blocks."""

    keys: list[bytes]


class DumpConfig(_Asked, frozen=True, gc=False):
    """The policies of these queues, or of all, in Kestrel's blocks."""

    keys: list[bytes]


class Describe(_Asked, frozen=True, gc=False):
    """What there is to say of a queue (meta's ``me``)."""

    key: bytes


class Reload(_Asked, frozen=True, gc=False):
    """Read the configuration and the users again (Kestrel)."""


class Status(_Asked, frozen=True, gc=False):
    """Tell the server's status, or change it (Kestrel)."""

    level: Level | None = None


class Shutdown(_Asked, frozen=True, gc=False):
    """End the broker (Starling, Kestrel)."""


class Version(_Asked, frozen=True, gc=False):
    """The broker's version."""


class Quit(_Asked, frozen=True, gc=False):
    """Close, when what is owed is answered."""


class Done(_Asked, frozen=True, gc=False):
    """Known, and nothing is to be done for it but to answer: ``mn``, ``add``, ``incr``, ``verbosity``."""

    outcome: Outcome


class Login(_Asked, frozen=True, gc=False):
    """SASL: begin with a mechanism, or go on (`mechanism` is empty then). None: which mechanisms there are."""

    mechanism: bytes | None
    token: bytes = b""


class Malformed(_Asked, frozen=True, gc=False):
    """Not a command: what to answer, empty if the peer asked for nothing, and whether to close after it."""

    reply: bytes
    close: bool = False


#: What only says something that is known already.
AtOnce: TypeAlias = Version | Quit | Done | Malformed
#: What has the connection for itself, because it waits for something.
Waiting: TypeAlias = (
    Get
    | Cas
    | Settle
    | Touch
    | Delete
    | Flush
    | FlushAll
    | FlushExpired
    | Monitor
    | Confirm
    | Stats
    | DumpStats
    | DumpConfig
    | Describe
    | Reload
    | Status
    | Shutdown
)
Command: TypeAlias = Set | AtOnce | Waiting | Login
#: What only reads: given up when the client goes.
READING = (Get, Monitor, Stats, DumpStats, DumpConfig, Describe)
