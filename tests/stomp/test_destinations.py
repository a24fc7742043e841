"""Destinations of several: lists, wildcards, exchanges, virtual topics, queues that read others."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from broker.core.destination import Destination, Kind, queue, topic
from broker.core.policy import Policies, Policy, Rule, TopicPolicy
from broker.stomp.destinations import Form, Names, Target
from broker.stomp.errors import Refused
from tests.stomp.support import FrontTest, bodies, header, receipts


@pytest.mark.parametrize(
    ("text", "sent", "read"),
    [
        ("/queue/a", queue("a"), queue("a")),
        ("/queue/a/b.c", queue("a/b.c"), queue("a/b.c")),
        ("a", queue("a"), queue("a")),
        ("/topic/a.b", topic("a.b"), topic("a.b")),
        ("/exchange/amq.topic/a.b", topic("a.b"), topic("a.b")),
        ("/exchange/logs", topic("logs"), topic("logs.#")),
        ("/exchange/logs/red", topic("logs.red"), topic("logs.red")),
        ("/exchange/a%2Fb/c%2Fd", topic("a/b.c/d"), topic("a/b.c/d")),
        ("/exchange/logs/*.red", None, topic("logs.*.red")),
        ("/exchange/amq.topic", None, topic("#")),
        ("/topic/a.*.#", None, topic("a.*.#")),
        ("/topic/a.>", None, topic("a.>")),
    ],
)
def test_what_a_destination_means(text: str, sent: Destination | None, read: Destination) -> None:
    assert [target.destination for target in Names().parse(text, reading=True)] == [read]
    if sent is None:
        with pytest.raises(Refused):
            Names().parse(text)
    else:
        assert Names().parse(text) == (Target(text, sent),)


def test_a_queue_that_must_be_there() -> None:
    assert Names().parse("/amq/queue/a%2Fb") == (Target("/amq/queue/a%2Fb", queue("a/b"), Form.EXISTING),)


def test_lists() -> None:
    """Line 51: what lacks a prefix is of its neighbour's kind."""
    assert Names().parse("/queue/a,b, /topic/c ,d,/queue/b") == (
        Target("/queue/a", queue("a")),
        Target("/queue/b", queue("b")),
        Target("/topic/c", topic("c")),
        Target("/topic/d", topic("d")),
    )
    assert Names().parse("a,b") == (Target("/queue/a", queue("a")), Target("/queue/b", queue("b")))


def test_the_kind_of_what_has_no_prefix_can_be_chosen() -> None:
    assert Names(bare=Kind.TOPIC).parse("a,/odd/b") == (
        Target("/topic/a", topic("a")),
        Target("/odd/b", topic("/odd/b")),
    )


class ListTest(FrontTest):
    def test_one_send_reaches_all_of_a_list(self) -> None:
        """Line 51."""
        client = self.client()
        client.subscribe("/topic/c", "t")
        frames = client.send("SEND", b"x", destination="/queue/a,b,/topic/c", receipt="1")
        self.assertEqual((receipts(frames), header(frames, "destination")), (["1"], ["/topic/c"]))
        self.assertEqual((self.ready("a"), self.ready("b")), (1, 1))
        self.assertEqual(header(client.subscribe("/queue/a,/queue/b", "q"), "destination"), ["/queue/a", "/queue/b"])

    def test_all_of_a_list_or_nothing(self) -> None:
        policies = Policies(rules=[Rule("small", {"max_message_size": 1})])
        self.successResultOf(Deferred.fromCoroutine(self.broker.reload(policies)))
        client = self.client()
        self.assert_error(client.send("SEND", b"xx", destination="/queue/large,small"), "Body too large")
        self.assertEqual(self.ready("large"), 0)

    def test_a_list_in_a_transaction(self) -> None:
        client = self.client()
        client.send("BEGIN", transaction="t")
        client.send("SEND", b"x", destination="/queue/a,b", transaction="t")
        self.assertEqual(self.ready("a"), 0)
        client.send("COMMIT", transaction="t")
        self.assertEqual((self.ready("a"), self.ready("b")), (1, 1))

    def test_one_subscription_reads_all_of_a_list(self) -> None:
        """Line 51: under one id, and acks of one count for the messages of all."""
        self.put("a", b"1")
        self.put("b", b"2")
        client = self.client()
        frames = client.subscribe("/queue/a,b,/topic/t", "7", ack="client")
        frames += client.send("SEND", b"3", destination="/topic/t")
        self.assertEqual(bodies(frames), [b"1", b"2", b"3"])
        self.assertEqual(header(frames, "subscription"), ["7"] * 3)
        self.assertEqual(receipts(client.send("ACK", id=frames[2].headers["ack"], receipt="r")), ["r"])
        self.assertEqual((self.ready("a") + self.on_loan("a"), self.ready("b") + self.on_loan("b")), (0, 0))

    def test_a_list_is_unsubscribed_as_one(self) -> None:
        client = self.client("1.0")
        client.send("SUBSCRIBE", destination="/queue/a,/topic/t")
        client.send("UNSUBSCRIBE", destination="a,/topic/t")
        self.put("a", b"1")
        self.assertEqual(client.send("SEND", b"2", destination="/topic/t"), [])
        self.assertEqual(self.ready("a"), 1)

    def test_each_item_counts_as_a_subscription(self) -> None:
        client = self.client()
        text = ",".join(f"/queue/{n}" for n in range(600))
        self.assertEqual(client.subscribe(text, "1"), [])
        self.assert_error(client.subscribe(text, "2"), "Too many subscriptions")

    def test_an_alias_is_sent_to_and_not_read(self) -> None:
        policies = Policies(aliases={"both": (queue("a"), queue("b"))})
        self.successResultOf(Deferred.fromCoroutine(self.broker.reload(policies)))
        client = self.client()
        client.send("SEND", b"x", destination="both", receipt="1")
        self.assertEqual((self.ready("a"), self.ready("b")), (1, 1))
        self.assertEqual(header(client.subscribe("a"), "destination"), ["/queue/a"])
        self.assert_error(client.subscribe("/queue/c,both", "2"), "Invalid header")


