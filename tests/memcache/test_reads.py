"""Reliable reads, blocking gets, and what a disconnect does."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from broker.core.policy import Policies, Policy, Rule
from broker.errors import StoreUnavailable
from tests.memcache.support import Client, FrontTest


def value(key: bytes, body: bytes) -> bytes:
    return b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key, len(body), body)


class OpenReadTests(FrontTest):
    """open, close, abort, peek (Kestrel)."""

    policy = Policy(max_open=100)

    def test_open_and_close(self) -> None:
        self.put("work", b"1", b"2")
        self.says(b"get work/open\r\n", value(b"work/open", b"1"))
        self.says(b"get work/close\r\n", b"END\r\n")
        self.says(b"get work\r\n", value(b"work", b"2"))
        self.says(b"get work\r\n", b"END\r\n")

    def test_close_and_open_at_once(self) -> None:
        self.put("work", b"1", b"2")
        self.says(b"get work/close/open\r\n", value(b"work/close/open", b"1"))
        self.says(b"get work/close/open\r\n", value(b"work/close/open", b"2"))
        self.assertEqual(self.broker.stats.settled, 1)
        self.says(b"get work/close/open\r\n", b"END\r\n")
        self.assertEqual(self.broker.stats.settled, 2)

    def test_close_and_abort_with_nothing_open(self) -> None:
        self.says(b"get work/close\r\nget work/abort\r\nget work/close\r\n", b"END\r\n" * 3)

    def test_close_is_answered_when_it_is_on_disk(self) -> None:
        self.put("work", b"1")
        self.says(b"get work/open\r\n", value(b"work/open", b"1"))
        self.store.hold = True
        self.says(b"get work/close\r\nversion\r\n", b"")
        while self.store.held is not None:
            self.store.release_commit()
        self.assertTrue(self.client.received().startswith(b"END\r\nVERSION"))

    def test_a_close_waits_for_a_store_in_trouble(self) -> None:
        self.put("work", b"1")
        self.says(b"get work/open\r\n", value(b"work/open", b"1"))
        self.store.hold = True
        self.says(b"get work/close\r\n", b"")
        self.store.fail_commit(StoreUnavailable("the disk is full"))
        self.assertEqual(self.client.received(), b"")
        self.store.hold = False
        self.clock.advance(60)
        self.assertEqual(self.client.received(), b"END\r\n")
        self.says(b"get work\r\n", b"END\r\n")

    def test_abort_puts_it_back_at_its_place_and_does_not_count(self) -> None:
        self.put("work", b"1", b"2")
        self.says(b"get work/open\r\nget work/abort\r\n", value(b"work/open", b"1") + b"END\r\n")
        self.assertEqual((self.broker.stats.released, self.broker.stats.failed), (1, 0))
        self.says(b"get work\r\n", value(b"work", b"1"))

    def test_close_and_abort_are_for_the_oldest(self) -> None:
        # Kestrel's own test of several open reads
        self.put("work", b"one", b"two", b"three")
        key = b"work/open"
        self.says(b"get work/open\r\nget work/open\r\n", value(key, b"one") + value(key, b"two"))
        self.says(b"get work/abort\r\nget work/open\r\n", b"END\r\n" + value(key, b"one"))
        self.says(b"get work/close\r\nget work/open\r\n", b"END\r\n" + value(key, b"three"))
        self.says(b"get work/abort\r\nget work/open\r\n", b"END\r\n" + value(key, b"one"))

    def test_reads_on_several_queues_are_apart(self) -> None:
        self.put("red", b"1", b"2")
        self.put("blue", b"3")
        red, blue = value(b"red/open", b"1")[:-5], value(b"blue/open", b"3")[:-5]
        self.says(b"get red/open blue/open red/open\r\n", red + blue + value(b"red/open", b"2"))
        self.says(b"get red/close\r\nget red/close\r\nget red/close\r\n", b"END\r\n" * 3)
        self.assertEqual(self.broker.queue_stats("blue").on_loan, 1)

    def test_a_plain_get_is_refused_while_a_read_of_that_queue_is_open(self) -> None:
        self.put("work", b"1", b"2")
        self.put("other", b"3")
        self.says(b"get work/open\r\n", value(b"work/open", b"1"))
        self.says(b"get work\r\n", b"ERROR a read of this queue is open, close it first\r\n")
        self.says(b"get other\r\n", value(b"other", b"3"))
        self.says(b"get work/peek\r\n", value(b"work/peek", b"2"))
        self.assertFalse(self.client.closed)

    def test_peek_takes_nothing(self) -> None:
        self.put("work", b"1")
        self.says(
            b"get work/peek\r\nget work/peek\r\nget work\r\n", value(b"work/peek", b"1") * 2 + value(b"work", b"1")
        )
        self.says(b"get work/peek\r\n", b"END\r\n")

    def test_a_deleted_queue_is_not_made_again(self) -> None:
        self.put("work", b"1")
        self.says(b"get work/open\r\ndelete work\r\n", value(b"work/open", b"1") + b"DELETED\r\n")
        self.says(b"get work/close\r\nget work/abort\r\n", b"END\r\nEND\r\n")
        self.assertEqual(self.broker.queues(), [])


class MaxOpenTests(FrontTest):
    """The policy's number of open reads, for each queue."""

    policy = Policy(max_open=2)

    def test_no_more_than_so_many(self) -> None:
        self.put("work", b"1", b"2", b"3", b"4")
        self.put("other", b"5")
        self.says(b"get work/open\r\nget work/open\r\n", value(b"work/open", b"1") + value(b"work/open", b"2"))
        self.says(b"get work/open\r\n", b"ERROR 2 reads of this queue are open, no more are allowed\r\n")
        self.says(b"get other/open\r\n", value(b"other/open", b"5"))
        self.says(b"get work/close/open\r\n", value(b"work/close/open", b"3"))

    def test_a_reload_changes_it(self) -> None:
        self.put("work", b"1", b"2", b"3")
        self.says(b"get work/open\r\n", value(b"work/open", b"1"))
        self.successResultOf(Deferred.fromCoroutine(self.broker.reload(Policies(Policy(max_open=1)))))
        self.says(b"get work/open\r\n", b"ERROR 1 reads of this queue are open, no more are allowed\r\n")
        self.successResultOf(Deferred.fromCoroutine(self.broker.reload(Policies(Policy(max_open=3)))))
        self.says(b"get work/open\r\nget work/open\r\n", value(b"work/open", b"2") + value(b"work/open", b"3"))


