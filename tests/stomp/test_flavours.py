"""The ways of RabbitMQ, ActiveMQ and CoilMQ, each where a client of theirs would miss it."""

from __future__ import annotations

from typing import get_args, get_type_hints

import msgspec
import pytest
from twisted.internet.defer import Deferred

from broker.config import StompListener
from broker.core.destination import queue
from broker.stomp.flavour import ACTIVEMQ, COILMQ, FLAVOURS, RABBITMQ, Flavour
from broker.stomp.frames import Frame
from broker.stomp.server import StompFactory
from broker.stomp.wishes import Terms
from tests.stomp.support import Client, FrontTest, bodies, header, receipts


def test_a_flavour_is_a_handful_of_data() -> None:
    assert len(msgspec.structs.fields(Flavour)) < 15
    assert set(FLAVOURS) == set(get_args(get_type_hints(StompListener)["flavour"]))


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=str)
def test_its_words_can_be_filled_in(flavour: Flavour) -> None:
    for words in flavour.words.values():
        assert words.format(command="ACK", named="x")


class FlavourTest(FrontTest):
    flavour: Flavour

    def setUp(self) -> None:
        super().setUp()
        self.factory = StompFactory(self.broker, clock=self.clock, terms=Terms(flavour=self.flavour))

    def message_of(self, frames: list[Frame]) -> str:
        (error,) = frames
        self.assertEqual(error.command, "ERROR")
        return error.headers["message"]

    def goes_on(self, client: Client) -> None:
        self.assertEqual(receipts(client.send("BEGIN", transaction="still", receipt="1")), ["1"])
        client.send("ABORT", transaction="still")

    def take(self, client: Client, mode: str, *names: str) -> list[str]:
        """Messages from each of these queues; how to ack them."""
        for name in names:
            self.put(name, b"%b1" % name.encode(), b"%b2" % name.encode())
        return [
            str(ack)
            for name in names
            for ack in header(client.subscribe(f"/queue/{name}", name, mode, prefetch_count=10), "ack")
        ]

    def left(self, client: Client, *names: str) -> list[bytes]:
        client.lose()
        self.clients.remove(client)
        other = self.client()
        return [body for name in names for body in bodies(other.subscribe(f"/queue/{name}", name))]


class RabbitTest(FlavourTest):
    flavour = RABBITMQ

    def test_errors_a_client_can_recover_from_leave_the_connection_open(self) -> None:
        client = self.client()
        for frame, message in {
            ("SEND",): "Missing destination",
            ("ACK",): "Missing header",
            ("UNSUBSCRIBE",): "Missing destination or id",
            ("NO",): "Bad command",
            ("SUBSCRIBE", "destination:/amq/queue/none"): "not_found",
            ("COMMIT", "transaction:none"): "Bad transaction",
        }.items():
            headers = dict(line.split(":", 1) for line in frame[1:])
            errors = client.send(frame[0], **{"id": "1"} if frame[0] == "SUBSCRIBE" else {}, **headers, receipt="r")
            self.assertEqual((self.message_of(errors), errors[0].headers["receipt-id"]), (message, "r"))
            self.goes_on(client)

    def test_others_end_it(self) -> None:
        for data in (b"CONNECT\n\n\0", b"SEND\nno-colon\n\n\0", b"SEND\ndestination:a\ncontent-length:-1\n\n\0"):
            client = self.client()
            self.message_of(client.raw(data))
            self.assert_closes(client)
        client = self.open()
        self.assertEqual(self.message_of(client.raw(b"SEND\n\n\0")), "not connected")
        self.assert_closes(client)

    def test_a_failed_send_is_an_error_in_its_place_among_the_receipts(self) -> None:
        client = self.client()
        self.store.hold = True
        client.send("SEND", destination="a", receipt="1")
        client.send("SEND", destination="", receipt="2")
        client.send("SEND", destination="a", receipt="3")
        self.store.hold = False
        self.store.release_commit()
        frames = client.frames()
        self.assertEqual([frame.headers["receipt-id"] for frame in frames], ["1", "2", "3"])
        self.assertEqual([frame.command for frame in frames], ["RECEIPT", "ERROR", "RECEIPT"])

    def test_frames_end_in_an_lf(self) -> None:
        client = self.client()
        client.takes = True
        client.protocol.dataReceived(
            b"SUBSCRIBE\nid:1\ndestination:a\nreceipt:1\n\n\0SEND\ndestination:a\n\nx\0NO\n\n\0"
        )
        self.clock.advance(0)
        data = client.transport.value()
        self.assertEqual(data.count(b"\0\n"), 3)
        self.assertEqual(data.count(b"\0"), 3)

    def test_a_cumulative_ack_reaches_across_subscriptions(self) -> None:
        """Line 61, its last part."""
        client = self.client()
        ids = self.take(client, "client", "a", "b")
        self.assertEqual(receipts(client.send("ACK", id=ids[2], receipt="1")), ["1"])
        self.assertEqual(self.left(client, "a", "b"), [b"b2"])

    def test_in_a_transaction_too_and_an_abort_gives_all_back(self) -> None:
        client = self.client()
        ids = self.take(client, "client", "a", "b")
        for end, left in (("ABORT", 4), ("COMMIT", 1)):
            client.send("BEGIN", transaction="t")
            client.send("ACK", id=ids[2], transaction="t")
            client.send(end, transaction="t")
            self.assertEqual(self.on_loan("a") + self.on_loan("b"), left)

    def test_sends_in_a_transaction_are_receipted_at_its_commit(self) -> None:
        """Line 43, its second part."""
        client = self.client()
        client.send("BEGIN", transaction="t")
        for n in range(2):
            self.assertEqual(client.send("SEND", destination="a", transaction="t", receipt=n), [])
        self.assertEqual(receipts(client.send("SEND", destination="a", receipt="out")), ["out"])
        self.assertEqual(receipts(client.send("COMMIT", transaction="t", receipt="end")), ["0", "1", "end"])


