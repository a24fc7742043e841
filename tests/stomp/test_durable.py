"""Durable subscriptions: three brokers' spellings, and the past."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from broker.core.destination import topic
from broker.core.message import Message
from broker.core.policy import Policies, TopicPolicy
from broker.stomp.frames import Frame
from tests.stomp.support import NOW, Client, FrontTest, bodies, header, receipts


class DurableTest(FrontTest):
    def leave(self, client: Client) -> None:
        client.lose()
        self.clients.remove(client)

    def news(self, *texts: bytes) -> None:
        for text in texts:
            self.publish(topic("t"), Message(body=text))

    def subscribe(self, client: Client, destination: str = "/topic/t", id: str = "s", **headers: object) -> list[Frame]:
        frames = client.send("SUBSCRIBE", destination=destination, id=id, receipt="made", **headers)
        self.assertEqual(receipts(frames[:1]), ["made"], frames)
        return frames[1:]


class NamedTest(DurableTest):
    """ActiveMQ's and Artemis's: a client id and a name."""

    def test_it_keeps_what_comes_while_its_owner_is_away(self) -> None:
        """Line 68."""
        for name in ("activemq.subscriptionName", "durable-subscription-name", "durable-subscriber-name"):
            client = self.client(client_id=name)
            self.subscribe(client, **{name: "n"})
            client.send("UNSUBSCRIBE", id="s")
            self.news(b"1")
            self.leave(client)
            self.news(b"2")
            client = self.client("1.1", client_id=name)
            frames = self.subscribe(client, **{name: "n"})
            self.assertEqual((bodies(frames), header(frames, "destination")), ([b"1", b"2"], ["/topic/t"] * 2))
            self.leave(client)

    def test_the_receipt_comes_before_the_backlog(self) -> None:
        client = self.client(client_id="c")
        self.subscribe(client, **{"activemq.subscriptionName": "n"})
        client.send("UNSUBSCRIBE", id="s")
        self.news(b"1")
        headers = {"activemq.subscriptionName": "n"}
        frames = client.send("SUBSCRIBE", destination="/topic/t", id="s", receipt="r", **headers)
        self.assertEqual([frame.command for frame in frames], ["RECEIPT", "MESSAGE"])

    def test_the_receipt_waits_for_the_disk(self) -> None:
        client = self.client(client_id="c")
        self.store.hold = True
        headers = {"activemq.subscriptionName": "n"}
        frames = client.send("SUBSCRIBE", destination="/topic/t", id="s", receipt="r", **headers)
        self.assertEqual(frames, [])
        self.store.hold = False
        self.store.release_commit()
        self.assertEqual(receipts(client.frames()), ["r"])

    def test_it_is_its_owners_alone(self) -> None:
        one, other = self.client(client_id="one"), self.client(client_id="other")
        self.subscribe(one, **{"activemq.subscriptionName": "n"})
        self.subscribe(other, **{"activemq.subscriptionName": "n"})
        self.news(b"1")
        self.assertEqual((bodies(one.frames()), bodies(other.frames())), ([b"1"], [b"1"]))
        again = self.client(client_id="one")
        frames = again.subscribe("/topic/t", **{"activemq.subscriptionName": "n"})
        self.assert_error(frames, "Durable subscription in use")

    def test_it_ends_in_two_steps(self) -> None:
        """Line 68: deleting while active is an error."""
        headers = {"activemq.subscriptionName": "n"}
        client = self.client(client_id="c")
        self.subscribe(client, **headers)
        self.assertIn("dsub/c/n", self.broker.queues())
        self.assertEqual(client.send("UNSUBSCRIBE", id="s"), [])
        self.assertEqual(receipts(client.send("UNSUBSCRIBE", id="s", receipt="1", **headers)), ["1"])
        self.assertEqual(self.broker.queues(), [])
        self.subscribe(client, **headers)
        self.assert_error(client.send("UNSUBSCRIBE", id="s", **headers), "Durable subscription in use")
        self.assertIn("dsub/c/n", self.broker.queues())

    def test_artemis_ends_it_in_one(self) -> None:
        headers = {"durable-subscription-name": "n"}
        client = self.client(client_id="c")
        self.subscribe(client, **headers)
        self.assertEqual(receipts(client.send("UNSUBSCRIBE", id="s", receipt="1", **headers)), ["1"])
        self.assertEqual(self.broker.queues(), [])
        frames = client.send("UNSUBSCRIBE", id="s", **headers)
        self.assert_error(frames, "No subscription found")

    def test_another_topic_under_the_same_name_takes_its_place(self) -> None:
        headers = {"activemq.subscriptionName": "n"}
        client = self.client(client_id="c")
        self.subscribe(client, **headers)
        client.send("UNSUBSCRIBE", id="s")
        self.news(b"dropped")
        self.assertEqual(self.subscribe(client, "/topic/other", **headers), [])
        self.news(b"not for it")
        self.assertEqual(bodies(client.send("SEND", b"1", destination="/topic/other")), [b"1"])

    def test_without_a_client_id_it_is_the_users(self) -> None:
        self.subscribe(self.client(), **{"activemq.subscriptionName": "a/b"})
        self.assertEqual(self.broker.queues(), ["dsub/anonymous/a%2Fb"])

    def test_it_may_be_to_a_pattern(self) -> None:
        client = self.client(client_id="c")
        self.subscribe(client, "/topic/a.*", **{"activemq.subscriptionName": "n"})
        frames = client.send("SEND", b"1", destination="/topic/a.b")
        self.assertEqual(header(frames, "destination"), ["/topic/a.b"])

    def test_its_selector_drops_the_rest(self) -> None:
        headers = {"activemq.subscriptionName": "n", "selector": "n > 1"}
        client = self.client(client_id="c")
        self.subscribe(client, ack="client-individual", **headers)
        for n in range(4):
            client.send("SEND", b"%d" % n, destination="/topic/t", n=n)
        self.clock.advance(0)
        self.assertEqual(self.on_loan("dsub/c/n") + self.ready("dsub/c/n"), 2)

    def test_others_read_it_by_its_own_destination(self) -> None:
        client = self.client(client_id="c")
        self.subscribe(client, **{"activemq.subscriptionName": "n"})
        client.send("UNSUBSCRIBE", id="s")
        self.news(b"1")
        self.assertEqual(bodies(self.client().subscribe("/dsub/c/n")), [b"1"])
        self.assert_error(self.client().subscribe("/dsub/c/none"), "Destination not found")

    def test_a_name_may_be_too_long(self) -> None:
        client = self.client(client_id="c")
        frames = client.send("SUBSCRIBE", destination="/topic/t", id="s", **{"activemq.subscriptionName": "n" * 300})
        self.assert_error(frames, "Invalid destination")


class SharedTest(DurableTest):
    """RabbitMQ's: an id that whoever uses it shares."""

    def test_it_keeps_what_comes_and_the_same_id_shares_it(self) -> None:
        """Line 69."""
        for headers in ({"durable": "true", "auto_delete": "false"}, {"persistent": "true"}):
            name = next(iter(headers))
            client = self.client()
            self.subscribe(client, id=name, **headers)
            self.leave(client)
            self.news(b"0")
            clients = [self.client(), self.client()]
            got = bodies(self.subscribe(clients[0], id=name, prefetch_count=1, ack="client", **headers))
            got += bodies(self.subscribe(clients[1], id=name, prefetch_count=1, ack="client", **headers))
            self.news(b"1")
            got += [body for each in clients for body in bodies(each.frames())]
            self.assertEqual(got, [b"0", b"1"])
            for each in clients:
                self.leave(each)

    def test_different_ids_get_copies(self) -> None:
        clients = [self.client(), self.client()]
        for number, client in enumerate(clients):
            self.subscribe(client, id=str(number), durable="true")
        self.news(b"1")
        self.assertEqual([bodies(client.frames()) for client in clients], [[b"1"], [b"1"]])

    def test_an_id_is_needed(self) -> None:
        self.assert_error(self.client("1.0").send("SUBSCRIBE", destination="/topic/t", durable="true"), "Missing id")

    def test_it_ends_by_an_unsubscribe_that_says_so(self) -> None:
        client = self.client()
        self.subscribe(client, durable="true")
        client.send("UNSUBSCRIBE", id="s")
        self.assertEqual(self.broker.queues(), ["dsub/shared/t/s"])
        self.subscribe(client, durable="true")
        self.assertEqual(receipts(client.send("UNSUBSCRIBE", id="s", durable="true", receipt="1")), ["1"])
        self.assertEqual(self.broker.queues(), [])

    def test_also_by_one_who_does_not_consume_it(self) -> None:
        client = self.client()
        self.subscribe(client, durable="true")
        client.send("UNSUBSCRIBE", id="s")
        frames = client.send("UNSUBSCRIBE", id="s", destination="/topic/t", persistent="true", receipt="1")
        self.assertEqual((receipts(frames), self.broker.queues()), (["1"], []))
        self.assert_error(client.send("UNSUBSCRIBE", id="s", durable="true"), "No subscription found")

    def test_its_queue_may_be_named(self) -> None:
        """Line 70, its first part."""
        client = self.client()
        self.subscribe(client, durable="true", x_queue_name="mine")
        self.news(b"1")
        self.assertEqual(self.broker.queues(), ["mine"])
        self.assertEqual(bodies(client.frames()), [b"1"])

    def test_of_a_queue_it_says_nothing(self) -> None:
        client = self.client()
        client.subscribe("/queue/q", durable="true", auto_delete="false")
        self.assertEqual(bodies(client.send("SEND", b"1", destination="q")), [b"1"])


