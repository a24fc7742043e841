"""What differs between the memcache servers whose habits we keep, as data: one field for each thing they contradict
each other in.

A listener has one dialect. What no client can want otherwise is not here and the same in all: flags are kept,
``noreply`` is honoured, a blank may end any line, ``:`` and ``~`` are legal in names, an empty body is a message, a
read given back returns to its old place, and one that a crash interrupts is delivered again.
"""

from __future__ import annotations

from typing import Literal

import msgspec

#: What ``version`` tells: the memcached whose protocols are spoken. Clients decide by it what they may send, so our own
#: would mislead them; libmemcached (and with it PHP) takes none that begins with 0. ``stats`` tells the broker's.
SPOKEN = "1.6.18"

_STARLING_COMMANDS = frozenset(b"set get delete flush_all stats shutdown quit".split())
_KESTREL_COMMANDS = frozenset(
    b"set get gets monitor confirm delete flush flush_all flush_expired flush_all_expired stats dump_stats dump_config"
    b" status reload version shutdown quit".split()
)
_SIBERITE_COMMANDS = frozenset(b"set get gets delete flush flush_all stats version quit".split())


class Dialect(msgspec.Struct, frozen=True):
    """One server's habits. The defaults: what general clients need, and Kestrel's options."""

    name: str = "default"

    # -- lines

    #: The commands it knows; None: all of ours. Starling, Kestrel and Siberite answer any other as unknown.
    commands: frozenset[bytes] | None = None
    #: Commands may be in upper case (Kestrel, Siberite; memcached and Starling: unknown).
    any_case: bool = True
    #: The keys of one ``get``: all are read (memcached), only the first (Kestrel, Siberite), or the line is one key
    #: with blanks (Starling).
    keys: Literal["all", "first", "one"] = "all"
    #: ``gets`` adds the cas unique (memcached); Kestrel, Darner and Siberite answer it as ``get``.
    cas: bool = True
    #: ``quit`` closes (all but Starling, which stays silent).
    quits: bool = True
    #: The reply to an unknown command (memcached and erq: ERROR).
    unknown: bytes = b"ERROR\r\n"
    #: The reply to a command that lacks words (memcached).
    lacking: bytes = b"ERROR\r\n"
    #: The reply to a number that is none, or a key that is too long (memcached, Starling).
    bad_format: bytes = b"CLIENT_ERROR bad command line format\r\n"
    #: The reply to a length that is none (memcached).
    bad_length: bytes = b"CLIENT_ERROR bad command line format\r\n"
    #: Errors carry a sentence (memcached, Siberite); Kestrel's are one word.
    sentences: bool = True
    #: Errors close the connection (Kestrel, Darner, Siberite; not memcached, Starling, erq).
    errors_close: bool = False
    #: A command that lacks words, or has one that is no number, closes too (Siberite, Darner; not Kestrel).
    lacking_closes: bool = False

    # -- names

    #: What in a key is options: the trailing run of known ones, everything behind the first slash (Kestrel, Siberite,
    #: Darner, erq), or nothing (memcached, Starling).
    options: Literal["trailing", "slash", "none"] = "trailing"
    #: An option that is not known is ignored (Kestrel), or refused (Siberite). Only behind a first slash.
    unknown_options: Literal["ignored", "refused"] = "ignored"
    #: The key in a VALUE line: as it was asked for (memcached, Starling), or the name alone (Kestrel, Darner,
    #: Siberite).
    echo: Literal["asked", "name"] = "asked"
    #: The longest name in bytes (memcached, Starling: 250; Siberite: 100).
    max_name: int = 250
    #: Names are letters, digits and ``_ : -`` only (Siberite).
    plain_names: bool = False
    #: ``a+b``: b is a child that reads a (Kestrel), a `set` to both (Siberite), or a name (memcached, Starling).
    plus: Literal["child", "several", "name"] = "child"
    #: ``q.c``: a name (memcached, Starling, Darner), cursor c of queue q (Siberite), or refused (Kestrel).
    dot: Literal["name", "cursor", "refused"] = "name"

    # -- storing

    #: An exptime up to this is in seconds from now, one above it the seconds since 1970 (memcached; Kestrel: 999,999;
    #: Starling: none is relative).
    relative_limit: int = 2_592_000
    #: Expiry is obeyed (all but Darner and Siberite).
    expires: bool = True
    #: The reply to a `set` that a queue refuses (memcached, Kestrel; Starling: with a blank).
    not_stored: bytes = b"NOT_STORED\r\n"
    #: The reply to a body that is too large (memcached; Kestrel: NOT_STORED).
    too_large: bytes = b"SERVER_ERROR object too large for cache\r\n"
    #: The reply to ``add replace append prepend`` (memcached, for a key it cannot do that to; Kestrel: CLIENT_ERROR).
    add_refused: bytes = b"NOT_STORED\r\n"

    # -- reading

    #: Open reads are counted, closed and given back for each queue (Kestrel), or one for the whole connection, whatever
    #: queue a close names (Darner, Siberite, erq).
    open_reads: Literal["queue", "connection"] = "queue"
    #: What is said to a read that open reads are in the way of; empty: a sentence (Kestrel: ERROR).
    read_open: bytes = b""

    # -- the rest

    #: The reply to `delete` of a queue that is there (all but Siberite).
    deleted: bytes = b"DELETED\r\n"
    #: The reply to `delete` of a queue that is not there (memcached and Starling; Kestrel, Darner: DELETED).
    delete_miss: bytes = b"NOT_FOUND\r\n"
    #: The reply to `flush_all` (memcached and Starling; Kestrel, Darner and Siberite: a sentence).
    flushed_all: bytes = b"OK\r\n"
    #: `flush_all` empties the queues where the listener lets it (all but Starling).
    flushes: bool = True
    #: The reply to `reload` (only Kestrel has it).
    reloaded: bytes = b"OK\r\n"
    #: The reply to `shutdown` where it is not allowed (memcached).
    no_shutdown: bytes = b"ERROR: shutdown not enabled\r\n"


