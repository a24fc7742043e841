"""What policies do that memcache has no word for: full queues, aliases, children, and what each error is called."""

from __future__ import annotations

import inspect

from twisted.trial.unittest import SynchronousTestCase

from broker import errors
from broker.core.destination import Destination, Kind
from broker.core.filter import BadFilter
from broker.core.policy import Policies, Policy, Rule
from broker.memcache import voice
from broker.memcache.dialect import DEFAULT
from broker.memcache.text import TextVoice
from broker.memcache.voice import ERRORS
from broker.outbox import MAX_OWED
from tests.memcache.support import FrontTest
from tests.memcache.test_reads import value


class ErrorTableTests(SynchronousTestCase):
    def test_every_error_has_its_words_and_its_status(self) -> None:
        family = {kind for room in (errors, voice) for _, kind in inspect.getmembers(room, inspect.isclass)}
        self.assertEqual({kind for kind in family if issubclass(kind, errors.BrokerError)}, set(ERRORS))

    def test_a_kind_of_error_that_has_none_has_those_of_its_family(self) -> None:
        line = b"CLIENT_ERROR bad filter at character 3: no such field\r\n"
        self.assertEqual(TextVoice(DEFAULT).failed(BadFilter("no such  field", 3)), (line, False))


class FullQueueTests(FrontTest):
    """overflow, by the queue's name."""

    policy = Policies(
        Policy(max_messages=1), [Rule(way, {"overflow": way}) for way in ("drop_oldest", "drop_new", "wait")]
    )

    def test_reject(self) -> None:
        self.put("reject", b"1")
        self.says(b"set reject 0 0 1\r\n2\r\n", b"NOT_STORED\r\n")
        self.says(b"get reject\r\n", value(b"reject", b"1"))

    def test_what_drops_confirms(self) -> None:
        for queue, kept in ("drop_oldest", b"2"), ("drop_new", b"1"):
            self.put(queue, b"1", b"2")
            self.says(b"get %b\r\n" % queue.encode(), value(queue.encode(), kept))

    def test_a_set_waits_for_room_and_replies_stay_in_order(self) -> None:
        self.put("wait", b"1")
        self.says(b"set wait 0 0 1\r\n2\r\nset other 0 0 1\r\n3\r\n", b"")
        self.says_to_another(b"get wait\r\n", value(b"wait", b"1"))
        self.assertEqual(self.client.received(), b"STORED\r\nSTORED\r\n")
        self.says(b"get wait\r\n", value(b"wait", b"2"))

    def test_in_vain(self) -> None:
        self.put("wait", b"1")
        self.says(b"set wait 0 0 1\r\n2\r\n", b"")
        self.clock.advance(31)
        self.assertEqual(self.client.received(), b"NOT_STORED\r\n")

    def test_a_client_with_many_that_wait_is_not_read_with_noreply_either(self) -> None:
        self.put("wait", b"1")
        for end in b"", b" noreply":
            self.client.send(b"set wait 0 0 1%b\r\n2\r\n" % end * (MAX_OWED // 2))
        self.assertEqual(self.client.transport.producerState, "paused")
        self.clock.advance(31)
        self.assertEqual(self.client.received(), b"NOT_STORED\r\n" * (MAX_OWED // 2))
        self.assertEqual(self.client.transport.producerState, "producing")


class NamesTests(FrontTest):
    """Names that stand for others, or say what they read."""

    policy = Policies(
        Policy(max_messages=2),
        [Rule("parent", {"fanout_only": True})],
        aliases={
            "both": (Destination(Kind.QUEUE, "a"), Destination(Kind.QUEUE, "b")),
            "up": (Destination(Kind.QUEUE, "parent"),),
        },
    )

    def test_an_alias_stores_in_every_one_and_nothing_is_read_from_it(self) -> None:
        self.put("both", b"1")
        self.says(b"get both\r\nget both/peek\r\nget both/open\r\n", b"END\r\n" * 3)
        self.says(b"get a b\r\n", b"VALUE a 0 1\r\n1\r\nVALUE b 0 1\r\n1\r\nEND\r\n")

    def test_an_alias_of_which_one_is_full_stores_in_none(self) -> None:
        self.put("a", b"1", b"2")
        self.says(b"set both 0 0 1\r\n3\r\n", b"NOT_STORED\r\n")
        self.says(b"get b\r\n", b"END\r\n")

    def test_delete_and_flush_of_an_alias_do_nothing(self) -> None:
        self.put("both", b"1")
        self.says(b"delete both\r\nflush both\r\n", b"NOT_FOUND\r\nEND\r\n")
        self.assertEqual((self.ready("a"), self.ready("b")), (1, 1))

    def test_a_child_gets_what_its_parent_gets_from_its_first_use_on(self) -> None:
        self.put("orders", b"0")
        self.says(b"get orders+audit\r\n", b"END\r\n")
        self.put("orders", b"1")
        self.put("orders+audit", b"2")
        self.says(
            b"get orders+audit\r\nget orders+audit\r\n", value(b"orders+audit", b"1") + value(b"orders+audit", b"2")
        )
        self.says(
            b"get orders\r\nget orders\r\nget orders\r\n", value(b"orders", b"0") + value(b"orders", b"1") + b"END\r\n"
        )

    def test_a_full_child_drops_silently(self) -> None:
        self.says(b"get orders+audit\r\n", b"END\r\n")
        self.put("orders+audit", b"1", b"2")
        self.put("orders", b"3")
        self.assertEqual((self.ready("orders"), self.ready("orders+audit")), (1, 2))

    def test_a_fanout_only_parent_keeps_nothing_also_behind_an_alias(self) -> None:
        self.put("parent", b"0")
        self.says(b"get parent+child\r\n", b"END\r\n")
        self.put("parent", b"1")
        self.put("up", b"2")
        self.says(
            b"get parent parent+child parent+child\r\n",
            b"VALUE parent+child 0 1\r\n1\r\nVALUE parent+child 0 1\r\n2\r\nEND\r\n",
        )
