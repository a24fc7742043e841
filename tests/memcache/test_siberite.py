"""The dialects siberite, starling and memcached, against what their servers' own tests say and what they send."""

from __future__ import annotations

from broker.core.destination import Destination, Kind
from broker.memcache.dialect import DIALECTS, SPOKEN
from broker.memcache.server import MemcacheFactory
from tests.memcache.support import Client, FrontTest
from tests.memcache.test_reads import value

END = b"END\r\n"
FORMAT = b"CLIENT_ERROR bad command line format\r\n"
OPEN = b"CLIENT_ERROR Close current item first\r\n"


class SiberiteTests(FrontTest):
    """Clients of a Siberite."""

    dialect = DIALECTS["siberite"]

    def closes(self, sent: bytes, answer: bytes) -> None:
        """A client that sends this gets that, and is closed on."""
        client = Client(self.factory)
        self.assertEqual((client.send(sent), client.closed), (answer, True))
        client.go()
        self.clock.advance(0)

    def test_what_a_key_says(self) -> None:
        """4.1/33"""
        keys = self.factory.keys
        for raw in b"work/t=10/open", b"work/open/t=10", b"work/open":
            self.assertEqual((keys.parse(raw).open, keys.parse(raw).wait), (True, 0))
        for raw, name in (b"work.cg", "work.cg"), (b"work.test.cg", "work.test"), (b"work.", "work"):
            self.assertEqual(keys.parse(raw).destination.name, name)
        self.closes(b"get work/close/t=10/open/abort\r\n", b"CLIENT_ERROR Invalid command\r\n")
        for options in b"open/close", b"open/peek", b"close/peek", b"t=abc", b"strange":
            self.closes(b"get work/%b\r\n" % options, b"CLIENT_ERROR Invalid command\r\n")

    def test_queues_and_cursors_give_values_then_end(self) -> None:
        """4.1/34"""
        self.put("test", b"1")
        for key in b"test.1", b"test.cgroup", b"test":
            sent = b"get %b\r\nget %b\r\nget %b/close\r\nget %b/close\r\n" % ((key,) * 4)
            self.says(sent, value(b"test", b"1") + END * 3)

    def test_one_open_read_for_the_whole_connection(self) -> None:
        """4.1/35"""
        self.put("work", b"1", b"2")
        self.put("other", b"3")
        for another in b"get work\r\n", b"get work/open\r\n", b"get other\r\n":
            self.closes(b"get work/open\r\n" + another, value(b"work", b"1") + OPEN)
        self.says(b"get work/open\r\nget work/peek\r\n", value(b"work", b"1") + value(b"work", b"2"))
        self.says(b"get other/close\r\nget work/open\r\nget work/abort\r\n", END + value(b"work", b"2") + END)
        self.says(b"get work/open\r\nget work/close\r\nget work\r\n", value(b"work", b"2") + END + END)

    def test_a_disconnect_gives_it_back(self) -> None:
        """4.1/36"""
        self.put("work", b"1")
        for key in b"work", b"work.audit":
            self.says_to_another(b"get %b/open\r\n" % key, value(b"work", b"1"))
            self.says(b"get %b\r\n" % key, value(b"work", b"1"))
            if key == b"work":
                self.put("work", b"1")

    def test_close_and_open_and_abort(self) -> None:
        """4.1/37 4.1/38"""
        self.put("work", b"1", b"2")
        self.says(
            b"gets work/t=5/close/open\r\ngets work/close/open/t=5\r\n", value(b"work", b"1") + value(b"work", b"2")
        )
        self.says(b"get work/abort\r\ngets work\r\n", END + value(b"work", b"2"))

    def test_a_session(self) -> None:
        """4.1/39 4.4/10"""
        body = b"a\r\nb\nc"
        self.says(b"set test 0 0 1\r\n1\r\nSET test 0 0 6\r\n%b\r\n" % body, b"STORED\r\n" * 2)
        self.says(b"get test\r\nget test/open\r\nget test/abort\r\n", value(b"test", b"1") + value(b"test", body) + END)
        self.says(b"get test/open\r\nget test/close\r\ngets test/close/open\r\n", value(b"test", body) + END + END)
        self.says(b"version\r\n", b"VERSION %b\r\n" % SPOKEN.encode())
        shown = self.client.send(b"STATS\r\n")
        for name in b"uptime", b"curr_connections 1", b"cmd_get", b"cmd_set 2", b"queue_test_items 0":
            self.assertIn(b"STAT %b" % name, shown)
        self.says(b"flush test\r\nDELETE test\r\nflush_all\r\n", END + END + b"Flushed all queues.\r\n")
        self.closes(b"quit\r\n", b"")
        self.closes(b"strange\r\n", b"ERROR Unknown command\r\n")

    def test_sets_that_are_wrong(self) -> None:
        """4.2/17"""
        self.says(b"set work 0 0 2\r\nok\r\n", b"STORED\r\n")
        self.closes(b"set work 0 0\r\n", b"CLIENT_ERROR Invalid command\r\n")
        self.closes(b"set work 0 0 invalid\r\n", b"CLIENT_ERROR Invalid <bytes> number\r\n")
        self.closes(b"set work 0 0 2\r\ntoo long\r\n", b"CLIENT_ERROR bad data chunk\r\n")
        self.says(b"set work 0 0 1 noreply\r\nx\r\n", b"")
        self.assertEqual(self.ready("work"), 2)

    def test_a_set_to_several(self) -> None:
        """4.3/8"""
        self.says(b"set test+fanout_test+1+2 0 0 1\r\nx\r\n", b"STORED\r\n")
        self.says(
            b"get test\r\nget fanout_test\r\nget 1\r\nget 2\r\n",
            b"".join(value(n, b"x") for n in (b"test", b"fanout_test", b"1", b"2")),
        )
        self.closes(b"get a+b\r\n", b"ERROR queue: name is not alphanumeric\r\n")

    def test_a_cursor_follows_what_was_taken(self) -> None:
        """4.3/9"""
        self.put("work", b"1", b"2", b"3")
        self.says(b"get work.audit\r\nget work\r\nget work\r\n", value(b"work", b"1") * 2 + value(b"work", b"2"))
        self.says(b"get work.audit/peek\r\nget work.audit\r\nget work.audit\r\n", value(b"work", b"3") * 2 + END)
        self.put("work", b"4")
        self.says(b"get work.audit/open\r\n", value(b"work", b"4"))

    def test_an_abort_under_either_name(self) -> None:
        """4.3/10"""
        self.put("test", b"1")
        for key in b"test", b"test.cgroup":
            self.says(b"get test.cgroup/open\r\nget %b/abort\r\n" % key, value(b"test", b"1") + END)
        self.says(b"get test.cgroup\r\n", value(b"test", b"1"))

    def test_flush_restarts_a_cursor_and_a_delete_twice_is_the_same(self) -> None:
        """4.3/11 4.3/12"""
        self.put("work", b"1", b"2")
        self.says(b"get work.c\r\nget work.c\r\nflush work.c\r\n", value(b"work", b"1") + value(b"work", b"2") + END)
        self.says(b"get work.c/peek\r\nget work.c/peek\r\nget work.c\r\n", value(b"work", b"1") * 3)
        self.says(
            b"get work.c/open\r\nget work.c/abort\r\nget work.c\r\n", value(b"work", b"2") + END + value(b"work", b"2")
        )
        self.says(b"delete work\r\ndelete work\r\n", END + END)
        self.closes(b"get work.a!\r\n", b"ERROR cgroup: name is not alphanumeric\r\n")

    def test_names(self) -> None:
        """4.3/13"""
        self.closes(b"set a~b 0 0 1\r\nx\r\n", b"ERROR queue: name is not alphanumeric\r\n")
        self.closes(b"set %b 0 0 1\r\nx\r\n" % (b"k" * 101), b"ERROR queue: name is too long\r\n")
        self.put("k" * 100, b"1")
        self.put("a:b-c_d", b"1", b"2")
        self.says(b"get a:b-c_d/peek\r\nget a:b-c_d/open\r\n", value(b"a:b-c_d", b"1") * 2)
        self.says(b"get a:b-c_d/abort\r\nget a:b-c_d\r\n", END + value(b"a:b-c_d", b"1"))
        self.says(b"flush a:b-c_d\r\nget a:b-c_d\r\n", END + END)


