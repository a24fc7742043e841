"""Subscriptions, and who settles what they deliver, when."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from broker.core.destination import topic
from broker.core.message import Message
from broker.stomp.flavour import DEFAULT, RABBITMQ
from broker.stomp.frames import Frame
from broker.stomp.server import StompFactory
from broker.stomp.subscriptions import MAX_SUBSCRIPTIONS
from broker.stomp.wishes import Terms
from tests.stomp.support import Client, FrontTest, bodies, header, receipts

ALL = ("1.0", "1.1", "1.2")


class SubscribeTest(FrontTest):
    def test_queues_share_and_topics_copy(self) -> None:
        """Lines 33 and 48."""
        one, two = self.client(), self.client()
        for client in (one, two):
            client.subscribe("/queue/q", "q")
            client.subscribe("/topic/t", "t")
        self.put("q", b"1", b"2", b"3", b"4")
        self.publish(topic("t"), Message(body=b"t"))
        first, second = bodies(one.frames()), bodies(two.frames())
        self.assertEqual(sorted(first + second), [b"1", b"2", b"3", b"4", b"t", b"t"])
        self.assertTrue(b"t" in first and b"t" in second)
        self.assertEqual((len(first), len(second)), (3, 3))

    def test_after_unsubscribe_no_more_comes(self) -> None:
        """Line 47."""
        for version in ALL:
            client = self.client(version)
            client.subscribe("a", "1")
            client.send("UNSUBSCRIBE", id="1")
            self.assertEqual(bodies(client.send("SEND", b"x", destination="a")), [])
            self.assertEqual(bodies(client.subscribe("a", "1")), [b"x"])
            client.lose()
            self.clients.remove(client)

    def test_whose_queue_is_deleted_is_told_which_and_closed_on(self) -> None:
        """Line 54: also where other errors keep a session."""
        for flavour in (DEFAULT, RABBITMQ):
            self.factory = StompFactory(self.broker, clock=self.clock, terms=Terms(flavour=flavour))
            self.put("q", b"1", b"2")
            reader, other = self.client(), self.client()
            reader.subscribe("q", "s", ack="client", prefetch_count=1)
            other.subscribe("r", "s")
            self.assertTrue(self.successResultOf(Deferred.fromCoroutine(self.broker.delete("q"))))
            (error,) = reader.frames()
            self.assertEqual((error.command, error.headers["subscription"]), ("ERROR", "s"))
            self.assertEqual(error.headers["error-code"], "subscription-cancelled")
            self.assert_closes(reader)
            reader.lose()
            self.clients.remove(reader)
            self.put("q", b"3")
            self.assertEqual((self.ready("q"), other.frames()), (1, []))
            self.assertTrue(self.successResultOf(Deferred.fromCoroutine(self.broker.delete("q"))))

    def test_in_1_0_a_destination_names_a_subscription(self) -> None:
        """Lines 46 and 47."""
        client = self.client("1.0")
        client.send("SUBSCRIBE", destination="/queue/a")
        client.subscribe("b", "named")
        for destination in ("a", "/queue/b"):
            self.assertEqual(receipts(client.send("UNSUBSCRIBE", destination=destination, receipt="1")), ["1"])
            self.assertEqual(bodies(client.send("SEND", b"x", destination=destination)), [])

    def test_in_1_0_a_second_subscription_of_a_name_takes_over(self) -> None:
        self.put("a", b"1")
        client = self.client("1.0")
        (message,) = client.send("SUBSCRIBE", destination="a", ack="client")
        self.assertEqual(receipts(client.send("SUBSCRIBE", destination="a", ack="auto", receipt="1")), ["1"])
        self.assertEqual(receipts(client.send("ACK", message_id=message.headers["message-id"], receipt="2")), ["2"])
        self.assertEqual(bodies(client.send("SEND", b"x", destination="a")), [b"x"])

    def test_prefetch_bounds_what_is_unsettled(self) -> None:
        """Line 52."""
        self.put("a", *(b"%d" % n for n in range(1010)))
        for headers, count in (
            *(({}, 1000), ({"prefetch_count": "5"}, 5), ({"prefetch_count": "0"}, 1010)),
            *(({"activemq.prefetchSize": "7"}, 7), ({"activemq.prefetchSize": "0"}, 1)),
            *(({"prefetch_count": "3", "activemq.prefetchSize": "7"}, 3), ({"prefetch_count": str(2**40)}, 1010)),
        ):
            client = self.client()
            frames = client.subscribe("a", ack="client-individual", **headers)
            self.assertEqual(len(frames), count)
            if count == 5:
                self.assertEqual(bodies(client.send("ACK", id=frames[2].headers["ack"])), [b"5"])
                self.put("a", b"2")
            client.lose()
            self.clients.remove(client)

    def test_a_session_has_a_thousand_subscriptions_at_most(self) -> None:
        client = self.client()
        client.raw(b"".join(b"SUBSCRIBE\ndestination:q\nid:%d\n\n\0" % n for n in range(MAX_SUBSCRIPTIONS)))
        self.assert_error(client.subscribe("q", "more"), "Too many subscriptions")

    def test_unsubscribed_ones_with_something_unsettled_count(self) -> None:
        self.put("a", *(b"x" for _ in range(1001)))
        client = self.client()
        for n in range(1000):
            frames = client.subscribe("a", str(n), "client", prefetch_count=1)
            self.assertEqual([frame.command for frame in frames], ["MESSAGE"])
            client.send("UNSUBSCRIBE", id=n)
        self.assert_error(client.subscribe("a", "more"), "Too many subscriptions")
        self.assertEqual(self.ready("a"), 1001)


class AutoTest(FrontTest):
    def test_a_message_is_settled_when_it_has_left_our_buffer(self) -> None:
        """Line 56."""
        self.put("a", b"1")
        client = self.client(takes=False)
        self.assertEqual(bodies(client.subscribe("a")), [b"1"])
        self.assertEqual(self.on_loan("a"), 1)
        client.take()
        self.assertEqual((self.ready("a"), self.on_loan("a")), (0, 0))

    def test_what_is_still_in_it_when_the_connection_breaks_goes_back(self) -> None:
        self.put("a", b"1")
        client = self.client(takes=False)
        client.subscribe("a")
        client.lose()
        self.clients.remove(client)
        (message,) = self.client().subscribe("a")
        self.assertEqual((message.headers["redelivered"], message.headers["delivery-count"]), ("true", "2"))

    def test_disconnect_waits_for_what_is_in_it(self) -> None:
        self.put("a", b"1")
        client = self.client(takes=False)
        client.subscribe("a")
        self.assertEqual(receipts(client.send("DISCONNECT", receipt="1")), ["1"])
        self.assertFalse(client.transport.half_closed)
        client.take()
        self.assert_closes(client)
        self.assertEqual((self.ready("a"), self.on_loan("a")), (0, 0))

    def test_a_client_that_does_not_read_gets_no_more_than_the_high_water_mark(self) -> None:
        self.put("a", *(b"x" * 10_000 for _ in range(50)))
        client = self.client(takes=False)
        client.subscribe("/topic/t", "t")
        self.assertEqual(len(bodies(client.subscribe("a", prefetch_count=100))), 7)
        self.publish(topic("t"), Message(body=b"t"))
        self.assertEqual(client.frames(), [])
        total = 7
        for _ in range(20):
            client.take()
            total += len(bodies(client.frames()))
        self.assertEqual(total, 51)


class AckTest(FrontTest):
    def take(self, version: str, mode: str, count: int = 4) -> tuple[Client, list[Frame]]:
        self.put("a", *(b"%d" % n for n in range(count)))
        client = self.client(version)
        return client, client.subscribe("a", "s.1", mode)

    def named(self, version: str, message: Frame) -> dict[str, object]:
        if version == "1.2":
            return {"id": message.headers["ack"]}
        subscription = {} if version == "1.0" else {"subscription": "s.1"}
        return {"message_id": message.headers["message-id"], **subscription}

    def left(self, client: Client) -> list[bytes]:
        """What comes back when `client` is gone."""
        client.lose()
        self.clients.remove(client)
        other = self.client()
        frames = other.subscribe("a")
        self.assertLessEqual(set(header(frames, "redelivered")), {"true"})
        other.lose()
        self.clients.remove(other)
        return bodies(frames)

    def test_client_is_cumulative_and_individual_is_not(self) -> None:
        """Lines 56 and 57."""
        for version in ALL:
            for mode, left in (("client", [b"3"]), ("client-individual", [b"0", b"1", b"3"])):
                client, frames = self.take(version, mode)
                self.assertEqual(receipts(client.send("ACK", receipt=1, **self.named(version, frames[2]))), ["1"])
                self.assertEqual(self.left(client), left)

    def test_cumulative_stops_at_the_subscription(self) -> None:
        self.put("b", b"other")
        client, frames = self.take("1.2", "client", 2)
        (other,) = client.subscribe("b", "s.2", "client")
        client.send("ACK", id=frames[1].headers["ack"])
        self.assertEqual(receipts(client.send("ACK", id=other.headers["ack"], receipt="1")), ["1"])

    def test_a_nack_brings_messages_back_in_order_with_a_new_ack_id(self) -> None:
        """Line 59."""
        for version in ("1.1", "1.2"):
            for mode, again in (("client", [b"0", b"1", b"2"]), ("client-individual", [b"2"])):
                client, frames = self.take(version, mode)
                back = client.send("NACK", **self.named(version, frames[2]))
                self.assertEqual(bodies(back), again)
                self.assertEqual(set(header(back, "redelivered")), {"true"})
                self.assertEqual(set(header(back, "delivery-count")), {"2"})
                if version == "1.2":
                    self.assert_error(client.send("ACK", **self.named(version, frames[2])), "Message not found")
                client.lose()
                self.clients.remove(client)
                self.successResultOf(Deferred.fromCoroutine(self.broker.purge("a")))

    def test_a_nack_without_requeue_discards(self) -> None:
        """Line 59."""
        client, frames = self.take("1.2", "client-individual", 2)
        client.send("NACK", id=frames[0].headers["ack"], requeue="false")
        self.assertEqual(bodies(client.send("NACK", id=frames[1].headers["ack"], requeue="true")), [b"1"])
        self.assertEqual(self.left(client), [b"1"])

    def test_nothing_is_settled_twice(self) -> None:
        """Line 61."""
        for version in ALL:
            for mode in ("client", "client-individual"):
                client, frames = self.take(version, mode, 2)
                client.send("ACK", **self.named(version, frames[1]))
                settled = frames[1] if mode == "client-individual" else frames[0]
                self.assert_error(client.send("ACK", **self.named(version, settled)), "Message not found")
                self.assertEqual(len(self.left(client)), 1 if mode == "client-individual" else 0)

    def test_auto_deliveries_cannot_be_acked(self) -> None:
        """Line 61."""
        for version in ALL:
            self.put("a", b"1")
            client = self.client(version, takes=False)
            (message,) = client.subscribe("a", "s.1", "auto")
            named = {"id": "s.1.1"} if version == "1.2" else self.named(version, message)
            self.assert_error(client.send("ACK", **named), "Message not found")
            self.assertEqual(self.left(client), [b"1"])

    def test_an_ack_of_another_session_s_delivery_is_refused(self) -> None:
        """Line 61."""
        _, frames = self.take("1.2", "client", 1)
        self.assert_error(self.client().send("ACK", id=frames[0].headers["ack"]), "Message not found")

    def test_what_the_broker_took_back_cannot_be_acked(self) -> None:
        client, frames = self.take("1.2", "client", 2)
        self.successResultOf(Deferred.fromCoroutine(self.broker.purge("a", on_loan=True)))
        self.assert_error(client.send("ACK", id=frames[1].headers["ack"]), "Message not found")

    def test_a_late_ack_after_unsubscribe_settles(self) -> None:
        """Line 61."""
        for version in ALL:
            client, frames = self.take(version, "client", 2)
            client.send("UNSUBSCRIBE", id="s.1")
            self.assertEqual(self.ready("a"), 0)
            self.assertEqual(receipts(client.send("ACK", receipt="1", **self.named(version, frames[0]))), ["1"])
            self.assertEqual(self.left(client), [b"1"])

    def test_a_reused_id_keeps_the_old_deliveries_mode(self) -> None:
        """Line 61."""
        client, frames = self.take("1.2", "client", 3)
        client.send("UNSUBSCRIBE", id="s.1")
        client.subscribe("b", "s.1", "client-individual")
        self.assertEqual(receipts(client.send("ACK", id=frames[1].headers["ack"], receipt="1")), ["1"])
        self.assertEqual(self.left(client), [b"2"])

    def test_in_1_0_a_message_id_is_looked_for_in_all_subscriptions(self) -> None:
        """Line 58."""
        self.put("b", b"b")
        client, frames = self.take("1.0", "client", 1)
        (other,) = client.subscribe("b", "2", "client")
        for message in (other, frames[0]):
            done = client.send("ACK", message_id=message.headers["message-id"], receipt="1")
            self.assertEqual(receipts(done), ["1"])

    def test_a_broken_connection_gives_back_everything_in_order(self) -> None:
        """Lines 56 and 62."""
        client, _ = self.take("1.2", "client", 5)
        client.subscribe("a", "auto", "auto")
        self.assertEqual(self.left(client), [b"0", b"1", b"2", b"3", b"4"])

    def test_a_client_that_never_acks_holds_no_more_than_twice_its_prefetch(self) -> None:
        client = self.client()
        client.subscribe("a", "1", "client", prefetch_count=10)
        for _ in range(20):
            self.put("a", *(b"x" for _ in range(10)))
            self.assertEqual(len(client.frames()), 10)
            self.successResultOf(Deferred.fromCoroutine(self.broker.purge("a", on_loan=True)))
        session = client.protocol._session
        assert session is not None
        (consumer,) = session._subscriptions.called("1")
        self.assertLessEqual(len(consumer.unsettled), 20)