class PastTest(DurableTest):
    def setUp(self) -> None:
        super().setUp()
        policies = Policies(self.policy, topic_default=TopicPolicy(retain=3_600_000))
        self.successResultOf(Deferred.fromCoroutine(self.broker.reload(policies)))
        for text in (b"1", b"2", b"3"):
            self.news(text)
            self.clock.advance(10)

    def test_a_subscription_begins_in_the_past(self) -> None:
        for headers, expected in (
            ({"from_seq": "start"}, [b"1", b"2", b"3"]),
            ({"from_seq": "0"}, [b"1", b"2", b"3"]),
            ({"from_seq": str((NOW + 5) * 1_000_000)}, [b"2", b"3"]),
            ({"from_time": str((NOW + 15) * 1000)}, [b"3"]),
            ({"from_time": "2023-11-14T22:13:25Z"}, [b"2", b"3"]),
            ({"from_seq": "now"}, []),
            ({}, []),
            ({"activemq.retroactive": "true"}, [b"1", b"2", b"3"]),
        ):
            client = self.client()
            frames = self.subscribe(client, ack="client", **headers)
            self.assertEqual(bodies(frames), expected, headers)
            self.assertEqual(header(frames, "destination"), ["/topic/t"] * len(expected))
            self.leave(client)
        self.assertEqual(self.broker.queues(), [], "what such a subscription needs goes with it")

    def test_and_goes_on_with_what_comes(self) -> None:
        client = self.client()
        self.subscribe(client, from_seq="start")
        self.assertEqual(bodies(client.send("SEND", b"4", destination="/topic/t")), [b"4"])
        client.send("UNSUBSCRIBE", id="s")
        self.clock.advance(0)
        self.assertEqual(self.broker.queues(), [])

    def test_a_durable_one_too(self) -> None:
        client = self.client(client_id="c")
        frames = self.subscribe(client, from_seq="start", **{"activemq.subscriptionName": "n"})
        self.assertEqual(bodies(frames), [b"1", b"2", b"3"])
        client.send("UNSUBSCRIBE", id="s")
        self.assertEqual(self.subscribe(client, from_seq="start", **{"activemq.subscriptionName": "n"}), [])

    def test_a_selector_holds_for_the_past(self) -> None:
        client = self.client()
        frames = self.subscribe(client, from_seq="start", selector=f"timestamp > {(NOW + 5) * 1000}")
        self.assertEqual(bodies(frames), [b"2", b"3"])

    def test_a_pattern_has_the_past_of_what_it_matches(self) -> None:
        for headers in ({"from_seq": "start"}, {"activemq.retroactive": "true"}):
            frames = self.subscribe(self.client(), "/topic/*", **headers)
            self.assertEqual(bodies(frames), [b"1", b"2", b"3"])

    def test_a_client_that_goes_meanwhile_leaves_nothing(self) -> None:
        client = self.client()
        self.store.hold = True
        client.subscribe("/topic/t", from_seq="start")
        self.leave(client)
        self.store.hold = False
        self.store.release_commit()
        self.clock.advance(1)
        self.assertEqual(self.broker.queues(), [])
