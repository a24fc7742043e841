"""The text commands beside set and get: loans and ids, streams, expiry, dumps, status; what each does and says."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from broker.core.destination import queue
from broker.core.level import Level
from broker.core.message import Message
from broker.core.policy import Policies, Policy, Rule
from broker.errors import ConfigError, StoreUnavailable
from broker.memcache.dialect import DIALECTS
from broker.memcache.server import MemcacheFactory
from broker.outbox import HIGH_WATER
from broker.status import ServerStatus, StatusFile
from tests.memcache.support import Client, FrontTest
from tests.memcache.test_reads import value


class IdTests(FrontTest):
    """cas, gets, gat, touch."""

    policy = Policies(Policy(max_open=5), [Rule("full", {"max_messages": 1})])

    def open(self, name: bytes = b"work") -> bytes:
        """Open a read; its cas unique."""
        return self.client.send(b"gets %b/open\r\n" % name).split(b"\r\n")[0].rpartition(b" ")[2]

    def test_cas_settles_what_it_names_and_stores_in_one_commit(self) -> None:
        self.put("work", b"1")
        number = self.open()
        commits = self.store.commits
        self.says(b"cas done 3 0 1 %b\r\n2\r\n" % number, b"STORED\r\n")
        self.assertEqual(self.store.commits - commits, 1)
        self.assertEqual((self.broker.stats.settled, self.ready("work")), (1, 0))
        self.says(b"get done\r\n", b"VALUE done 3 1\r\n2\r\nEND\r\n")
        self.says(b"get work/close\r\nget work\r\n", b"END\r\nEND\r\n")

    def test_cas_of_what_is_on_loan_to_another_connection(self) -> None:
        self.put("work", b"1")
        number = self.open()
        self.says_to_another(b"cas done 0 0 1 %b noreply\r\n2\r\nget done\r\n" % number, value(b"done", b"2"))
        self.client.go()
        self.assertEqual(self.broker.queues(), [])

    def test_cas_of_nothing_on_loan_stores_nothing(self) -> None:
        self.put("work", b"1")
        number = self.client.send(b"gets work/peek\r\n").split(b"\r\n")[0].rpartition(b" ")[2]
        for unique in number, b"0", b"17", b"18446744073709551615":
            self.says(b"cas done 0 0 1 %b\r\n2\r\n" % unique, b"NOT_FOUND\r\n")
        self.assertEqual(self.broker.queues(), ["work"])

    def test_a_cas_that_is_refused_leaves_the_loan(self) -> None:
        self.put("work", b"1")
        self.put("full", b"x")
        number = self.open()
        self.says(b"cas full 0 0 1 %b\r\n2\r\n" % number, b"NOT_STORED\r\n")
        self.says(b"cas a\x00b 0 0 1 %b\r\n2\r\n" % number, b"CLIENT_ERROR the name holds control characters\r\n")
        self.assertEqual(self.broker.queue_stats("work").on_loan, 1)
        self.says(b"cas done 0 0 1 %b\r\n2\r\n" % number, b"STORED\r\n")

    def test_a_failed_commit_of_a_cas_leaves_the_loan(self) -> None:
        self.put("work", b"1")
        number = self.open()
        self.store.hold = True
        self.client.send(b"cas done 0 0 1 %b\r\n2\r\n" % number)
        self.store.fail_commit()
        self.store.hold = False
        self.assertTrue(self.client.received().startswith(b"SERVER_ERROR "))
        self.assertEqual((self.broker.queue_stats("work").on_loan, self.ready("done")), (1, 0))

    def test_gat_is_a_get(self) -> None:
        self.put("work", b"1", b"2")
        self.says(b"gat 60 work none\r\n", value(b"work", b"1"))
        self.assertRegex(self.client.send(b"gats 60 work\r\n"), rb"^VALUE work 0 1 \d+\r\n2\r\nEND\r\n$")

    def test_touch_is_for_an_open_read_of_this_connection(self) -> None:
        self.put("work", b"1")
        self.says(b"touch work 10\r\n", b"NOT_FOUND\r\n")
        self.says(b"get work/open\r\n", value(b"work/open", b"1"))
        self.says(b"touch work 10\r\ntouch work 10 noreply\r\n", b"TOUCHED\r\n")
        self.says_to_another(b"touch work 10\r\n", b"NOT_FOUND\r\n")
        self.assertEqual(self.broker.stats.touched, 2)


class AnyTests(FrontTest):
    """``/any``: one message, of the first queue that has one."""

    def test_the_first_hit_only(self) -> None:
        self.put("b", b"1")
        self.put("c", b"2")
        self.says(b"get a/any b/any c/any\r\n", value(b"b/any", b"1"))
        self.says(b"get a/any b c\r\n", value(b"c", b"2"))
        self.says(b"get a/any b c\r\n", b"END\r\n")

    def test_all_are_waited_for_at_once(self) -> None:
        self.client.send(b"get a/t=1000/any b c\r\n")
        self.assertEqual([self.broker.queue_stats(name).waiters for name in "abc"], [1, 1, 1])
        self.says_to_another(b"set c 0 0 1\r\nx\r\n", b"STORED\r\n")
        self.assertEqual(self.client.received(), value(b"c", b"x"))
        self.assertEqual([self.broker.queue_stats(name).waiters for name in "abc"], [0, 0, 0])

    def test_a_client_that_goes_frees_all_its_places(self) -> None:
        self.client.send(b"get a/t=1000/any b\r\n")
        self.client.go()
        self.assertEqual([self.broker.queue_stats(name).waiters for name in "ab"], [0, 0])

    def test_open(self) -> None:
        self.put("b", b"1")
        self.says(b"get a/open/any b/open\r\n", value(b"b/open", b"1"))
        self.assertEqual(self.broker.queue_stats("b").on_loan, 1)
        self.says(b"get b/close\r\n", b"END\r\n")
        self.assertEqual(self.broker.stats.settled, 1)

    def test_what_is_open_is_what_the_key_of_the_hit_says(self) -> None:
        self.put("b", b"1", b"2")
        self.says(b"get a b/any/open\r\n", value(b"b/any/open", b"1"))
        self.says(b"get a/any/open b\r\n", b"ERROR a read of this queue is open, close it first\r\n")
        self.says(b"get b/close\r\nget a/any/open b\r\n", b"END\r\n" + value(b"b", b"2"))
        self.client.go()
        self.assertEqual(self.broker.queue_stats("b").on_loan, 0)

    def test_no_other_options(self) -> None:
        for line in b"get a/any b/close", b"get a/any b/peek", b"get a/any/abort":
            self.says(line + b"\r\n", b"CLIENT_ERROR any goes with open and t= only\r\n")


class MonitorTests(FrontTest):
    """monitor and confirm."""

    policy = Policy(max_open=4)

    def test_what_is_there_then_what_comes_then_end(self) -> None:
        self.put("work", b"1", b"2")
        self.says(b"monitor work 10\r\n", value(b"work", b"1") + value(b"work", b"2"))
        self.says_to_another(b"set work 0 0 1\r\n3\r\n", b"STORED\r\n")
        self.assertEqual(self.client.received(), value(b"work", b"3"))
        self.clock.advance(10)
        self.assertEqual(self.client.received(), b"END\r\n")
        self.assertEqual(self.broker.queue_stats("work").on_loan, 3)

    def test_no_more_than_asked_for(self) -> None:
        self.put("work", b"1", b"2", b"3")
        self.says(b"monitor work 10 2\r\n", value(b"work", b"1") + value(b"work", b"2") + b"END\r\n")

    def test_no_more_than_may_be_open(self) -> None:
        self.put("work", *[b"x"] * 6)
        self.says(b"monitor work 10 100\r\n", value(b"work", b"x") * 4 + b"END\r\n")
        self.says(b"monitor work 10 100\r\n", b"END\r\n")

    def test_confirm_closes_the_oldest_or_nothing(self) -> None:
        self.put("work", b"1", b"2", b"3")
        self.client.send(b"monitor work 0 3\r\n")
        for count in b"4", b"0", b"-1":
            self.says(b"confirm work %b\r\n" % count, b"ERROR\r\n")
        self.assertEqual(self.broker.stats.settled, 0)
        self.says(b"confirm work 2\r\n", b"END\r\n")
        self.says(b"confirm work 2\r\nconfirm other 1\r\n", b"ERROR\r\nERROR\r\n")
        self.says(b"get work/abort\r\nget work\r\n", b"END\r\n" + value(b"work", b"3"))

    def test_a_client_that_goes_loses_nothing(self) -> None:
        self.put("work", b"1", b"2")
        self.client.send(b"monitor work 10\r\n")
        self.client.go()
        self.clock.advance(0)
        self.assertEqual((self.ready("work"), self.broker.queue_stats("work").waiters), (2, 0))

    def test_it_takes_no_options(self) -> None:
        self.says(b"monitor work/open 1\r\n", b"CLIENT_ERROR monitor takes no options\r\n")

    def test_commands_behind_it_wait(self) -> None:
        self.says(b"monitor work 1\r\nversion\r\n", b"")
        self.clock.advance(1)
        self.assertTrue(self.client.received().startswith(b"END\r\nVERSION"))


class StreamTests(FrontTest):
    """A client that does not read."""

    policy = Policy(max_open=1_000)

    def test_a_monitor_stops_at_what_the_client_takes(self) -> None:
        self.put("work", *[bytes(1000)] * 300)
        slow = Client(self.factory, reads=False)
        slow.send(b"monitor work 10\r\n")
        self.assertLess(len(slow.transport.value()), HIGH_WATER + 2000)
        self.assertLess(self.broker.queue_stats("work").on_loan, 100)
        self.assertEqual(slow.take().count(b"VALUE"), 300)


class ExpiredTests(FrontTest):
    """flush_expired, flush_all_expired."""

    def test_what_has_expired_is_counted(self) -> None:
        self.says(b"flush_expired work\r\nflush_all_expired\r\n", b"0\r\n0\r\n")
        self.assertEqual(self.broker.queues(), [])
        for name in b"a", b"b":
            self.says(
                b"set %b 0 -1 1\r\nx\r\nset %b 0 -1 1\r\nx\r\nset %b 0 0 1\r\nx\r\n" % ((name,) * 3), b"STORED\r\n" * 3
            )
        self.says(b"flush_expired a\r\nflush_expired a\r\n", b"2\r\n0\r\n")
        self.says(b"flush_all_expired\r\n", b"2\r\n")
        self.assertEqual((self.ready("a"), self.ready("b")), (1, 1))


class DumpTests(FrontTest):
    """dump_stats, dump_config."""

    policy = Policies(Policy(), [Rule("work", {"max_messages": 7, "dead_letter": "bad", "backoff": (1, 2)})])

    def test_blocks(self) -> None:
        self.says(b"dump_stats\r\n", b"\r\nEND\r\n")
        self.put("work", b"1")
        self.put("other", b"1", b"2")
        told = self.client.send(b"dump_stats\r\n")
        self.assertRegex(
            told, rb"^queue 'other' \{\r\n(  \w+=\S+\r\n)+\}\r\nqueue 'work' \{\r\n(  \w+=\S+\r\n)+\}\r\nEND\r\n$"
        )
        self.assertIn(b"queue 'other' {\r\n  items=2\r\n", told)
        self.assertTrue(self.client.send(b"dump_stats work\r\n").startswith(b"queue 'work' {\r\n  items=1\r\n"))

    def test_a_queue_that_is_not_there(self) -> None:
        self.says(b"dump_stats none\r\n", b"queue 'none' {\r\n  \r\n}\r\nEND\r\n")

    def test_policies(self) -> None:
        told = self.client.send(b"dump_config work none\r\n")
        work, none = told.split(b"}\r\n")[:2]
        for line in b"  max_messages=7\r\n", b"  dead_letter=bad\r\n", b"  backoff=[1,2]\r\n", b"  durable=true\r\n":
            self.assertIn(line, work)
        self.assertIn(b"  max_messages=0\r\n", none)


class StatusTests(FrontTest):
    """status."""

    def test_levels(self) -> None:
        self.says(b"status\r\n", b"UP\r\n")
        self.says(b"status WriteAvoid\r\nstatus\r\n", b"END\r\nWRITEAVOID\r\n")
        self.put("work", b"1", b"2")
        for word in b"down", b"sideways", b"\xff":
            refused = b"CLIENT_ERROR status is one of up, writeavoid, draining, readonly and quiescent\r\n"
            self.says(b"status %b\r\n" % word, refused)

    def test_readonly_refuses_what_changes_and_lets_read(self) -> None:
        self.put("work", b"1", b"2")
        self.says(b"status readonly\r\n", b"END\r\n")
        refused = b"SERVER_ERROR the server's status is READONLY\r\n"
        self.says(
            b"set work 0 0 1\r\nx\r\ndelete work\r\nflush work\r\nflush_all\r\nflush_expired work\r\n", refused * 5
        )
        self.says(b"cas work 0 0 1 5\r\nx\r\nms work 1\r\nx\r\n", refused * 2)
        self.says(b"get work\r\nget work/open\r\n", value(b"work", b"1") + value(b"work/open", b"2"))
        self.says(b"get work/close\r\nflush_all_expired\r\n", b"END\r\n0\r\n")

    def test_quiescent_lets_close_only(self) -> None:
        self.put("work", b"1", b"2")
        self.says(b"get work/open\r\nstatus quiescent\r\n", value(b"work/open", b"1") + b"END\r\n")
        refused = b"SERVER_ERROR the server's status is QUIESCENT\r\n"
        self.says(b"get work\r\nget work/peek\r\nget work/close/open\r\nmonitor work 1\r\nmg work\r\n", refused * 5)
        self.says(
            b"get work/abort\r\nget work/close\r\nstats items\r\nstatus\r\n", b"END\r\nEND\r\nEND\r\nQUIESCENT\r\n"
        )
        self.assertEqual(self.ready("work"), 2)

    def test_a_stricter_one_is_told_at_once_and_holds_after_its_grace(self) -> None:
        self.factory = MemcacheFactory(self.broker, status=ServerStatus(self.clock, 5))
        self.client = Client(self.factory)
        self.says(b"status readonly\r\nstatus\r\nset a 0 0 1\r\nx\r\n", b"END\r\nREADONLY\r\nSTORED\r\n")
        self.says(b"status quiescent\r\nstatus\r\n", b"END\r\nREADONLY\r\n")
        self.clock.advance(5)
        self.says(b"set a 0 0 1\r\nx\r\n", b"SERVER_ERROR the server's status is READONLY\r\n")
        self.says(b"status up\r\nset a 0 0 1\r\nx\r\n", b"END\r\nSTORED\r\n")
        self.says(b"status readonly\r\nstatus up\r\n", b"END\r\nEND\r\n")
        self.clock.advance(5)
        self.says(b"set a 0 0 1\r\nx\r\n", b"STORED\r\n")


class KeptStatusTests(FrontTest):
    """Where it is kept."""

    def test_it_comes_true_once_it_is_kept(self) -> None:
        kept: list[tuple[Level, Deferred[None]]] = []

        def keep(level: Level) -> Deferred[None]:
            kept.append((level, Deferred()))
            return kept[-1][1]

        status = ServerStatus(self.clock, 0, Level.READONLY, keep)
        self.client = Client(MemcacheFactory(self.broker, status=status))
        self.says(b"status\r\nstatus up\r\n", b"READONLY\r\n")
        self.says_to_another(b"status\r\n", b"UP\r\n")  # the other is at another listener
        self.assertEqual(status.level, Level.READONLY)
        kept[0][1].callback(None)
        self.assertEqual((self.client.received(), status.level), (b"END\r\n", Level.UP))
        self.says(b"status quiescent\r\n", b"")
        kept[1][1].errback(StoreUnavailable("the disk is full"))
        self.assertEqual((self.client.received(), status.level), (b"SERVER_ERROR the disk is full\r\n", Level.UP))
        self.assertEqual([level for level, _ in kept], [Level.UP, Level.QUIESCENT])


def test_a_file_keeps_the_status(tmp_path: Path) -> None:
    path = tmp_path / "status"
    file = StatusFile(str(path))
    assert file.read() is Level.UP
    file.write(Level.READONLY)
    assert StatusFile(str(path)).read() is Level.READONLY
    for content in b"SIDEWAYS\n", b"\xff", b"":
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="holds no status"):
            file.read()
    with pytest.raises(StoreUnavailable, match="cannot be kept"):
        StatusFile(str(path / "none")).write(Level.UP)


class IdleTests(FrontTest):
    """Clients that say nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.factory = MemcacheFactory(self.broker, idle_timeout=10)
        self.client = Client(self.factory)

    def test_who_says_nothing_is_closed_on(self) -> None:
        self.put("work", b"1")
        self.says(b"get work/open\r\n", value(b"work/open", b"1"))
        self.clock.advance(9)
        self.says(b"version\r\n"[:3], b"")
        self.clock.advance(9)
        self.assertFalse(self.client.closed)
        self.clock.advance(1)
        self.assertTrue(self.client.closed)
        self.client.go()
        self.clock.advance(0)
        self.assertEqual(self.ready("work"), 1)

    def test_who_waits_is_not(self) -> None:
        self.says(b"get work/t=25000\r\n", b"")
        self.clock.pump([10, 10, 4.9])
        self.assertFalse(self.client.closed)
        self.clock.advance(0.1)
        self.assertEqual(self.client.received(), b"END\r\n")
        self.clock.pump([5, 10])
        self.assertTrue(self.client.closed)

    def test_who_goes_leaves_no_timer(self) -> None:
        before = len(self.clock.getDelayedCalls())
        self.client.go()
        self.assertEqual(len(self.clock.getDelayedCalls()), before - 1)


