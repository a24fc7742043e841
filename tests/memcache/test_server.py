"""Commands and replies over a fake wire, with a real broker in memory."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import LogLevel, globalLogPublisher

from broker import __version__
from broker.core.destination import queue, topic
from broker.core.message import Message
from broker.core.policy import Policy
from broker.errors import StoreUnavailable
from broker.memcache.connection import MAX_PENDING
from broker.memcache.dialect import SPOKEN
from broker.memcache.server import MemcacheFactory
from broker.outbox import HIGH_WATER, MAX_OWED
from tests.memcache.support import NOW, Client, FrontTest

FORMAT = b"CLIENT_ERROR bad command line format\r\n"


class SetAndGetTests(FrontTest):
    """What goes in comes out."""

    def test_one_message(self) -> None:
        self.says(b"get work\r\n", b"END\r\n")
        self.says(b"set work 0 0 5\r\nhello\r\n", b"STORED\r\n")
        self.says(b"get work\r\n", b"VALUE work 0 5\r\nhello\r\nEND\r\n")
        self.says(b"get work\r\n", b"END\r\n")

    def test_a_get_of_an_unknown_queue_makes_none(self) -> None:
        self.says(b"get work\r\nget work/peek\r\nget work/open\r\nget work/close\r\n", b"END\r\n" * 4)
        self.assertEqual(self.broker.queues(), [])

    def test_lines_may_end_with_lf_and_commands_be_in_upper_case(self) -> None:
        self.says(b"SET work 0 0 5 \nhello\r\n", b"STORED\r\n")
        self.says(b"GET work\n", b"VALUE work 0 5\r\nhello\r\nEND\r\n")

    def test_flags_of_32_bits_come_back(self) -> None:
        self.says(b"set work 4294967295 0 1\r\nx\r\nget work\r\n", b"STORED\r\nVALUE work 4294967295 1\r\nx\r\nEND\r\n")

    def test_any_bytes_come_back(self) -> None:
        body = bytes(range(256)) + b"\r\nEND\r\n"
        self.put("work", body, b"")
        self.says(b"get work\r\n", b"VALUE work 0 %d\r\n%b\r\nEND\r\n" % (len(body), body))
        self.says(b"get work\r\n", b"VALUE work 0 0\r\n\r\nEND\r\n")

    def test_a_large_body_comes_back(self) -> None:
        body = bytes(100_000)
        self.put("work", body, body)
        value = b"VALUE work 0 100000\r\n%b\r\n" % body
        self.says(b"get work work\r\n", value + value + b"END\r\n")

    def test_queues_are_first_in_first_out(self) -> None:
        self.put("work", b"1", b"2", b"3")
        for body in b"1", b"2", b"3":
            self.says(b"get work\r\n", b"VALUE work 0 1\r\n%b\r\nEND\r\n" % body)

    def test_a_get_in_the_same_write_sees_the_set_before_it(self) -> None:
        self.store.hold = True
        self.says(b"set a 0 0 1\r\n1\r\nset a 0 0 1 noreply\r\n2\r\nget a\r\nget a\r\nversion\r\n", b"")
        while self.store.held is not None:
            self.store.release_commit()
        self.clock.advance(0)
        expected = b"STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\nVALUE a 0 1\r\n2\r\nEND\r\n"
        self.store.hold = False
        while self.store.held is not None:
            self.store.release_commit()
        version = b"VERSION %b\r\n" % SPOKEN.encode()
        self.assertEqual(self.client.received(), expected + version)

    def test_nothing_is_stored_before_its_commit(self) -> None:
        self.store.hold = True
        self.says(b"set a 0 0 1\r\n1\r\n", b"")
        self.store.release_commit()
        self.assertEqual(self.client.received(), b"STORED\r\n")

    def test_pipelined_sets_share_a_commit_and_are_answered_in_order(self) -> None:
        self.store.hold = True
        before = self.store.commits
        self.says(b"set a 0 0 1\r\n1\r\n" * 50 + b"set a/open 0 0 1\r\n1\r\n" + b"set a 0 0 1\r\n1\r\n", b"")
        while self.store.held is not None:
            self.store.release_commit()
        answer = self.client.received()
        self.assertEqual(answer, b"STORED\r\n" * 50 + b"CLIENT_ERROR set takes no option but sync\r\nSTORED\r\n")
        self.assertLessEqual(self.store.commits - before, 2)

    def test_several_keys_give_the_hits_in_order_and_one_end(self) -> None:
        self.put("a", b"1", b"2")
        self.put("c", b"3")
        self.says(b"get c b a a\r\n", b"VALUE c 0 1\r\n3\r\nVALUE a 0 1\r\n1\r\nVALUE a 0 1\r\n2\r\nEND\r\n")

    def test_the_key_is_echoed_as_requested(self) -> None:
        self.put("work", b"1", b"2", b"3")
        self.says(b"set a%20b 0 0 1\r\n4\r\n", b"STORED\r\n")
        self.says(b"get /queue/work/t=0\r\n", b"VALUE /queue/work/t=0 0 1\r\n1\r\nEND\r\n")
        self.says(b"get work/open\r\n", b"VALUE work/open 0 1\r\n2\r\nEND\r\n")
        self.says(b"get work/close/open\r\n", b"VALUE work/close/open 0 1\r\n3\r\nEND\r\n")
        self.says(b"get a%20b\r\n", b"VALUE a%20b 0 1\r\n4\r\nEND\r\n")

    def test_gets_adds_the_delivery_id(self) -> None:
        published = self.broker.publish(queue("work"), Message(body=b"1"))
        number = self.successResultOf(published).deliveries["work"]
        self.says(b"gets work/peek\r\n", b"VALUE work/peek 0 1 %d\r\n1\r\nEND\r\n" % number)
        self.says(b"gets work\r\n", b"VALUE work 0 1 %d\r\n1\r\nEND\r\n" % number)

    def test_noreply_says_nothing(self) -> None:
        self.says(b"set a 0 0 1 noreply\r\n1\r\n" * 3 + b"get a\r\n", b"VALUE a 0 1\r\n1\r\nEND\r\n")
        self.says(b"set a/open 0 0 1 noreply\r\n1\r\nset a x 0 1 noreply\r\n1\r\n", b"")
        self.says(b"delete a noreply\r\ndelete a noreply\r\nflush_all noreply\r\nverbosity 1 noreply\r\n", b"")
        self.says(b"add a 0 0 1 noreply\r\n1\r\nincr a 1 noreply\r\ntouch a 1 noreply\r\n", b"")
        self.says(b"get a\r\n", b"END\r\n")

    def test_what_a_set_says_of_its_message(self) -> None:
        got: list[Message] = []
        self.broker.subscribe(queue("work"), lambda delivery: got.append(delivery.message), prefetch=1)
        self.says(b"set work 7 0 1\r\nx\r\n", b"STORED\r\n")
        (message,) = got
        self.assertEqual((message.body, message.flags), (b"x", 7))
        self.assertEqual((message.content_type, message.headers), ("application/octet-stream", {}))

    def test_messages_of_other_fronts_have_flags_0(self) -> None:
        message = Message(body=b"x", headers={"name": "value"}, content_type="text/plain")
        self.successResultOf(self.broker.publish(queue("work"), message))
        self.says(b"get work\r\n", b"VALUE work 0 1\r\nx\r\nEND\r\n")

    def test_a_set_on_a_topic_reaches_its_readers(self) -> None:
        got: list[bytes] = []
        self.broker.subscribe(topic("news"), lambda delivery: got.append(delivery.message.body), prefetch=1)
        self.says(b"set /topic/news 0 0 1\r\nx\r\n", b"STORED\r\n")
        self.clock.advance(0)
        self.assertEqual(got, [b"x"])

    def test_set_with_sync_is_a_set(self) -> None:
        self.says(b"set work/sync 0 0 1\r\nx\r\nget work\r\n", b"STORED\r\nVALUE work 0 1\r\nx\r\nEND\r\n")


class ExpiryTests(FrontTest):
    """What exptime means."""

    def assert_lives(self, exptime: int, seconds: float) -> None:
        line = b"set work 0 %d 1\r\nx\r\n" % exptime
        self.says(line, b"STORED\r\n")
        self.clock.advance(seconds - 0.5)
        self.says(b"get work/peek\r\n", b"VALUE work/peek 0 1\r\nx\r\nEND\r\n")
        self.clock.advance(1)
        self.says(b"get work\r\n", b"END\r\n")

    def test_seconds_from_now(self) -> None:
        self.assert_lives(60, 60)

    def test_thirty_days_are_relative(self) -> None:
        self.assert_lives(2_592_000, 2_592_000)

    def test_above_that_it_is_a_date(self) -> None:
        self.assert_lives(NOW + 100, 100)

    def test_a_date_long_ago(self) -> None:
        self.says(b"set work 0 2592001 1\r\nx\r\nget work\r\n", b"STORED\r\nEND\r\n")

    def test_negative_is_over_at_once(self) -> None:
        self.says(b"set work 0 -1 1\r\nx\r\nget work\r\n", b"STORED\r\nEND\r\n")

    def test_zero_is_for_ever(self) -> None:
        self.put("work", b"x")
        self.clock.advance(10**9)
        self.says(b"get work\r\n", b"VALUE work 0 1\r\nx\r\nEND\r\n")


class OtherCommandTests(FrontTest):
    """delete, flush, flush_all, version, verbosity, quit, and those that are not served."""

    def test_delete(self) -> None:
        self.put("work", b"1")
        self.says(b"delete work\r\ndelete work\r\nget work\r\n", b"DELETED\r\nNOT_FOUND\r\nEND\r\n")
        self.says(b"delete work 0\r\n", b"NOT_FOUND\r\n")

    def test_flush_leaves_what_is_open(self) -> None:
        self.put("work", b"1", b"2", b"3")
        self.says(
            b"get work/open\r\nflush work\r\nflush nothing\r\n", b"VALUE work/open 0 1\r\n1\r\nEND\r\nEND\r\nEND\r\n"
        )
        self.assertEqual(self.ready("work"), 0)
        self.says(b"get work/abort\r\nget work\r\n", b"END\r\nVALUE work 0 1\r\n1\r\nEND\r\n")

    def test_flush_all_settles_everything(self) -> None:
        self.put("a", b"1", b"2")
        self.put("b", b"1")
        self.says(b"get a/open\r\nflush_all\r\n", b"VALUE a/open 0 1\r\n1\r\nEND\r\nOK\r\n")
        self.says(b"get a/close\r\nget a b\r\n", b"END\r\nEND\r\n")
        self.client.go()
        self.client = Client(self.factory)
        self.says(b"get a b\r\n", b"END\r\n")

    def test_flush_all_can_be_switched_off(self) -> None:
        self.put("a", b"1")
        self.client = Client(MemcacheFactory(self.broker, flush_all=False))
        self.says(b"flush_all\r\nget a\r\n", b"OK\r\nVALUE a 0 1\r\n1\r\nEND\r\n")

    def test_version_verbosity_and_quit(self) -> None:
        self.says(b"version\r\nverbosity 1\r\n", b"VERSION %b\r\nOK\r\n" % SPOKEN.encode())
        self.says(b"quit\r\nversion\r\n", b"")
        self.assertTrue(self.client.closed)

    def test_quit_waits_for_what_is_owed(self) -> None:
        self.store.hold = True
        self.says(b"set a 0 0 1\r\n1\r\nquit\r\n", b"")
        self.assertFalse(self.client.closed)
        self.store.release_commit()
        self.assertEqual(self.client.received(), b"STORED\r\n")
        self.assertTrue(self.client.closed)

    def test_quit_behind_a_get_settles_it(self) -> None:
        self.put("work", b"1")
        self.says(b"get work\r\nquit\r\n", b"VALUE work 0 1\r\n1\r\nEND\r\n")
        self.assertTrue(self.client.closed)
        self.client.go()
        self.assertEqual(self.broker.stats.settled, 1)
        self.assertEqual(self.ready("work"), 0)

    def test_refused_commands_have_their_payload_swallowed(self) -> None:
        for name in b"add", b"replace", b"append", b"prepend":
            self.says(b"%b work 0 0 4\r\nquit\r\n" % name, b"NOT_STORED\r\n")
        self.says(b"cas work 0 0 4 1\r\nquit\r\n", b"NOT_FOUND\r\n")
        self.says(b"ms work 4 ME\r\nquit\r\n", b"NS\r\n")
        self.says(b"incr work 1\r\ndecr work 1\r\n", b"NOT_FOUND\r\nNOT_FOUND\r\n")
        self.says(b"touch work 1\r\nma work\r\n", b"NOT_FOUND\r\nNF\r\n")
        self.assertEqual(self.broker.queues(), [])

    def test_unknown_commands_keep_the_connection(self) -> None:
        self.says(b"die in a fire\r\n\r\nget\r\n", b"ERROR\r\n" * 3)
        self.assertFalse(self.client.closed)


class BadInputTests(FrontTest):
    """Every misuse has its line; the connection is kept unless its bytes make no sense any more."""

    def test_keys(self) -> None:
        key = b"k" * 251
        self.says(b"get %b\r\n" % key, FORMAT)
        self.says(b"set %b 0 0 4\r\nquit\r\n" % key, FORMAT)
        self.says(b"delete %b\r\nflush %b\r\n" % (key, key), FORMAT * 2)
        self.says(b"get a\x00b\r\n", b"CLIENT_ERROR the name holds control characters\r\n")
        self.says(b"set \xff 0 0 1\r\nx\r\n", b"CLIENT_ERROR the name is not valid UTF-8\r\n")
        self.says(b"get /open\r\n", b"CLIENT_ERROR the name is empty\r\n")
        self.says(b"set %b 0 0 1\r\nx\r\n" % key[1:], b"STORED\r\n")
        self.says(b"get %b/t=1/open\r\n" % key[1:], b"VALUE %b/t=1/open 0 1\r\nx\r\nEND\r\n" % key[1:])

    def test_options(self) -> None:
        for options in b"open/peek", b"close/peek", b"open/abort", b"close/abort", b"peek/abort", b"sync/open":
            self.says(
                b"get work/%b\r\n" % options,
                b"CLIENT_ERROR of the options open, close, abort, peek and sync only close and open go together\r\n",
            )
        self.says(b"get work/t=soon\r\n", b"CLIENT_ERROR t= takes milliseconds\r\n")
        self.says(b"get work/t=99999999999\r\n", b"CLIENT_ERROR t= is at most 2147483647 milliseconds\r\n")
        self.says(b"get work/sync\r\n", b"CLIENT_ERROR sync goes with set only\r\n")
        self.says(b"set work/open 0 0 4\r\nquit\r\n", b"CLIENT_ERROR set takes no option but sync\r\n")
        self.says(b"delete work/open\r\nflush work/t=1\r\n", b"CLIENT_ERROR only get and set take options\r\n" * 2)

    def test_topics_are_for_set(self) -> None:
        sentence = b"CLIENT_ERROR a topic cannot be read with get: read a queue that is bound to it\r\n"
        self.says(b"get /topic/news\r\nget /topic/news/open\r\n", sentence * 2)
        self.says(b"delete /topic/news\r\n", b"CLIENT_ERROR a topic holds no messages: name a queue\r\n")

    def test_a_wrong_key_among_several_takes_nothing(self) -> None:
        self.put("work", b"1")
        self.says(b"get work /open\r\n", b"CLIENT_ERROR the name is empty\r\n")
        self.assertEqual(self.ready("work"), 1)

    def test_numbers(self) -> None:
        for line in b"set a x 0 4", b"set a 4294967296 0 4", b"set a 0 x 4", b"set a -1 0 4", b"cas a 0 0 4 x":
            self.says(line + b"\r\nquit\r\n", FORMAT)
        for line in b"set a 0 0 -1", b"set a 0 0 x", b"set a 0 0 18446744073709551616", b"verbosity x":
            self.says(line + b"\r\n", FORMAT)
        self.says(b"flush_all x\r\n", b"CLIENT_ERROR invalid exptime argument\r\n")
        self.says(b"delete a 5\r\n", b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n")

    def test_sizes(self) -> None:
        too_large = b"SERVER_ERROR object too large for cache\r\n"
        self.says(b"set work 0 0 100001\r\n" + bytes(100_001) + b"\r\n", too_large)
        self.says(b"set work 0 0 100000\r\n" + bytes(100_000) + b"\r\n", b"STORED\r\n")
        self.client = Client(MemcacheFactory(self.broker, max_message_size=200_000))
        self.says(b"set work 0 0 100001\r\n" + bytes(100_001) + b"\r\n", too_large)

    def test_a_body_without_its_end(self) -> None:
        self.says(b"set work 0 0 3\r\nabcdef\r\nversion\r\n"[:-9], b"CLIENT_ERROR bad data chunk\r\n")
        self.says(b"get work\r\n", b"END\r\n")

    def test_a_line_without_its_end_closes(self) -> None:
        self.says(b"set a 0 0 1\r\nx\r\n" + b"y" * 9000, b"STORED\r\nCLIENT_ERROR line too long\r\n")
        self.assertTrue(self.client.closed)
        self.says(b"version\r\n", b"")


class TroubleTests(FrontTest):
    """The broker cannot do it."""

    policy = Policy(max_messages=2)

    def test_a_full_queue(self) -> None:
        self.put("work", b"1", b"2")
        self.says(b"set work 0 0 1\r\n3\r\n", b"NOT_STORED\r\n")
        self.says(b"get work\r\nset work 0 0 1\r\n3\r\n", b"VALUE work 0 1\r\n1\r\nEND\r\nNOT_STORED\r\n")
        self.says(b"set work 0 0 1\r\n3\r\n", b"STORED\r\n")

    def test_a_commit_that_fails(self) -> None:
        self.store.hold = True
        self.says(b"set work 0 0 1\r\n1\r\nset work 0 0 1 noreply\r\n2\r\nversion\r\n", b"")
        self.store.fail_commit(StoreUnavailable("the disk is\r\nfull"))
        while self.store.held is not None:
            self.store.fail_commit(StoreUnavailable("the disk is\r\nfull"))
        version = b"VERSION %b\r\n" % SPOKEN.encode()
        self.assertEqual(self.client.received(), b"SERVER_ERROR the disk is full\r\n" + version)
        self.store.hold = False
        self.says(b"get work\r\n", b"END\r\n")

    def test_a_broker_that_stops(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.broker.stop()))
        self.says(b"set work 0 0 1\r\n1\r\n", b"SERVER_ERROR the broker is stopping\r\n")

    def test_what_nobody_foresaw_is_logged_and_not_told(self) -> None:
        self.broker.publish = lambda *_: fail(RuntimeError("secret"))  # type: ignore[method-assign]
        self.says(b"set work 0 0 1\r\n1\r\nversion\r\n"[:-9], b"SERVER_ERROR internal error\r\n")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

        def take(*_: object, **__: object) -> None:
            raise RuntimeError("secret")

        self.broker.take = take  # type: ignore[assignment, method-assign]
        self.says(b"get work\r\n", b"SERVER_ERROR internal error\r\n")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertFalse(self.client.closed)

    def test_a_client_whose_answer_cannot_be_written_is_cut_off_and_not_left_waiting(self) -> None:
        def broken(data: bytes) -> None:
            raise ZeroDivisionError

        self.patch(self.client.protocol, "_write", broken)
        self.client.send(b"stats\r\n")
        self.assertTrue(self.client.transport.disconnecting or self.client.transport.disconnected)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class FlowTests(FrontTest):
    """Who sends faster than it is answered, or does not take its answers, is not read."""

    def test_owed_replies_stop_the_reading(self) -> None:
        self.store.hold = True
        self.client.send(b"set a 0 0 1 noreply\r\nx\r\n" * (MAX_OWED + 10))
        self.assertEqual(self.client.transport.producerState, "paused")
        while self.store.held is not None:
            self.store.release_commit()
        self.assertEqual(self.client.transport.producerState, "producing")
        self.assertEqual(self.ready("a"), MAX_OWED + 10)

    def test_who_does_not_take_its_answers_gets_no_more(self) -> None:
        body = bytes(10_000)
        self.put("work", *[body] * 30)
        slow = Client(self.factory, reads=False)
        slow.send(b"get work\r\n" * 20 + b"get " + b"work " * 5 + b"\r\n")
        written = len(slow.transport.value())
        self.assertLess(written, HIGH_WATER + 11_000)
        self.assertEqual(slow.transport.producerState, "paused")
        self.assertEqual(self.ready("work") + written // 10_000, 30)
        answer = slow.take()
        self.assertEqual(answer.count(b"VALUE"), 25)
        self.assertEqual(answer.count(b"END\r\n"), 21)
        self.assertEqual(self.ready("work"), 5)

    def test_several_keys_wait_for_room_in_between(self) -> None:
        self.put("work", *[bytes(10_000)] * 30)
        slow = Client(self.factory, reads=False)
        slow.send(b"get " + b"work " * 30 + b"\r\n")
        self.assertLess(len(slow.transport.value()), HIGH_WATER + 11_000)
        slow.go()
        self.assertEqual(self.ready("work"), 30)

    def test_commands_behind_one_that_waits_are_bounded(self) -> None:
        self.client.send(b"get work/t=1000\r\n")
        self.client.send(b"version\r\n" * 10)
        self.assertEqual(self.client.transport.producerState, "producing")
        self.client.send(b"version\r\n" * (MAX_PENDING // 9))
        self.assertEqual(self.client.transport.producerState, "paused")
        self.clock.advance(1)
        answer = self.client.received()
        self.assertEqual(answer[:5], b"END\r\n")
        self.assertEqual(answer.count(b"VERSION"), 10 + MAX_PENDING // 9)
        self.assertEqual(self.client.transport.producerState, "producing")


class StatsTests(FrontTest):
    """stats."""

    def stats(self) -> dict[str, str]:
        lines = self.client.send(b"stats\r\n").decode().split("\r\n")
        self.assertEqual(lines[-2:], ["END", ""])
        numbers = {}
        for line in lines[:-2]:
            stat, name, value = line.split(" ")
            self.assertEqual(stat, "STAT")
            numbers[name] = value
        return numbers

    def test_general_numbers(self) -> None:
        self.put("a", b"1", b"2")
        self.put("b", b"3")
        self.says(b"get a c\r\n", b"VALUE a 0 1\r\n1\r\nEND\r\n")
        self.clock.advance(5)
        numbers = self.stats()
        expected = {
            "uptime": "5",
            "time": str(NOW + 5),
            "version": __version__,
            "curr_items": "2",
            "total_items": "3",
            "curr_connections": "1",
            "total_connections": "1",
            "cmd_get": "2",
            "cmd_set": "3",
            "cmd_peek": "0",
            "get_hits": "1",
            "get_misses": "1",
            "bytes_read": str(3 * len("set a 0 0 1\r\n1\r\n") + len("get a c\r\n") + len("stats\r\n")),
            "bytes_written": str(3 * len("STORED\r\n") + len("VALUE a 0 1\r\n1\r\nEND\r\n")),
            "queue_creates": "2",
            "queue_deletes": "0",
            "limit_maxbytes": "0",
        }
        self.assertEqual({name: numbers[name] for name in expected}, expected)
        self.assertLessEqual({"pid", "rusage_user", "rusage_system"}, set(numbers))

    def test_delayed_messages_are_counted_apart(self) -> None:
        self.successResultOf(self.broker.publish(queue("a"), Message(body=b"x", delay=1000)))
        self.assertEqual((self.stats()["delayed_items"], self.stats()["curr_items"]), ("1", "0"))
        self.clock.advance(1.01)
        self.assertEqual((self.stats()["delayed_items"], self.stats()["curr_items"]), ("0", "1"))

    def test_numbers_of_a_queue(self) -> None:
        self.put("a", b"1", b"2", b"3")
        self.says(b"get a/open\r\n", b"VALUE a/open 0 1\r\n1\r\nEND\r\n")
        waiting = Client(self.factory)
        waiting.send(b"get other/t=1000\r\n")
        numbers = self.stats()
        expected = {"items": "2", "total_items": "3", "open_transactions": "1", "waiters": "0", "expired_items": "0"}
        self.assertEqual({name: numbers[f"queue_a_{name}"] for name in expected}, expected)
        self.assertEqual(numbers["queue_other_waiters"], "1")
        waiting.go()

    def test_a_blank_in_a_name_is_escaped(self) -> None:
        self.says(b"set a%20%25 0 0 1\r\nx\r\n", b"STORED\r\n")
        self.assertEqual(self.stats()["queue_a%20%25_items"], "1")

    def test_arguments(self) -> None:
        for argument in b"items", b"slabs", b"sizes":
            self.says(b"stats %b\r\n" % argument, b"END\r\n")
        self.assertIn(b"\r\nSTAT dialect default\r\nEND\r\n", self.client.send(b"stats settings\r\n"))
        self.assertEqual(self.client.send(b"stats conns\r\n").count(b"STAT"), 1)
        self.says(b"stats reset\r\n", b"RESET\r\n")
        self.says(b"stats nonsense\r\n", b"ERROR\r\n")

    def test_many_queues_wait_for_room(self) -> None:
        for number in range(500):
            self.put(f"queue-{number}", b"x")
        slow = Client(self.factory, reads=False)
        slow.send(b"stats\r\n")
        self.assertLess(len(slow.transport.value()), HIGH_WATER + 1000)
        self.assertTrue(slow.take().endswith(b"END\r\n"))

    def test_a_client_that_goes_meanwhile(self) -> None:
        for number in range(500):
            self.put(f"queue-{number}", b"x")
        slow = Client(self.factory, reads=False)
        slow.send(b"stats\r\n")
        slow.go()
        self.assertEqual(self.stats()["curr_connections"], "1")


class LogTests(FrontTest):
    """One line when a client comes, one when it goes."""

    def test_a_connection_is_two_lines(self) -> None:
        observer = EventLoggingObserver()
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        client = Client(self.factory)
        client.send(b"set a 0 0 1\r\nx\r\nget a/open\r\nbogus\r\nquit\r\n")
        client.go()
        lines = [event for event in observer if "memcache" in (event["log_format"] or "")]
        self.assertEqual([event["log_level"] for event in lines], [LogLevel.info] * 2)
        self.assertEqual(lines[0]["log_format"], "memcache client {peer} connected")
        self.assertEqual((lines[1]["why"], lines[1]["requeued"]), ("quit", 1))
