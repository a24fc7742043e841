"""The dialect kestrel, against what Kestrel's own tests say: each docstring names their line in the specification."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from broker.core.destination import Destination, Kind
from broker.core.policy import Policies, Policy, Rule
from broker.memcache.dialect import DIALECTS, SPOKEN
from broker.storage.memory import MemoryStore
from tests.memcache.support import NOW, Client, FrontTest

END, ERROR, CLIENT_ERROR, SERVER_ERROR = b"END\r\n", b"ERROR\r\n", b"CLIENT_ERROR\r\n", b"SERVER_ERROR\r\n"


def value(name: bytes, body: bytes, flags: int = 0) -> bytes:
    """A message as Kestrel shows it: under the bare name."""
    return b"VALUE %b %d %d\r\n%b\r\nEND\r\n" % (name, flags, len(body), body)


class KestrelTest(FrontTest):
    """Clients of a Kestrel."""

    dialect = DIALECTS["kestrel"]
    policy: Policy | Policies = Policy(max_open=100)

    def stat(self, name: str) -> str:
        """One number, as another client sees it."""
        other = Client(self.factory)
        lines = other.send(b"stats\r\n").decode().split("\r\n")
        other.go()
        (line,) = [line for line in lines if line.startswith(f"STAT {name} ")]
        return line.split(" ")[2]

    def numbers(self, name: str = "work") -> tuple[str, str, str]:
        """items, open_transactions and total_items of a queue."""
        return tuple(  # type: ignore[return-value]
            self.stat(f"queue_{name}_{what}") for what in ("items", "open_transactions", "total_items")
        )

    def closes(self, sent: bytes, answer: bytes) -> None:
        """A client that sends this gets that, and is closed on."""
        client = Client(self.factory)
        self.assertEqual((client.send(sent), client.closed), (answer, True))
        client.go()
        self.clock.advance(0)


class ReadTests(KestrelTest):
    """4.1."""

    def test_close_and_open_at_once(self) -> None:
        """4.1/1"""
        self.put("test", b"1", b"2")
        self.says(b"get test/open\r\nget test/close/open\r\n", value(b"test", b"1") + value(b"test", b"2"))
        self.assertEqual((self.broker.stats.settled, self.broker.queue_stats("test").on_loan), (1, 1))

    def test_a_wait_that_finds_something_at_once_or_later(self) -> None:
        """4.1/2 4.1/3"""
        self.put("test", b"1")
        self.says(b"get test/t=500/close/open\r\n", value(b"test", b"1"))
        self.says(b"get test/t=500/close/open\r\n", b"")
        self.clock.advance(0.4)
        self.says_to_another(b"set test 0 0 1\r\n2\r\n", b"STORED\r\n")
        self.assertEqual(self.client.received(), value(b"test", b"2"))
        self.assertEqual(self.broker.queue_stats("test").on_loan, 1)

    def test_a_wait_in_vain_has_closed_what_was_open(self) -> None:
        """4.1/4"""
        self.put("test", b"1")
        self.says(b"get test/open\r\nget test/t=500/close/open\r\n", value(b"test", b"1"))
        self.clock.advance(0.5)
        self.assertEqual(self.client.received(), END)
        self.says(b"get test/abort\r\nget test\r\n", END + END)

    def test_close_and_open_on_an_empty_queue(self) -> None:
        """4.1/5 4.1/6"""
        self.says(b"get test/close/open\r\n", END)
        self.put("test", b"1")
        self.says(b"get test/open\r\nget test/close/open\r\n", value(b"test", b"1") + END)
        self.assertEqual(self.broker.stats.settled, 1)

    def test_abort_gives_it_back(self) -> None:
        """4.1/7 4.1/13"""
        self.put("test", b"1")
        self.says(
            b"get test/open\r\nget test/abort\r\nget test/open\r\n", value(b"test", b"1") + END + value(b"test", b"1")
        )
        self.says(b"get test/close\r\nget test\r\n", END + END)

    def test_options_that_do_not_go_together_close(self) -> None:
        """4.1/8 4.1/9"""
        self.put("test", b"1")
        for key in b"test/open/peek", b"test/close/peek", b"test/open/abort", b"test/close/abort", b"/close/open":
            self.closes(b"get %b\r\n" % key, CLIENT_ERROR)
        self.assertEqual(self.ready("test"), 1)

    def test_plain_gets_and_peeks(self) -> None:
        """4.1/10 4.1/11 4.1/19"""
        self.says(b"get test\r\n", END)
        self.put("test", b"1", b"2")
        self.says(b"get test/peek\r\nget test\r\n", value(b"test", b"1") * 2)
        self.says(b"get test/t=500\r\nget test/t=500\r\n", value(b"test", b"2"))
        self.says_to_another(b"set test 0 0 1\r\n3\r\n", b"STORED\r\n")
        self.assertEqual(self.client.received(), value(b"test", b"3"))
        self.says(b"get test/close\r\nget test\r\n", END + END)

    def test_counters_move(self) -> None:
        """4.1/12"""
        self.put("test", b"1")
        self.says(b"get test\r\nget test\r\nget test/peek\r\n", value(b"test", b"1") + END + END)
        shown = [self.stat(name) for name in ("cmd_set", "cmd_get", "cmd_peek", "get_hits", "get_misses")]
        self.assertEqual(shown, ["1", "2", "1", "1", "2"])

    def test_several_open_reads_of_a_queue(self) -> None:
        """4.1/14"""
        self.put("test", b"one", b"two", b"three")
        for sent, body in (
            (b"get test/open\r\n", b"one"),
            (b"get test/open\r\n", b"two"),
            (b"get test/abort\r\nget test/open\r\n", b"one"),
            (b"get test/close\r\nget test/open\r\n", b"three"),
            (b"get test/abort\r\nget test/open\r\n", b"one"),
        ):
            self.says(sent, END * (sent.count(b"\n") - 1) + value(b"test", body))

    def test_open_reads_of_several_queues(self) -> None:
        """4.1/15"""
        for name in "red", "green", "blue":
            self.put(name, b"1", b"2")
        for key in b"red", b"green", b"blue", b"red":
            self.assertTrue(self.client.send(b"get %b/open\r\n" % key).startswith(b"VALUE %b 0 1" % key))
        self.says(b"get red/close\r\nget red/close\r\n", END + END)
        self.assertEqual([self.broker.queue_stats(name).on_loan for name in ("red", "green", "blue")], [0, 1, 1])

    def test_all_are_closed_and_nothing_is_left_to_abort(self) -> None:
        """4.1/17"""
        self.put("test", b"1", b"2")
        self.client.send(b"get test/open\r\nget test/open\r\n")
        self.says(b"confirm test 2\r\nget test/abort\r\n", END + END)
        self.assertEqual((self.broker.stats.settled, self.ready("test")), (2, 0))

    def test_an_abort_makes_no_queue(self) -> None:
        """4.1/18"""
        self.put("test", b"1")
        self.says(b"get test/open\r\ndelete test\r\nget test/abort\r\n", value(b"test", b"1") + b"DELETED\r\n" + END)
        self.assertEqual(self.broker.queues(), [])

    def test_any_bytes(self) -> None:
        """4.1/20"""
        body = bytes(range(256)) + b"\r\nEND\r\n\x00"
        self.put("test", body)
        self.says(b"get test\r\n", value(b"test", body))

    def test_numbers_follow_a_close(self) -> None:
        """4.1/21"""
        self.put("work", b"1")
        self.assertEqual((self.numbers(), self.stat("queue_work_bytes")), (("1", "0", "1"), "1"))
        self.client.send(b"get work/open\r\n")
        self.assertEqual(self.numbers(), ("0", "1", "1"))
        self.client.send(b"get work/close\r\n")
        self.assertEqual((self.numbers(), self.stat("queue_work_bytes")), (("0", "0", "1"), "0"))
        self.client.go()
        self.assertEqual(self.numbers(), ("0", "0", "1"))

    def test_numbers_follow_an_abort_and_a_disconnect(self) -> None:
        """4.1/22 4.1/23"""
        self.put("work", b"1")
        self.client.send(b"get work/open\r\nget work/abort\r\n")
        self.assertEqual(self.numbers(), ("1", "0", "1"))
        self.client.send(b"get work/open\r\n")
        self.client.go()
        self.clock.advance(0)
        self.assertEqual(self.numbers(), ("1", "0", "1"))
        self.says_to_another(b"get work\r\n", value(b"work", b"1"))
        self.assertEqual(self.numbers(), ("0", "0", "1"))

    def test_the_next_who_waits_gets_what_a_dead_one_held(self) -> None:
        """4.1/24"""
        dead, alive = Client(self.factory), Client(self.factory)
        dead.send(b"get work/open/t=1000\r\n")
        alive.send(b"get work/open/t=1000\r\n")
        self.put("work", b"1")
        self.assertEqual(dead.received(), value(b"work", b"1"))
        dead.go()
        self.clock.advance(0)
        self.assertEqual(alive.received(), value(b"work", b"1"))

    def test_a_client_with_an_open_read_that_waits_for_another_goes(self) -> None:
        """4.1/25 4.1/29"""
        self.put("work", b"1")
        self.client.send(b"get work/open\r\nget work/open/t=1000\r\n")
        self.client.go()
        self.clock.advance(0)
        self.client = Client(self.factory)
        self.says(b"get work\r\n", value(b"work", b"1"))

    def test_a_long_wait_ends_with_its_client(self) -> None:
        """4.1/26"""
        self.client.send(b"get work/t=3600000\r\n")
        self.assertEqual(self.stat("queue_work_waiters"), "1")
        self.client.go()
        self.assertEqual(self.broker.queue_stats("work").waiters, 0)

    def test_a_cycle_gives_back_the_last_only(self) -> None:
        """4.1/27"""
        self.put("work", b"1", b"2", b"3")
        for body in b"1", b"2", b"3":
            self.says(b"get work/close/open\r\n", value(b"work", body))
        self.client.go()
        self.clock.advance(0)
        self.client = Client(self.factory)
        self.says(b"get work\r\nget work\r\n", value(b"work", b"3") + END)

    def test_peeks_take_nothing(self) -> None:
        """4.1/28"""
        self.put("work", b"1")
        self.closes(b"get work/peek/open\r\n", CLIENT_ERROR)
        self.says(b"get work/peek\r\n" * 3 + b"get work\r\nget work\r\n", value(b"work", b"1") * 4 + END)

    def test_keys_as_darner_reads_them(self) -> None:
        """4.1/30"""
        self.says(b"get foo+meow\r\n", END)
        self.put("foo+meow", b"1", b"2")
        self.says(b"get foo+meow/t=500/close/open \r\n", value(b"foo+meow", b"1"))
        self.says(b"gets foo+meow/close\r\nget foo+meow \r\n", END + value(b"foo+meow", b"2"))

    def test_who_waits_is_woken_also_just_before_the_end(self) -> None:
        """4.1/31"""
        self.says(b"get work\r\n", END)
        one, other = Client(self.factory), Client(self.factory)
        one.send(b"get work/t=1000\r\n")
        other.send(b"get work/t=1000\r\n")
        self.clock.advance(0.999999)
        self.put("work", b"1", b"2")
        self.assertEqual((one.received(), other.received()), (value(b"work", b"1"), value(b"work", b"2")))
        self.says(b"get work/t=10\r\n", b"")
        self.clock.advance(0.01)
        self.assertEqual(self.client.received(), END)

    def test_what_is_open_is_there_after_a_restart(self) -> None:
        """4.1/32"""
        store: MemoryStore = self.store
        self.put("work", b"1")
        self.client.send(b"get work/open\r\n")
        self.assertEqual(self.ready("work"), 0)
        self.client.go()
        self.clock.advance(0)
        self.assertEqual(self.ready("work"), 1)
        self.client = Client(self.factory)
        self.client.send(b"get work/open\r\n")
        _ = Deferred.fromCoroutine(self.broker.stop())
        self.setUp_with(store)
        self.says(b"get work\r\n", value(b"work", b"1"))

    def test_a_thousand_and_more(self) -> None:
        """4.1/40"""
        bodies = [b"%d" % number * 10 for number in range(1024)]
        self.put("work", *bodies)
        for body in bodies:
            self.assertEqual(self.client.send(b"get work\r\n"), value(b"work", body))

    def test_only_the_first_key_is_read_and_other_words_are_passed_over(self) -> None:
        self.put("a", b"1")
        self.put("b", b"2")
        self.says(b"get a b\r\n", value(b"a", b"1"))
        self.assertEqual(self.ready("b"), 1)

    def test_unknown_options_are_ignored(self) -> None:
        self.put("a", b"1")
        self.says(b"get a//strange/t=0/\r\n", value(b"a", b"1"))


class OneOpenTests(KestrelTest):
    """4.1, with Kestrel's default."""

    policy = Policy(max_open=1)

    def test_a_second_open_is_refused_and_closes(self) -> None:
        """4.1/16"""
        self.put("test", b"1", b"2")
        self.closes(b"get test/open\r\nget test/open\r\n", value(b"test", b"1") + ERROR)
        self.closes(b"get test/open\r\nget test\r\n", value(b"test", b"1") + ERROR)
        self.assertEqual(self.ready("test"), 2)


