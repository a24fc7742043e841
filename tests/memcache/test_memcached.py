"""What memcached itself answered when it was asked, byte for byte: general clients take nothing else."""

from __future__ import annotations

import re

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.core.broker import Broker
from broker.core.policy import Policy
from broker.memcache.dialect import DIALECTS, SPOKEN
from broker.memcache.server import MemcacheFactory
from broker.storage.memory import MemoryStore
from tests.memcache.support import NOW, Client

FORMAT = b"CLIENT_ERROR bad command line format\r\n"
TOO_LARGE = b"SERVER_ERROR object too large for cache\r\n"
BAD_CHUNK = b"CLIENT_ERROR bad data chunk\r\n"
KEY_251 = b"k" * 251

#: What is sent, and what memcached 1.6.18 answers. Where a queue differs from a cache it is left out.
ANSWERS = [
    # lines
    (b"bogus\r\n", b"ERROR\r\n"),
    (b"get\r\n", b"ERROR\r\n"),
    (b"\r\n", b"ERROR\r\n"),
    (b"set k 0 0\r\n", b"ERROR\r\n"),
    (b"touch k\r\n", b"ERROR\r\n"),
    (b"version\n", b"VERSION %b\r\n" % SPOKEN.encode()),
    (b"  version   now \r\n", b"VERSION %b\r\n" % SPOKEN.encode()),
    # keys
    (b"get %b\r\n" % KEY_251, FORMAT),
    (b"set %b 0 0 1\r\nx\r\n" % KEY_251, FORMAT),
    (b"delete %b\r\n" % KEY_251, FORMAT),
    # numbers
    (b"set k 0 0 -1\r\n", FORMAT),
    (b"set k 0 0 x\r\n", FORMAT),
    (b"set k x 0 1\r\nx\r\n", FORMAT),
    (b"set k 0 x 1\r\nx\r\n", FORMAT),
    # bodies
    (b"set k 0 0 1001\r\n" + bytes(1001) + b"\r\n", TOO_LARGE),
    (b"set k 0 0 1\r\nxyz\r\n", BAD_CHUNK),
    (b"set k 4294967295 0 1\r\nx\r\nget k\r\n", b"STORED\r\nVALUE k 4294967295 1\r\nx\r\nEND\r\n"),
    (b"set k 0 -1 1\r\nx\r\nget k\r\n", b"STORED\r\nEND\r\n"),
    (b"set k 0 0 0\r\n\r\nget k\r\n", b"STORED\r\nVALUE k 0 0\r\n\r\nEND\r\n"),
    (b"set k 0 0 1 noreply\r\nx\r\nget k\r\n", b"VALUE k 0 1\r\nx\r\nEND\r\n"),
    # several keys
    (
        b"set a 0 0 1\r\nx\r\nset b 0 0 1\r\ny\r\nget a c b\r\n",
        b"STORED\r\nSTORED\r\nVALUE a 0 1\r\nx\r\nVALUE b 0 1\r\ny\r\nEND\r\n",
    ),
    # what misses
    (b"delete k\r\n", b"NOT_FOUND\r\n"),
    (b"incr k 1\r\n", b"NOT_FOUND\r\n"),
    (b"decr k 1\r\n", b"NOT_FOUND\r\n"),
    (b"touch k 1\r\n", b"NOT_FOUND\r\n"),
    (b"cas k 0 0 1 1\r\nx\r\n", b"NOT_FOUND\r\n"),
    (b"replace k 0 0 1\r\nx\r\n", b"NOT_STORED\r\n"),
    (b"append k 0 0 1\r\nx\r\n", b"NOT_STORED\r\n"),
    (b"gat 0 k\r\n", b"END\r\n"),
    (b"gats 0 k\r\n", b"END\r\n"),
    (b"get k\r\n", b"END\r\n"),
    # the rest
    (b"set k 0 0 1\r\nx\r\ndelete k 0\r\n", b"STORED\r\nDELETED\r\n"),
    (b"delete k 5\r\n", b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n"),
    (b"incr k x\r\n", b"CLIENT_ERROR invalid numeric delta argument\r\n"),
    (b"verbosity 1\r\n", b"OK\r\n"),
    (b"verbosity\r\n", b"ERROR\r\n"),
    (b"verbosity x\r\n", FORMAT),
    (b"verbosity noreply\r\n", b""),
    (b"flush_all\r\nflush_all 0\r\nflush_all noreply\r\n", b"OK\r\nOK\r\n"),
    (b"flush_all x\r\n", b"CLIENT_ERROR invalid exptime argument\r\n"),
    (b"stats reset\r\n", b"RESET\r\n"),
    (b"stats bogus\r\n", b"ERROR\r\n"),
    (b"shutdown\r\n", b"ERROR: shutdown not enabled\r\n"),
    (b"cache_memlimit 64\r\n", b"OK\r\n"),
    # meta
    (b"mn\r\n", b"MN\r\n"),
    (b"mg k v\r\n", b"EN\r\n"),
    (b"mg k v q\r\nmn\r\n", b"MN\r\n"),
    (b"mg\r\n", b"ERROR\r\n"),
    (b"md k\r\n", b"NF\r\n"),
    (b"md k q\r\n", b"NF\r\n"),
    (b"ma k\r\n", b"NF\r\n"),
    (b"ma k q\r\n", b"NF\r\n"),
    (b"me k\r\n", b"EN\r\n"),
    (b"ms k 2 F5 T0 k O7\r\nab\r\n", b"HD kk O7\r\n"),
    (b"ms k 0\r\n\r\nmg k v\r\n", b"HD\r\nVA 0\r\n\r\n"),
    (b"ms k 1 MR\r\nx\r\n", b"NS\r\n"),
    (b"ms k 1001\r\n" + bytes(1001) + b"\r\n", TOO_LARGE),
    (b"mg %b v\r\n" % KEY_251, FORMAT),
    (b"ms k 1\r\nx\r\nmg k t\r\n", b"HD\r\nHD t-1\r\n"),
    (b"ms Zm9v 1 b k\r\nx\r\n", b"HD kZm9v b\r\n"),
    (b"ms k 1 P1 L2\r\nx\r\n", b"HD\r\n"),
    (b"mg k v v\r\n", b"CLIENT_ERROR duplicate flag\r\n"),
    (b"ms k 1 MZ\r\nx\r\n", b"CLIENT_ERROR invalid mode for ms M token\r\n"),
    (b"mg k O" + b"x" * 33 + b"\r\n", b"CLIENT_ERROR opaque token too long\r\n"),
    (b"mg !!! v b\r\n", b"CLIENT_ERROR error decoding key\r\n"),
]


@pytest.mark.parametrize("dialect", ["default", "memcached"])
@pytest.mark.parametrize(("sent", "answer"), ANSWERS, ids=[repr(sent[:30]) for sent, _ in ANSWERS])
def test_an_answer_is_memcached_s_and_the_connection_is_kept(dialect: str, sent: bytes, answer: bytes) -> None:
    clock = Clock()
    policy = Policy(max_message_size=1000)
    broker = Broker(MemoryStore(), clock, policy=policy, wall=lambda: NOW + clock.seconds())
    assert Deferred.fromCoroutine(broker.start()).called
    client = Client(MemcacheFactory(broker, dialect=DIALECTS[dialect]))
    assert client.send(sent) == answer
    assert not client.closed
    assert client.send(b"mn\r\n") == b"MN\r\n"
    client.go()


def test_the_version_is_one_that_libmemcached_takes() -> None:
    """Three numbers, of which the first is not 0."""
    assert re.fullmatch(r"[1-9]\d*\.\d+\.\d+", SPOKEN)