class DefaultMaxOpenTests(FrontTest):
    """Without a word of it."""

    def test_one(self) -> None:
        self.put("work", b"1", b"2")
        self.says(b"get work/open\r\n", value(b"work/open", b"1"))
        self.says(b"get work/open\r\n", b"ERROR 1 reads of this queue are open, no more are allowed\r\n")


class OpenTimeoutTests(FrontTest):
    """``open_timeout``: a read is open for so long at most."""

    policy = Policies(Policy(max_open=2, open_timeout=1000, max_attempts=2), [Rule("forever", {"open_timeout": 0})])

    def open(self, queue: str = "work") -> None:
        """The client opens the one message that there is."""
        self.put(queue, b"1")
        name = queue.encode()
        self.says(b"get %b/open\r\n" % name, value(name + b"/open", b"1"))

    def test_then_another_gets_the_message_and_a_late_close_does_nothing(self) -> None:
        """4.2/9"""
        self.open()
        waiting = Client(self.factory)
        waiting.send(b"get work/open/t=5000\r\n")
        self.clock.advance(0.999)
        self.assertEqual(waiting.received(), b"")
        self.clock.advance(0.001)
        self.assertEqual(waiting.received(), value(b"work/open/t=5000", b"1"))
        self.says(b"get work/close\r\n", b"END\r\n")
        self.assertEqual(self.broker.queue_stats("work").on_loan, 1)
        self.assertEqual(waiting.send(b"get work/close\r\n"), b"END\r\n")
        self.assertEqual((self.broker.stats.settled, self.broker.queue_stats("work").on_loan), (1, 0))

    def test_a_late_close_is_not_for_the_next(self) -> None:
        self.open()
        self.clock.advance(1)
        self.says(b"get work/open\r\nget work/close\r\n", value(b"work/open", b"1") + b"END\r\n")
        self.assertEqual(self.broker.queue_stats("work").on_loan, 1)

    def test_it_counts_as_a_failed_delivery(self) -> None:
        self.open()
        self.clock.advance(1)
        self.says_to_another(b"get work/open\r\n", value(b"work/open", b"1"))
        self.assertEqual((self.broker.stats.lapsed, self.broker.stats.failed), (1, 2))
        self.says_to_another(b"get work\r\n", b"END\r\n")

    def test_touch_makes_it_longer(self) -> None:
        self.open()
        self.clock.advance(0.9)
        self.says(b"touch work 2\r\n", b"TOUCHED\r\n")
        self.clock.advance(1.9)
        self.says(b"get work/close\r\n", b"END\r\n")
        self.assertEqual(self.broker.stats.settled, 1)

    def test_what_was_closed_in_time_stays_closed(self) -> None:
        self.open()
        self.says(b"get work/close\r\n", b"END\r\n")
        self.clock.advance(2)
        self.says(b"get work\r\n", b"END\r\n")

    def test_another_queue_may_say_otherwise(self) -> None:
        self.open("forever")
        self.clock.advance(3600)
        self.assertEqual(self.broker.queue_stats("forever").on_loan, 1)

    def test_a_broker_that_died_begins_without_open_reads(self) -> None:
        self.open()
        self.setUp_with(self.store)
        self.says(b"get work\r\n", value(b"work", b"1"))