class StoreTests(KestrelTest):
    """4.2."""

    policy = Policies(
        Policy(max_message_size=1000),
        [
            Rule("one", {"max_messages": 1}),
            Rule("newest", {"max_messages": 1, "overflow": "drop_oldest"}),
            Rule("young", {"ttl": 5_000}),
            Rule("moving", {"expire_to": "moved"}),
            Rule("idle", {"max_idle": 60_000}),
            Rule("volatile", {"durable": False}),
            Rule("waiting", {"max_messages": 1, "overflow": "wait"}),
            Rule("young+child", {"ttl": 9_000}),
        ],
    )

    def test_stored(self) -> None:
        """4.2/1"""
        self.says(b"set test 0 0 5\r\nhello\r\n", b"STORED\r\n")

    def test_expiry_as_a_date(self) -> None:
        """4.2/2"""
        self.says(b"set test 0 %d 1\r\n1\r\nset test 0 0 1\r\n2\r\n" % NOW, b"STORED\r\n" * 2)
        self.clock.advance(1)
        self.says(b"get test\r\nget test\r\n", value(b"test", b"2") + END)

    def test_seconds_from_now_end_before_a_million(self) -> None:
        self.says(b"set test 0 999999 1\r\n1\r\nset test 0 1000000 1\r\n2\r\n", b"STORED\r\n" * 2)
        self.says(b"get test\r\nget test\r\n", value(b"test", b"1") + END)

    def test_too_large(self) -> None:
        """4.2/3"""
        self.says(b"set test 0 0 1000\r\n" + bytes(1000) + b"\r\n", b"STORED\r\n")
        self.says(
            b"set test 0 0 1001\r\n" + bytes(1001) + b"\r\nversion\r\n",
            b"NOT_STORED\r\nVERSION %b\r\n" % SPOKEN.encode(),
        )
        self.says(b"get test\r\nget test\r\n", value(b"test", bytes(1000)) + END)

    def test_full(self) -> None:
        """4.2/4"""
        self.says(b"set one 0 0 1\r\n1\r\nset one 0 0 1\r\n2\r\n", b"STORED\r\nNOT_STORED\r\n")
        self.put("newest", b"1", b"2")
        self.says(b"get newest\r\n", value(b"newest", b"2"))
        self.assertEqual(self.stat("queue_newest_discarded"), "1")

    def test_a_queue_s_time_to_live_shortens(self) -> None:
        """4.2/5"""
        self.says(b"set young 0 60 1\r\n1\r\nset young 0 2 1\r\n2\r\nset young 0 0 1\r\n3\r\n", b"STORED\r\n" * 3)
        self.clock.advance(4.9)
        self.says(b"get young\r\n", value(b"young", b"1"))
        self.clock.advance(0.2)
        self.says(b"get young\r\n", END)

    def test_expired_messages_move(self) -> None:
        """4.2/6 4.2/13"""
        self.says(b"set moving 0 5 1\r\n1\r\nset moving 0 5 1\r\n2\r\nset moving 0 0 1\r\n3\r\n", b"STORED\r\n" * 3)
        self.says(b"flush_expired moving\r\n", b"0\r\n")
        self.clock.advance(5.001)
        self.says(b"get moving\r\n", value(b"moving", b"3"))
        self.clock.advance(1)
        self.says(b"get moved\r\nget moved\r\n", value(b"moved", b"1") + value(b"moved", b"2"))

    def test_an_idle_queue_goes_when_it_is_old_and_empty(self) -> None:
        """4.2/7"""
        self.put("idle", b"1")
        for _ in range(20):
            self.clock.advance(15)
        self.assertIn("idle", self.broker.queues())
        self.says(b"get idle\r\n", value(b"idle", b"1"))
        for _ in range(20):
            self.clock.advance(15)
        self.assertFalse(self.broker.exists("idle"))

    def test_age(self) -> None:
        """4.2/8"""
        self.put("test", b"1", b"2")
        self.clock.advance(2)
        self.says(b"get test\r\n", value(b"test", b"1"))
        self.assertEqual(self.stat("queue_test_age"), "2000")
        self.says(b"get test\r\n", value(b"test", b"2"))
        self.assertEqual(self.stat("queue_test_age"), "0")

    def test_a_queue_in_memory_is_gone_after_a_restart(self) -> None:
        """4.2/11"""
        self.put("volatile", b"1")
        self.put("test", b"2")
        _ = Deferred.fromCoroutine(self.broker.stop())
        self.setUp_with(self.store)
        self.says(b"get volatile\r\nget test\r\n", END + value(b"test", b"2"))

    def test_a_set_waits_for_room(self) -> None:
        """4.2/12"""
        self.put("waiting", b"1")
        self.says(b"set waiting 0 0 1\r\n2\r\n", b"")
        self.says_to_another(b"get waiting\r\n", value(b"waiting", b"1"))
        self.assertEqual(self.client.received(), b"STORED\r\n")
        self.says(b"set waiting 0 0 1\r\n3\r\n", b"")
        self.clock.advance(31)
        self.assertEqual(self.client.received(), b"NOT_STORED\r\n")

    def test_flush_expired_counts(self) -> None:
        """4.2/14"""
        self.says(
            b"set test 0 -1 1\r\n1\r\nset test 0 0 1\r\n2\r\nflush_expired test\r\n", b"STORED\r\nSTORED\r\n1\r\n"
        )
        self.says(b"flush_expired none\r\nflush_all_expired\r\n", b"0\r\n0\r\n")

    def test_names_and_sync_as_darner_reads_them(self) -> None:
        """4.2/15"""
        self.says(b"set foo+meow 0 0 700\r\n%b\r\nset foo/sync 0 0 1\r\n2\r\n" % (b"x" * 700), b"STORED\r\n" * 2)
        self.says(b"get foo+meow\r\nget foo\r\n", value(b"foo+meow", b"x" * 700) + value(b"foo", b"2"))

    def test_a_body_that_is_not_complete_is_not_there(self) -> None:
        """4.2/16"""
        self.put("test", b"ends\0")
        self.client.send(b"set test 0 0 900\r\n" + bytes(500))
        self.says_to_another(b"get test\r\nget test\r\n", value(b"test", b"ends\0") + END)
        self.client.go()
        self.assertEqual(self.ready("test"), 0)

    def test_a_child_s_policy_is_its_own(self) -> None:
        """4.2/13"""
        self.says(b"get young+child\r\n", END)
        self.put("young", b"1")
        self.clock.advance(7)
        self.says(b"get young\r\nget young+child\r\n", END + value(b"young+child", b"1"))