DEFAULT = Dialect()
_SENTENCE = b"Flushed all queues.\r\n"
_FORMAT = b"CLIENT_ERROR bad command line format\r\n"
_CLIENT_ERROR = b"CLIENT_ERROR\r\n"

#: The dialects a listener may have, by name.
DIALECTS = {
    dialect.name: dialect
    for dialect in (
        DEFAULT,
        Dialect(name="memcached", any_case=False, options="none", plus="name"),
        Dialect(
            name="starling",
            commands=_STARLING_COMMANDS,
            any_case=False,
            keys="one",
            quits=False,
            unknown=_FORMAT,
            lacking=_FORMAT,
            options="none",
            plus="name",
            relative_limit=0,
            not_stored=b"NOT STORED\r\n",
            add_refused=_FORMAT,
            flushes=False,
            no_shutdown=_FORMAT,
        ),
        Dialect(
            name="kestrel",
            commands=_KESTREL_COMMANDS,
            keys="first",
            cas=False,
            unknown=_CLIENT_ERROR,
            lacking=_CLIENT_ERROR,
            bad_format=_CLIENT_ERROR,
            sentences=False,
            errors_close=True,
            options="slash",
            echo="name",
            dot="refused",
            relative_limit=999_999,
            too_large=b"NOT_STORED\r\n",
            add_refused=_CLIENT_ERROR,
            read_open=b"ERROR\r\n",
            delete_miss=b"DELETED\r\n",
            flushed_all=_SENTENCE,
            reloaded=b"Reloaded config.\r\n",
            no_shutdown=_CLIENT_ERROR,
        ),
        Dialect(
            name="siberite",
            commands=_SIBERITE_COMMANDS,
            keys="first",
            cas=False,
            unknown=b"ERROR Unknown command\r\n",
            lacking=b"CLIENT_ERROR Invalid command\r\n",
            bad_length=b"CLIENT_ERROR Invalid <bytes> number\r\n",
            errors_close=True,
            lacking_closes=True,
            options="slash",
            unknown_options="refused",
            echo="name",
            max_name=100,
            plain_names=True,
            plus="several",
            dot="cursor",
            expires=False,
            add_refused=b"ERROR Unknown command\r\n",
            open_reads="connection",
            read_open=b"CLIENT_ERROR Close current item first\r\n",
            deleted=b"END\r\n",
            delete_miss=b"END\r\n",
            flushed_all=_SENTENCE,
        ),
    )
}