class GetSettlesBeforeTests(FrontTest):
    """``get_settles = "before"``: a crash may lose a message, and never repeats it."""

    policy = Policy(get_settles="before")

    def test_it_is_settled_on_disk_before_its_bytes_go_out(self) -> None:
        self.put("work", b"1")
        self.store.hold = True
        self.client.send(b"get work\r\n")
        while self.broker.stats.settled == 0:  # its number is reserved first
            self.store.release_commit()
            self.clock.advance(0)
        self.assertEqual(self.client.received(), b"")
        self.store.release_commit()
        self.assertEqual(self.client.received(), value(b"work", b"1"))

    def test_a_client_that_dies_with_it_loses_it(self) -> None:
        self.put("work", b"1", b"2")
        slow = Client(self.factory, reads=False)
        slow.send(b"get work\r\n")
        slow.go()
        self.clock.advance(0)
        self.says(b"get work\r\n", value(b"work", b"2"))

    def test_open_and_peek_are_as_ever(self) -> None:
        self.put("work", b"1")
        self.says(b"get work/peek\r\nget work/open\r\n", value(b"work/peek", b"1") + value(b"work/open", b"1"))
        self.assertEqual(self.broker.stats.settled, 0)


class WaitTests(FrontTest):
    """t="""

    def test_a_message_that_is_there_is_given_at_once(self) -> None:
        self.put("work", b"1")
        self.says(b"get work/t=1000\r\n", value(b"work/t=1000", b"1"))

    def test_a_message_that_comes_in_time(self) -> None:
        self.says(b"get work/t=1000/open\r\n", b"")
        self.clock.advance(0.999)
        other = Client(self.factory)
        other.send(b"set work 0 0 1\r\n1\r\n")
        self.clock.advance(0)
        self.assertEqual(self.client.received(), value(b"work/t=1000/open", b"1"))
        self.assertEqual(self.broker.queue_stats("work").on_loan, 1)

    def test_nothing_comes(self) -> None:
        self.says(b"get work/t=1000\r\n", b"")
        self.clock.advance(0.999)
        self.assertEqual(self.client.received(), b"")
        self.clock.advance(0.001)
        self.assertEqual(self.client.received(), b"END\r\n")

    def test_commands_behind_it_wait(self) -> None:
        self.says(b"get work/t=1000\r\nset work 0 0 1\r\n1\r\nget work\r\n", b"")
        self.clock.advance(1)
        self.assertEqual(self.client.received(), b"END\r\nSTORED\r\n" + value(b"work", b"1"))

    def test_close_and_open_with_a_wait_closes_at_once(self) -> None:
        self.put("work", b"1")
        self.says(b"get work/open\r\nget work/close/open/t=500\r\n", value(b"work/open", b"1"))
        self.assertEqual(self.broker.stats.settled, 1)
        self.clock.advance(0.5)
        self.assertEqual(self.client.received(), b"END\r\n")
        self.says(b"get work/close\r\n", b"END\r\n")

    def test_a_peek_waits_too(self) -> None:
        self.says(b"get work/peek/t=1000\r\n", b"")
        Client(self.factory).send(b"set work 0 0 1\r\n1\r\n")
        self.clock.advance(0)
        self.assertEqual(self.client.received(), value(b"work/peek/t=1000", b"1"))
        self.says(b"get work\r\n", value(b"work", b"1"))

    def test_several_keys_wait_one_after_the_other(self) -> None:
        self.put("b", b"1")
        self.says(b"get a/t=100 b/t=100 c/t=100\r\n", b"")
        self.clock.advance(0.1)
        self.assertEqual(self.client.received(), value(b"b/t=100", b"1")[:-5])
        self.clock.advance(0.1)
        self.assertEqual(self.client.received(), b"END\r\n")

    def test_those_who_wait_are_served_in_order(self) -> None:
        clients = [Client(self.factory) for _ in range(5)]
        for client in clients:
            client.send(b"get work/t=1000\r\n")
        for number, client in enumerate(clients):
            self.says(b"set work 0 0 1\r\n%d\r\n" % number, b"STORED\r\n")
            self.assertEqual(client.received(), value(b"work/t=1000", b"%d" % number))

    def test_a_client_that_goes_while_it_waits_loses_nothing(self) -> None:
        self.says(b"get work/t=1000\r\n", b"")
        self.assertEqual(self.broker.queue_stats("work").waiters, 1)
        self.client.go()
        self.assertEqual(self.broker.queue_stats("work").waiters, 0)
        self.client = Client(self.factory)
        self.put("work", b"1")
        self.says(b"get work\r\n", value(b"work", b"1"))

    def test_the_next_who_waits_gets_what_a_dead_one_would_have(self) -> None:
        dead, alive = Client(self.factory), Client(self.factory)
        dead.send(b"get work/open/t=1000\r\n")
        alive.send(b"get work/open/t=1000\r\n")
        dead.go()
        self.put("work", b"1")
        self.assertEqual(alive.received(), value(b"work/open/t=1000", b"1"))