class NameTests(KestrelTest):
    """4.3."""

    policy = Policies(
        Policy(max_open=9),
        [Rule("only", {"fanout_only": True})],
        aliases={
            "one": (Destination(Kind.QUEUE, "a"),),
            "both": (Destination(Kind.QUEUE, "a"), Destination(Kind.QUEUE, "only")),
        },
    )

    def test_a_child_gets_what_comes_later(self) -> None:
        """4.3/1"""
        self.put("jobs", b"1")
        self.says(b"get jobs+client1\r\n", END)
        self.put("jobs", b"2")
        self.says(b"get jobs+client1\r\nget jobs+client1\r\n", value(b"jobs+client1", b"2") + END)
        self.says(b"delete jobs+client1\r\n", b"DELETED\r\n")
        self.put("jobs", b"3")
        self.assertEqual(self.ready("jobs"), 3)
        self.says(b"get only+c\r\n", END)
        self.put("only", b"4")
        self.says(b"get only\r\nget only+c\r\n", END + value(b"only+c", b"4"))

    def test_children_are_there_after_a_restart(self) -> None:
        """4.3/1"""
        self.says(b"get jobs+client1\r\n", END)
        self.put("jobs", b"1")
        _ = Deferred.fromCoroutine(self.broker.stop())
        self.setUp_with(self.store)
        self.put("jobs", b"2")
        self.says(
            b"get jobs+client1\r\nget jobs+client1\r\n", value(b"jobs+client1", b"1") + value(b"jobs+client1", b"2")
        )

    def test_aliases(self) -> None:
        """4.3/2"""
        self.says(b"get only+c\r\n", END)
        self.put("one", b"1")
        self.put("both", b"2")
        self.says(b"get one\r\nget both\r\n", END + END)
        self.says(b"get a\r\nget a\r\nget only+c\r\n", value(b"a", b"1") + value(b"a", b"2") + value(b"only+c", b"2"))

    def test_aliases_may_change(self) -> None:
        """4.3/7"""
        reloaded = self.broker.reload(Policies(aliases={"one": (Destination(Kind.QUEUE, "z"),)}))
        self.successResultOf(Deferred.fromCoroutine(reloaded))
        self.put("one", b"1")
        self.says(b"get a\r\nget z\r\n", END + value(b"z", b"1"))

    def test_names_that_are_refused(self) -> None:
        """4.3/4"""
        self.closes(b"get hello.there\r\n", CLIENT_ERROR)
        self.closes(b"set hello.there 0 0 1\r\n1\r\n", CLIENT_ERROR)
        self.assertFalse(self.broker.exists("hello.there"))
        self.closes(b"set the_queue+fanout/open/close 0 0 1\r\n1\r\n", CLIENT_ERROR)
        self.assertFalse(self.broker.exists("the_queue+fanout"))
        self.put("the_queue", b"1")
        self.says(b"get the_queue\r\n", value(b"the_queue", b"1"))

    def test_a_topic_may_have_dots(self) -> None:
        self.put("/topic/hello.there", b"1")

    def test_nothing_is_made_by_looking(self) -> None:
        """4.3/5"""
        for line in (
            b"get q/close",
            b"get q/abort",
            b"confirm q 1",
            b"flush q",
            b"delete q",
            b"flush_expired q",
            b"stats",
        ):
            Client(self.factory).send(line + b"\r\n")
        self.assertFalse(self.broker.exists("q"))

    def test_what_is_there_and_was_hit_is_counted(self) -> None:
        """4.3/6"""
        self.put("jobs", b"1")
        _ = Deferred.fromCoroutine(self.broker.stop())
        self.setUp_with(self.store)
        self.assertEqual(self.stat("queue_jobs_items"), "1")
        self.assertRegex(self.stat("reserved_memory_ratio"), r"^[01]\.\d{3}$")
        self.says(b"get jobs\r\nget jobs\r\ndelete jobs\r\n", value(b"jobs", b"1") + END + b"DELETED\r\n")
        self.assertEqual((self.stat("get_hits"), self.stat("get_misses"), self.stat("queue_deletes")), ("1", "1", "1"))

    def test_a_plus_stays_in_a_name(self) -> None:
        """4.3/14"""
        self.says(b"get foo+meow\r\n", END)
        self.put("foo+meow", b"1")
        self.says(
            b"flush foo\r\nget foo+meow/peek\r\nflush foo+meow\r\nget foo+meow\r\n",
            END + value(b"foo+meow", b"1") + END + END,
        )