class StarlingTests(FrontTest):
    """Clients of a Starling."""

    dialect = DIALECTS["starling"]

    def test_set_and_get(self) -> None:
        """4.2/18"""
        self.put("work", b"42")
        self.says(b"get work\r\nget work\r\n", value(b"work", b"42") + END)
        self.says(
            b"set work 0 1 1\r\nx\r\nset work 0 1699999999 1\r\ny\r\nset work 0 1700000060 1\r\nz\r\n",
            b"STORED\r\n" * 3,
        )
        self.says(b"get work\r\nget work\r\n", value(b"work", b"z") + END)

    def test_the_rest(self) -> None:
        """4.4/11"""
        self.says(b"delete work\r\n", b"NOT_FOUND\r\n")
        self.put("work", b"1", b"2")
        self.clock.advance(1)
        self.says(b"get work\r\n", value(b"work", b"1"))
        shown = self.client.send(b"stats\r\n")
        for name in (
            b"curr_items 1",
            b"limit_maxbytes 0",
            b"queue_work_items 1",
            b"queue_work_age 1000",
            b"queue_work_logsize",
        ):
            self.assertIn(b"STAT %b" % name, shown)
        self.says(b"delete work\r\n", b"DELETED\r\n")
        self.assertNotIn(b"queue_work_items", self.client.send(b"stats\r\n"))
        for line in b"version", b"gets work", b"verbosity 1", b"GET work", b"strange", b"quitx":
            self.says(line + b"\r\n", FORMAT)

    def test_what_it_does_not_do(self) -> None:
        self.put("work", b"1")
        self.says(b"flush_all\r\nquit\r\n", b"OK\r\n")
        self.assertFalse(self.client.closed)
        self.assertEqual(self.ready("work"), 1)

    def test_a_plus_is_a_character(self) -> None:
        self.put("a", b"1")
        self.put("a+b", b"2")
        self.says(b"get a+b\r\nget a\r\n", value(b"a+b", b"2") + value(b"a", b"1"))
        self.assertEqual(self.broker.bound(Destination(Kind.QUEUE, "a")), [])

    def test_a_key_may_have_blanks_and_no_options(self) -> None:
        self.put("a", b"1")
        self.says(b"get a b\r\n", END)
        self.says(b"set a/open 0 0 1\r\nx\r\n", b"STORED\r\n")
        self.says(b"get a/open\r\n", value(b"a/open", b"x"))