class DisconnectTests(FrontTest):
    """A client goes."""

    policy = Policy(max_attempts=2, max_open=100)

    def test_open_reads_go_back_in_order_and_count_as_failed(self) -> None:
        self.put("work", b"1", b"2", b"3")
        self.says(b"get work/open\r\nget work/open\r\n", value(b"work/open", b"1") + value(b"work/open", b"2"))
        self.client.go()
        self.clock.advance(0)
        self.assertEqual(self.broker.stats.failed, 2)
        self.client = Client(self.factory)
        for body in b"1", b"2", b"3":
            self.says(b"get work\r\n", value(b"work", body))

    def test_a_message_that_kills_its_readers_is_given_up(self) -> None:
        self.put("work", b"1")
        for _ in range(2):
            self.says(b"get work/open\r\n", value(b"work/open", b"1"))
            self.client.go()
            self.clock.advance(0)
            self.client = Client(self.factory)
        self.says(b"get work/open\r\n", b"END\r\n")

    def test_what_is_still_in_our_buffer_goes_back(self) -> None:
        self.put("work", b"1", b"2")
        slow = Client(self.factory, reads=False)
        slow.send(b"get work\r\nget work\r\n")
        self.assertEqual(self.broker.queue_stats("work").on_loan, 2)
        slow.go()
        self.clock.advance(0)
        self.says(b"get work\r\nget work\r\n", value(b"work", b"1") + value(b"work", b"2"))

    def test_what_left_our_buffer_is_settled(self) -> None:
        self.put("work", b"1", b"2")
        slow = Client(self.factory, reads=False)
        slow.send(b"get work\r\n")
        slow.take()
        self.assertEqual(self.broker.stats.settled, 1)
        slow.send(b"get work\r\n")
        slow.go()
        self.assertEqual(self.broker.stats.settled, 1)
        self.assertEqual(self.ready("work"), 1)

    def test_a_message_flushed_meanwhile_is_no_trouble(self) -> None:
        self.put("work", b"1")
        slow = Client(self.factory, reads=False)
        slow.send(b"get work\r\n")
        self.says(b"flush_all\r\n", b"OK\r\n")
        slow.take()
        slow.go()
        self.assertEqual(self.ready("work"), 0)

    def test_sets_that_were_owed_an_answer_are_kept(self) -> None:
        self.store.hold = True
        self.client.send(b"set work 0 0 1\r\n1\r\nget work\r\n")
        self.client.go()
        self.store.release_commit()
        self.store.hold = False
        self.client = Client(self.factory)
        self.says(b"get work\r\n", value(b"work", b"1"))

    def test_a_client_that_goes_while_its_close_is_on_its_way(self) -> None:
        self.put("work", b"1", b"2")
        self.says(b"get work/open\r\n", value(b"work/open", b"1"))
        self.store.hold = True
        self.client.send(b"get work/close/open\r\n")
        self.client.go()
        self.store.hold = False
        while self.store.held is not None:
            self.store.release_commit()
        self.clock.advance(0)
        self.assertEqual(self.broker.queue_stats("work").on_loan, 0)
        self.client = Client(self.factory)
        self.says(b"get work\r\n", value(b"work", b"2"))