class ManyConnectionsTests(FrontTest):
    """connectionLimitRefuseWrites, connectionLimitRefuseReads."""

    def test_who_comes_when_there_are_so_many_may_not(self) -> None:
        factory = MemcacheFactory(self.broker, refuse_writes_above=1, refuse_reads_above=2)
        first, second, third = Client(factory), Client(factory), Client(factory)
        for client in second, third:
            refused = b"SERVER_ERROR there were 1 connections already: this one may not write\r\n"
            self.assertEqual(client.send(b"set work 0 0 1\r\n1\r\n"), refused)
        refused = b"SERVER_ERROR there were 2 connections already: this one may not read\r\n"
        self.assertEqual(third.send(b"get work\r\n"), refused)
        self.assertEqual(first.send(b"set work 0 0 1\r\n1\r\n"), b"STORED\r\n")
        self.assertTrue(second.send(b"flush_all\r\n").startswith(b"SERVER_ERROR there were 1"))
        first.go()
        self.assertEqual(third.send(b"get work\r\n"), refused)
        self.assertEqual(second.send(b"get work\r\n"), value(b"work", b"1"))


class ShutdownTests(FrontTest):
    """shutdown."""

    def test_where_it_is_not_allowed(self) -> None:
        self.says(b"shutdown\r\n", b"ERROR: shutdown not enabled\r\n")
        self.assertFalse(self.client.closed)

    def test_where_it_is(self) -> None:
        asked: list[str] = []
        self.client = Client(MemcacheFactory(self.broker, shutdown=asked.append))
        self.says(b"shutdown\r\n", b"")
        self.assertTrue(self.client.closed)
        self.assertEqual(asked, ["anonymous over memcache"])