class ActiveTest(FlavourTest):
    flavour = ACTIVEMQ

    def test_errors_have_its_words(self) -> None:
        client = self.client("1.1")
        for command, headers, message in (
            ("SEND", {}, "SEND received without a Destination specified!"),
            ("SUBSCRIBE", {"destination": "a"}, "SUBSCRIBE received without a subscription id!"),
            ("UNSUBSCRIBE", {"id": "none"}, "No subscription matched."),
            ("ACK", {"subscription": "1"}, "ACK received without a message-id to acknowledge!"),
            (
                "ACK",
                {"subscription": "1", "message-id": "7"},
                "Unexpected ACK received for message-id [7]",
            ),
            ("COMMIT", {"transaction": "x"}, "Invalid transaction id: x"),
            ("PING", {}, "Unknown STOMP action: PING"),
        ):
            self.assertEqual(self.message_of(client.send(command, b"", **headers)), message)
            self.goes_on(client)

    def test_a_nack_is_for_one_message_and_for_good(self) -> None:
        """Line 59, ActiveMQ's part."""
        client = self.client()
        ids = self.take(client, "client", "a")
        client.send("NACK", id=ids[1])
        self.assertEqual(self.left(client, "a"), [b"a1"])

    def test_a_nack_may_ask_for_more(self) -> None:
        client = self.client()
        ids = self.take(client, "client", "a")
        self.assertEqual(bodies(client.send("NACK", id=ids[1], requeue="true")), [b"a2"])

    def test_a_client_id_is_one_connections(self) -> None:
        first = self.client(client_id="c")
        second = self.open()
        frames = second.send("CONNECT", accept_version="1.2", client_id="c")
        self.assertEqual(self.message_of(frames), "client c already connected")
        self.assert_closes(second)
        first.lose()
        self.clients.remove(first)
        self.client(client_id="c")
        self.client()
        self.client()

    def test_redelivered_is_said_only_if_it_is_true(self) -> None:
        self.put("a", b"x")
        client = self.client()
        (first,) = client.subscribe("a", ack="client")
        self.assertNotIn("redelivered", first.headers)
        (again,) = client.send("NACK", id=first.headers["ack"], requeue="true")
        self.assertEqual(again.headers["redelivered"], "true")

    def test_lists_of_commands_without_receipts_go_on(self) -> None:
        client = self.client()
        self.message_of(client.subscribe("/topic/"))
        self.assertEqual(bodies(client.subscribe("/queue/a") + client.send("SEND", b"x", destination="a")), [b"x"])


class CoilTest(FlavourTest):
    flavour = COILMQ

    def test_what_is_no_queue_is_a_topic(self) -> None:
        client = self.client()
        client.subscribe("news", "1")
        frames = client.send("SEND", b"x", destination="news")
        self.assertEqual(header(frames, "destination"), ["news"])
        self.assertFalse(self.broker.exists("news"))

    def test_who_acks_gets_one_at_a_time(self) -> None:
        client = self.client()
        self.put("a", b"1", b"2")
        (first,) = client.subscribe("/queue/a", ack="client")
        self.assertEqual(bodies(client.send("ACK", id=first.headers["ack"])), [b"2"])

    def test_errors_have_its_words(self) -> None:
        client = self.client("1.1")
        self.assertEqual(self.message_of(client.send("SEND")), "Missing destination for SEND command.")
        self.goes_on(client)


class LenientTest(FrontTest):
    def test_an_ack_of_1_2_may_name_the_message_if_that_is_allowed(self) -> None:
        self.factory = StompFactory(self.broker, clock=self.clock, terms=Terms(lenient_ack=True))
        client = self.client("1.2")
        self.put("a", b"1", b"2")
        first, second = client.subscribe("a", "s", "client-individual")
        for headers in (
            {"message_id": second.headers["message-id"], "subscription": "s"},
            {"id": first.headers["ack"]},
        ):
            self.assertEqual(receipts(client.send("ACK", receipt="1", **headers)), ["1"])
        self.assertEqual(self.on_loan("a"), 0)


class NackTest(FrontTest):
    def test_a_nack_may_hide_the_message_for_a_while(self) -> None:
        client = self.client()
        self.put("a", b"1", b"2")
        first, _second = client.subscribe("a", ack="client-individual")
        self.assertEqual(receipts(client.send("NACK", id=first.headers["ack"], delay="5000", receipt="1")), ["1"])
        self.clock.advance(4.9)
        self.assertEqual(client.frames(), [])
        self.clock.advance(0.2)
        (again,) = client.frames()
        self.assertEqual((again.body, again.headers["delivery-count"]), (b"1", "2"))

    def test_in_a_transaction_too(self) -> None:
        client = self.client()
        self.put("a", b"1")
        (first,) = client.subscribe("a", ack="client")
        client.send("BEGIN", transaction="t")
        client.send("NACK", id=first.headers["ack"], transaction="t", delay="5000", reason="not now")
        self.assertEqual(bodies(client.send("COMMIT", transaction="t")), [])
        page = self.successResultOf(Deferred.fromCoroutine(self.broker.browse(queue("a"))))
        self.assertEqual([seen.reason for seen in page.seen], ["not now"])
        self.clock.advance(5.1)
        self.assertEqual(bodies(client.frames()), [b"1"])

    def test_a_delay_is_a_number(self) -> None:
        client = self.client()
        self.put("a", b"1")
        (first,) = client.subscribe("a", ack="client")
        self.assert_error(client.send("NACK", id=first.headers["ack"], delay="x"), "Invalid header")