class EndOfInputTests(FrontTest):
    """A client that closes its half: what it said is answered."""

    def test_answers_and_closes(self) -> None:
        self.store.hold = True
        self.client.send(b"set work 0 0 1\r\n1\r\nset work 0 0 5\r\nunfin")
        self.client.protocol.readConnectionLost()
        self.assertFalse(self.client.closed)
        self.store.release_commit()
        self.assertEqual(self.client.received(), b"STORED\r\n")
        self.assertTrue(self.client.closed)

    def test_waits_for_nothing(self) -> None:
        self.put("b", b"1")
        self.client.send(b"get a/t=60000 c/t=60000 b/t=60000\r\nget a/t=60000\r\n")
        self.client.protocol.readConnectionLost()
        self.assertEqual(self.client.received(), value(b"b/t=60000", b"1") + b"END\r\n")
        self.assertTrue(self.client.closed)
        self.client.go()
        self.assertEqual(self.broker.stats.settled, 1)


class StopTests(FrontTest):
    """The broker stops."""

    def test_everything_goes_back_and_connections_close(self) -> None:
        self.put("work", b"1", b"2")
        self.says(b"get work/open\r\n", value(b"work/open", b"1"))
        waiting, idle = Client(self.factory), Client(self.factory)
        waiting.send(b"get nothing/t=60000\r\n")
        self.store.hold = True
        self.client.send(b"set work 0 0 1\r\n3\r\n")
        closed = Deferred.fromCoroutine(self.factory.close())
        self.assertEqual(waiting.received(), b"END\r\n")
        self.assertTrue(waiting.closed)
        self.assertTrue(idle.closed)
        self.assertFalse(self.client.closed)
        self.store.hold = False
        while self.store.held is not None:
            self.store.release_commit()
        self.assertEqual(self.client.received(), b"STORED\r\n")
        self.assertTrue(self.client.closed)
        self.assertNoResult(closed)
        for client in self.client, waiting, idle:
            client.go()
        self.successResultOf(closed)
        self.assertEqual((self.broker.stats.released, self.broker.stats.failed), (1, 0))

    def test_without_connections_it_is_closed_at_once(self) -> None:
        self.client.go()
        self.successResultOf(Deferred.fromCoroutine(self.factory.close()))