class CursorTests(FrontTest):
    """Siberite's consumer groups."""

    dialect = DIALECTS["siberite"]

    def test_a_cursor_reads_what_is_there_and_takes_nothing(self) -> None:
        self.put("work", b"1", b"2")
        self.says(
            b"get work.audit\r\nget work.audit\r\nget work.audit\r\n",
            value(b"work", b"1") + value(b"work", b"2") + b"END\r\n",
        )
        self.put("work", b"3")
        self.says(b"get work.audit/open\r\n", value(b"work", b"3"))
        self.says(b"get work.audit/abort\r\nget work.audit\r\n", b"END\r\n" + value(b"work", b"3"))
        self.assertEqual(self.ready("work"), 3)
        self.says(b"get work\r\n", value(b"work", b"1"))

    def test_flush_and_delete_of_a_cursor_begin_it_anew(self) -> None:
        self.put("work", b"1", b"2")
        for command in b"flush", b"delete":
            self.says(b"get work.audit\r\n", value(b"work", b"1"))
            self.says(b"%b work.audit\r\n" % command, b"END\r\n")
        self.says(b"get work.audit\r\n", value(b"work", b"1"))

    def test_flush_of_the_queue_drops_its_cursors(self) -> None:
        self.put("work", b"1")
        self.says(b"get work.audit\r\nflush work\r\nget work.audit\r\n", value(b"work", b"1") + b"END\r\nEND\r\n")
        self.put("work", b"2")
        self.says(b"get work.audit\r\n", value(b"work", b"2"))

    def test_a_cursor_of_nothing_yet_gets_what_comes(self) -> None:
        self.says(b"get new.audit\r\n", b"END\r\n")
        self.put("new", b"1")
        self.says(b"get new.audit\r\n", value(b"new", b"1"))

    def test_a_set_to_several(self) -> None:
        self.says(b"set a+b+c 0 0 1\r\nx\r\n", b"STORED\r\n")
        self.assertEqual([self.ready(name) for name in "abc"], [1, 1, 1])

    def test_a_cursor_cannot_be_set(self) -> None:
        self.says(b"set work.audit 0 0 1\r\nx\r\n", b"ERROR queue: name is not alphanumeric\r\n")
        self.assertTrue(self.client.closed)