class MemcachedTests(FrontTest):
    """Clients that know nothing but memcached."""

    dialect = DIALECTS["memcached"]

    def test_keys_have_no_options(self) -> None:
        self.put("a/open", b"1")
        self.says(b"get a/open\r\nget a\r\n", value(b"a/open", b"1") + END)

    def test_commands_are_in_lower_case(self) -> None:
        self.says(b"GET a\r\nget a\r\n", b"ERROR\r\n" + END)

    def test_a_plus_is_a_character(self) -> None:
        self.put("orders", b"1")
        self.says(b"get orders+audit\r\n", END)
        self.put("orders", b"2")
        self.says(b"get orders+audit\r\n", END)
        self.put("orders+audit", b"3")
        self.says(b"get orders+audit\r\nget orders\r\n", value(b"orders+audit", b"3") + value(b"orders", b"1"))
        self.assertEqual(self.broker.bound(Destination(Kind.QUEUE, "orders")), [])

    def test_no_two_names_are_one_queue(self) -> None:
        names = [b"a+b", b"a%2Bb", b"a%2bb", b"a%252Bb", b"a%25252Bb", b"a%25b", b"a%b", b"a+%2Bb", b"a++b"]
        found = {self.factory.keys.parse(name).destination.name for name in names}
        self.assertEqual(len(found), len(names))
        self.assertEqual(self.factory.keys.parse(b"a%25b+").destination.name, "a%25b%2B")

    def test_others_know_it_by_an_escape(self) -> None:
        self.put("a+b", b"1")
        other = Client(MemcacheFactory(self.broker))
        self.assertEqual(other.send(b"get a%252Bb\r\n"), value(b"a%252Bb", b"1"))

    def test_meta_is_served(self) -> None:
        self.says(b"ms a 1\r\nx\r\nmg a v\r\n", b"HD\r\nVA 1\r\nx\r\n")