class AdminTests(KestrelTest):
    """4.4."""

    policy = Policy(max_open=10)

    def test_monitor(self) -> None:
        """4.4/1"""
        self.put("work", b"1", b"2", b"3")
        shown = [value(b"work", body) for body in (b"1", b"2", b"3")]
        self.says(b"monitor work 10 3\r\n", b"".join(shown) + END)
        self.says(b"confirm work 3\r\nmonitor work 10 2\r\n", END)
        self.says_to_another(b"set work 0 0 1\r\n4\r\n", b"STORED\r\n")
        self.assertEqual(self.client.received(), value(b"work", b"4"))
        self.clock.advance(10)
        self.assertEqual(self.client.received(), END)

    def test_monitor_with_nine_of_ten_open(self) -> None:
        """4.4/1"""
        self.put("work", *[b"x"] * 12)
        self.client.send(b"get work/open\r\n" * 9)
        self.says(b"monitor work 10 100\r\n", value(b"work", b"x") + END)

    def test_confirm(self) -> None:
        """4.4/2"""
        self.put("work", b"1", b"2", b"3")
        self.client.send(b"monitor work 1 3\r\n")
        self.says(b"confirm work 2\r\n", END)
        self.assertEqual(self.broker.queue_stats("work").on_loan, 1)
        self.says(b"confirm work 1\r\nconfirm work 1\r\n", END + ERROR)
        self.assertFalse(self.client.closed)

    def test_monitor_counts_and_ends_with_its_client(self) -> None:
        """4.4/3"""
        self.put("work", b"1", b"2", b"3")
        self.client.send(b"monitor work 10 2\r\n")
        self.assertEqual((self.stat("cmd_get"), self.stat("get_hits")), ("2", "2"))
        self.client.send(b"confirm work 2\r\nmonitor work 10\r\n")
        self.client.go()
        self.clock.advance(0)
        self.assertEqual((self.broker.queue_stats("work").waiters, self.ready("work")), (0, 1))

    def test_words(self) -> None:
        """4.4/4"""
        self.put("work", b"1")
        self.says(b"delete work\r\ndelete work\r\nflush work\r\n", b"DELETED\r\nDELETED\r\nEND\r\n")
        self.says(b"version\r\nflush_all\r\n", b"VERSION %b\r\nFlushed all queues.\r\n" % SPOKEN.encode())
        self.says(b"status\r\nstatus READONLY\r\nstatus\r\n", b"UP\r\nEND\r\nREADONLY\r\n")
        self.closes(b"set work 0 0 1\r\nx\r\n", SERVER_ERROR)
        self.closes(b"status down\r\n", CLIENT_ERROR)
        self.closes(b"status sideways\r\n", CLIENT_ERROR)
        self.says(b"status quiescent\r\n", END)
        self.closes(b"get work\r\n", SERVER_ERROR)
        self.closes(b"die in a fire\r\n", CLIENT_ERROR)

    def test_a_reload_changes_queues_that_are_there(self) -> None:
        """4.4/5"""
        self.put("work", b"1")
        self.successResultOf(Deferred.fromCoroutine(self.broker.reload(Policies(Policy(max_messages=1)))))
        self.says(b"set work 0 0 1\r\n2\r\n", b"NOT_STORED\r\n")
        self.closes(b"add work 0 0 4\r\nquit\r\n", CLIENT_ERROR)

    def test_basic_numbers(self) -> None:
        """4.4/5 4.3/3"""
        self.put("work", b"1")
        for name in [
            "uptime",
            "time",
            "version",
            "curr_items",
            "total_items",
            "bytes",
            "reserved_memory_ratio",
            "curr_connections",
            "total_connections",
            "cmd_get",
            "cmd_set",
            "cmd_peek",
            "get_hits",
            "get_misses",
            "bytes_read",
            "bytes_written",
            "queue_creates",
            "queue_deletes",
            "queue_expires",
        ]:
            self.stat(name)
        for name in [
            "items",
            "bytes",
            "total_items",
            "logsize",
            "expired_items",
            "mem_items",
            "mem_bytes",
            "age",
            "discarded",
            "waiters",
            "open_transactions",
            "transactions",
            "canceled_transactions",
            "total_flushes",
            "journal_rewrites",
            "journal_rotations",
        ]:
            self.stat(f"queue_work_{name}")
        self.client.send(b"get work+child\r\n")
        self.assertEqual(self.stat("queue_work_children"), "work+child")

    def test_status_levels(self) -> None:
        """4.4/6"""
        for level in b"Up", b"WRITEAVOID", b"readOnly", b"quiescent", b"up":
            self.says(b"status %b\r\nstatus\r\n" % level, END + level.upper() + b"\r\n")

    def test_an_error_that_comes_late_closes_when_all_is_answered(self) -> None:
        self.store.hold = True
        self.client.send(b"set work 0 0 1\r\n1\r\nset work 0 0 1\r\n2\r\n")
        while self.store.held is not None:
            self.store.fail_commit()
        self.assertEqual((self.client.received(), self.client.closed), (SERVER_ERROR * 2, True))

    def test_lines(self) -> None:
        self.says(b"GET work\nSeT work 0 0 1 \nx\r\n", END + b"STORED\r\n")
        self.closes(b"\r\n", CLIENT_ERROR)
        self.closes(b"touch work 1\r\n", CLIENT_ERROR)
        self.closes(b"quit\r\n", b"")
        self.says(b"get\r\ndelete\r\nset work x 0 1\r\nx\r\n", CLIENT_ERROR * 3)
        self.says(b"get work\r\n", value(b"work", b"x"))

    def test_noreply_and_flags_are_better_than_kestrel_s(self) -> None:
        self.says(b"set work 5 0 1 noreply\r\nx\r\nget work\r\n", value(b"work", b"x", 5))