class ManyTests(FrontTest):
    """Many of everything."""

    def test_ten_thousand_noreply_sets_then_a_get(self) -> None:
        self.client.send(b"".join(b"set work 0 0 4 noreply\r\n%04d\r\n" % number for number in range(10_000)))
        while self.client.transport.producerState == "paused":
            self.clock.advance(0)
        self.says(b"get work\r\n", value(b"work", b"0000"))
        self.assertEqual(self.ready("work"), 9_999)

    def test_a_thousand_who_wait_are_served_in_order(self) -> None:
        clients = [Client(self.factory) for _ in range(1000)]
        for client in clients:
            client.send(b"get work/t=1000\r\n")
        for number in range(1000):
            _ = self.broker.publish(queue("work"), Message(body=b"%d" % number))
        for _ in range(10):
            self.clock.advance(0)
        for number, client in enumerate(clients):
            self.assertEqual(client.received(), value(b"work/t=1000", b"%d" % number))

    def test_mixes_stay_in_order(self) -> None:
        sent, expected = [], []
        for number in range(200):
            body = b"%d" % number
            sent += [
                b"set a 0 0 %d\r\n%b\r\n" % (len(body), body),
                b"ms b 1 O%d\r\nx\r\n" % number,
                b"mg b v O%d\r\n" % number,
            ]
            sent += [b"get a none\r\n", b"incr a 1\r\n"]
            expected += [
                b"STORED\r\n",
                b"HD O%d\r\n" % number,
                b"VA 1 O%d\r\nx\r\n" % number,
                value(b"a", body),
                b"NOT_FOUND\r\n",
            ]
        self.says(b"".join(sent), b"".join(expected))

    def test_a_close_of_the_listener_leaves_no_timer(self) -> None:
        self.factory = MemcacheFactory(self.broker, status=ServerStatus(self.clock, 5))
        Client(self.factory).send(b"status readonly\r\n")
        before = len(self.clock.getDelayedCalls())
        _ = Deferred.fromCoroutine(self.factory.close())
        self.assertEqual(len(self.clock.getDelayedCalls()), before - 1)