class WildcardTest(FrontTest):
    def test_a_pattern_gets_what_matches_and_learns_where_it_was_sent(self) -> None:
        """Line 50."""
        for version in ("1.0", "1.1", "1.2"):
            client = self.client(version)
            client.subscribe("/topic/prices.*.#", "1")
            frames = []
            for name in ("prices", "prices.gold", "prices.gold.eur", "gold.prices"):
                frames += client.send("SEND", destination=f"/topic/{name}")
            self.assertEqual(header(frames, "destination"), ["/topic/prices.gold", "/topic/prices.gold.eur"])

    def test_a_last_angle_is_any_number_of_words(self) -> None:
        client = self.client()
        client.subscribe("/topic/a.>")
        frames = [
            frame for name in ("a", "a.b", "a.b.c", "b") for frame in client.send("SEND", destination=f"/topic/{name}")
        ]
        self.assertEqual(header(frames, "destination"), ["/topic/a", "/topic/a.b", "/topic/a.b.c"])

    def test_an_exchange_without_a_key_gets_all_of_it(self) -> None:
        client = self.client()
        client.subscribe("/exchange/logs")
        frames = client.send("SEND", b"1", destination="/exchange/logs")
        frames += client.send("SEND", b"2", destination="/exchange/logs/any.key")
        self.assertEqual(bodies(frames), [b"1", b"2"])

    def test_the_topic_exchange_is_where_topics_are(self) -> None:
        client = self.client()
        client.subscribe("/topic/a.b")
        frames = client.send("SEND", b"1", destination="/exchange/amq.topic/a.b")
        self.assertEqual(header(frames, "destination"), ["/exchange/amq.topic/a.b"])

    def test_what_nobody_reads_is_receipted(self) -> None:
        """Line 40, its second half."""
        self.assertEqual(receipts(self.client().send("SEND", destination="/exchange/amq.fanout", receipt="1")), ["1"])


class NameTest(FrontTest):
    """Queues whose names say what they read."""

    def test_a_virtual_topic_gives_each_group_a_copy_that_its_consumers_share(self) -> None:
        """Line 72."""
        clients = [self.client() for _ in range(3)]
        for client, group in zip(clients, "AAB", strict=True):
            client.subscribe(f"/queue/Consumer.{group}.VirtualTopic.Orders")
        for n in range(4):
            clients[0].send("SEND", b"%d" % n, destination="/topic/VirtualTopic.Orders")
        _, shared, other = (bodies(client.frames()) for client in clients)
        self.assertEqual(other, [b"0", b"1", b"2", b"3"])
        self.assertEqual((len(shared), self.broker.queue_stats("Consumer.A.VirtualTopic.Orders").delivered), (2, 4))

    def test_a_virtual_topic_keeps_what_comes_while_nobody_is_there(self) -> None:
        client = self.client()
        client.subscribe("/queue/Consumer.A.VirtualTopic.Orders", "1")
        client.send("UNSUBSCRIBE", id="1")
        client.send("SEND", b"1", destination="/topic/VirtualTopic.Orders")
        self.assertEqual(bodies(client.subscribe("/queue/Consumer.A.VirtualTopic.Orders", "2")), [b"1"])

    def test_a_child_gets_what_its_queue_gets(self) -> None:
        client = self.client()
        client.subscribe("/queue/orders+audit")
        frames = client.send("SEND", b"1", destination="/queue/orders")
        self.assertEqual((bodies(frames), header(frames, "destination")), ([b"1"], ["/queue/orders"]))
        self.assertEqual(self.ready("orders"), 1)


class SlowSubscriberTest(FrontTest):
    def policies(self, overflow: str) -> None:
        policies = Policies(Policy(), topic_default=TopicPolicy(max_bytes=1000, overflow=overflow))  # type: ignore[arg-type]
        self.successResultOf(Deferred.fromCoroutine(self.broker.reload(policies)))

    def test_the_oldest_messages_make_room(self) -> None:
        self.policies("drop_oldest")
        slow, quick = self.client(), self.client()
        slow.subscribe("/topic/t", ack="client", prefetch_count=1)
        quick.subscribe("/topic/t")
        for n in range(10):
            quick.send("SEND", b"%d" % n * 100, destination="/topic/t")
        first, *_ = slow.frames()
        slow.send("ACK", id=first.headers["ack"])
        self.assertEqual(first.body[:1], b"0")

    def test_or_the_subscription_ends_with_an_error_that_names_it(self) -> None:
        self.policies("disconnect")
        slow, quick = self.client(), self.client()
        slow.subscribe("/topic/t", "s", ack="client", prefetch_count=1)
        quick.subscribe("/topic/t")
        got = [body for n in range(10) for body in bodies(quick.send("SEND", b"%d" % n * 100, destination="/topic/t"))]
        self.assertEqual(len(got), 10)
        self.assert_error(slow.frames()[1:], "Subscription cancelled", subscription="s")
        self.assert_closes(slow)
