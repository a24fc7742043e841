"""Transcripts: CONNECT, heart-beats, what a MESSAGE carries, and receipts, against the real broker."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher

from broker.core.destination import queue, topic
from broker.core.message import Message
from broker.core.policy import BindingPolicy
from broker.stomp import messages
from broker.stomp.server import StompFactory
from broker.stomp.wishes import Terms
from tests.stomp.support import NOW, FrontTest, bodies, header, receipts

ALL = ("1.0", "1.1", "1.2")


class ConnectTest(FrontTest):
    def test_connected_says_who_we_are(self) -> None:
        """Line 23."""
        for command in ("CONNECT", "STOMP"):
            for version in ALL:
                client = self.open()
                (frame,) = client.send(command, accept_version=version, host="any", login="me", passcode="secret")
                self.assertEqual(frame.command, "CONNECTED")
                self.assertEqual(set(frame.headers), {"version", "session", "server", "heart-beat"})
                self.assertEqual(frame.headers["version"], version)
                self.assertTrue(frame.headers["server"].startswith("twisted-broker/"))
                self.assertEqual(frame.headers["heart-beat"], "0,0")

    def test_sessions_have_names_of_their_own(self) -> None:
        names = {self.open().send("CONNECT")[0].headers["session"] for _ in range(5)}
        self.assertEqual(len(names), 5)

    def test_without_versions_it_is_1_0_and_the_highest_common_is_taken(self) -> None:
        """Line 24."""
        for offered, taken in (({}, "1.0"), ({"accept_version": "1.1, 1.0 ,3.1"}, "1.1")):
            (frame,) = self.open().send("CONNECT", **offered)
            self.assertEqual(frame.headers["version"], taken)

    def test_connected_is_the_receipt_and_is_never_escaped(self) -> None:
        """Lines 23 and 25."""
        frames = self.open().send("CONNECT", accept_version="1.2", receipt="a:b\\n", request_id="q:1")
        self.assertEqual([frame.command for frame in frames], ["CONNECTED"])
        self.assertEqual(frames[0].headers["receipt-id"], "a:b\\n")
        self.assertEqual(frames[0].headers["response-id"], "q:1")

    def test_telnet_and_octet_by_octet(self) -> None:
        """Lines 1 and 4."""
        client = self.open()
        for octet in b"\n\r\nCONNECT\r\naccept-version:1.1\r\n\r\n\r\n\0\r\nSEND\r\ndestination:a\r\n\r\nx\0\n":
            client.protocol.dataReceived(bytes([octet]))
        self.assertEqual([frame.command for frame in client.frames()], ["CONNECTED"])
        self.assertEqual(self.ready("a"), 1)

    def test_names_that_a_client_connects_with_say_nothing_to_the_log(self) -> None:
        observer = EventLoggingObserver()
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.client(login="me", passcode="hush-hush").lose()
        self.clients.clear()
        events = list(observer)
        self.assertNotIn("hush-hush", repr(events))
        levels = [event["log_level"].name for event in events]
        self.assertEqual([level for level in levels if level != "debug"], ["info", "info"])


class HeartbeatTest(FrontTest):
    def test_beats_go_both_ways_as_agreed(self) -> None:
        """Lines 30 and 31."""
        client = self.open()
        (connected,) = client.send("CONNECT", accept_version="1.2", heart_beat="1000,2000")
        self.assertEqual(connected.headers["heart-beat"], "2000,1000")
        self.clock.advance(1.4)
        self.assertEqual(client.transport.value(), b"")
        self.clock.advance(0.2)
        self.assertEqual(client.transport.value(), b"\n")
        client.raw(b"\n")
        self.clock.advance(1.9)
        self.assertFalse(client.transport.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(client.transport.disconnected)

    def test_a_silent_client_s_messages_go_back(self) -> None:
        """Lines 28 and 31."""
        self.put("a", b"1")
        client = self.open()
        client.send("CONNECT", accept_version="1.2", heart_beat="1000,0")
        self.assertEqual(bodies(client.subscribe("a", ack="client")), [b"1"])
        self.clock.advance(2.1)
        self.assertTrue(client.transport.disconnected)
        client.lose()
        self.clients.remove(client)
        self.assertEqual(self.ready("a"), 1)

    def test_floor_and_grace_are_the_listeners(self) -> None:
        terms = Terms(heart_beat_min=1000, heart_beat_grace=3.0)
        self.factory = StompFactory(self.broker, clock=self.clock, terms=terms)
        client = self.open()
        (connected,) = client.send("CONNECT", accept_version="1.2", heart_beat="500,0")
        self.assertEqual(connected.headers["heart-beat"], "0,1000")
        self.clock.advance(2.9)
        self.assertFalse(client.transport.disconnected)
        self.clock.advance(0.2)
        self.assertTrue(client.transport.disconnected)

    def test_a_ceiling_is_the_listener_s(self) -> None:
        """Lines 30 and 31: we beat within it, and whoever keeps the word it gave is not cut off."""
        self.factory = StompFactory(self.broker, clock=self.clock, terms=Terms(heart_beat_max=1000))
        client = self.open()
        (connected,) = client.send("CONNECT", accept_version="1.2", heart_beat="60000,60000")
        self.assertEqual(connected.headers["heart-beat"], "1000,1000")
        self.clock.pump([0.1] * 10)
        self.assertEqual(client.transport.value(), b"\n")
        self.clock.pump([1] * 118)
        self.assertFalse(client.transport.disconnected)
        self.clock.pump([1] * 2)
        self.assertTrue(client.transport.disconnected)

    def test_messages_are_beats(self) -> None:
        client = self.client(heart_beat="0,1000")
        client.subscribe("a")
        for _ in range(5):
            self.clock.advance(0.7)
            self.put("a", b"x")
            self.assertEqual(bodies(client.frames()), [b"x"])
            self.assertEqual(client.transport.value(), b"")

    def test_what_is_not_answered_is_no_beat(self) -> None:
        client = self.client(heart_beat="0,1000")
        beats = 0
        for _ in range(40):
            client.protocol.dataReceived(b"SEND\ndestination:a\n\n\0")
            self.clock.advance(0.1)
            beats += client.transport.value().count(b"\n")
            client.transport.clear()
        self.assertGreaterEqual(beats, 4)

    def test_we_expect_no_beats_while_we_do_not_read(self) -> None:
        client = self.client(heart_beat="1000,0")
        self.store.hold = True
        client.raw(b"SEND\ndestination:a\n\n\0" * 1024)
        self.assertEqual(client.transport.producerState, "paused")
        for _ in range(30):
            self.clock.advance(1)
        self.assertFalse(client.transport.disconnecting)
        self.store.hold = False
        self.store.release_commit()
        self.assertEqual(client.transport.producerState, "producing")
        self.clock.advance(1.9)
        self.assertFalse(client.transport.disconnecting)
        self.clock.advance(0.3)
        self.assertTrue(client.transport.disconnected)


class MessageTest(FrontTest):
    def test_everything_a_sender_says_comes_back(self) -> None:
        """Lines 34 and 35."""
        client = self.client()
        client.subscribe("/queue/a", "s:1", "client")
        (message,) = client.send(
            "SEND",
            b"b\0dy",
            destination="/queue/a",
            content_type="text/plain",
            priority="7",
            expires=str((NOW + 60) * 1000),
            memcache_flags="5",
            persistent="true",
            correlation_id="c:1\n2",
            message_id="mine",
            subscription="mine",
            ack="mine",
            redelivered="mine",
            JMSXUserID="mine",
        )
        self.assertEqual(message.body, b"b\0dy")
        self.assertEqual(
            message.headers,
            {
                "subscription": "s:1",
                "ack": "s:1.1",
                "redelivered": "false",
                "destination": "/queue/a",
                "message-id": message.headers["message-id"],
                "timestamp": str(NOW * 1000),
                "priority": "7",
                "expires": str((NOW + 60) * 1000),
                "content-type": "text/plain",
                "memcache-flags": "5",
                "persistent": "true",
                "correlation-id": "c:1\n2",
                "content-length": "4",
            },
        )
        self.assertNotIn("mine", message.headers["message-id"])

    def test_defaults(self) -> None:
        """Lines 13, 35 and 62."""
        client = self.client("1.0")
        client.send("SUBSCRIBE", destination="a")
        (message,) = client.send("SEND", destination="a")
        self.assertEqual(
            set(message.headers),
            {"redelivered", "destination", "message-id", "timestamp", "priority", "expires", "content-length"},
        )
        self.assertEqual([message.headers[name] for name in ("priority", "expires", "content-length")], ["4", "0", "0"])

    def test_subscription_and_ack_by_version(self) -> None:
        """Line 58."""
        for version, mode, expected in (
            *(("1.0", "client", {"subscription"}), ("1.1", "client", {"subscription"})),
            *(("1.2", "client", {"subscription", "ack"}), ("1.2", "auto", {"subscription"})),
        ):
            client = self.client(version)
            client.subscribe("a", "1", mode)
            (message,) = client.send("SEND", destination="a")
            self.assertEqual({"subscription", "ack"} & set(message.headers), expected)
            client.lose()
            self.clients.remove(client)
            self.successResultOf(Deferred.fromCoroutine(self.broker.purge("a")))

    def test_priorities_order_and_come_back(self) -> None:
        """Line 35."""
        client = self.client()
        for priority in ("0", "4", "9", "12"):
            client.send("SEND", priority.encode(), destination="a", priority=priority)
        self.put("a", b"linger", priority=100)
        frames = client.subscribe("a")
        self.assertEqual(bodies(frames), [b"9", b"12", b"4", b"0", b"linger"])
        self.assertEqual(header(frames, "priority"), ["9", "9", "4", "0", "0"])

    def test_times_to_live(self) -> None:
        """Line 36."""
        client = self.client()
        client.send("SEND", b"past", destination="a", expires="1000")
        client.send("SEND", b"short", destination="a", expiration="500", ttl="9000")
        client.send("SEND", b"ttl", destination="a", ttl="5000")
        client.send("SEND", b"for ever", destination="a", expires="0", expiration="0")
        self.clock.advance(1)
        frames = client.subscribe("a")
        self.assertEqual(bodies(frames), [b"ttl", b"for ever"])
        self.assertEqual(header(frames, "expires"), [str(NOW * 1000 + 5000), "0"])

    def test_delays(self) -> None:
        """Line 36."""
        client = self.client()
        client.raw(b"SEND\ndestination:a\nAMQ_SCHEDULED_DELAY:2000\n\nactivemq\0")
        client.send("SEND", b"rabbitmq", destination="a", **{"x-delay": "1000"})
        frames = client.subscribe("a")
        self.assertEqual(frames, [])
        self.clock.advance(1.01)
        self.assertEqual(bodies(client.frames()), [b"rabbitmq"])
        self.clock.advance(1)
        self.assertEqual(bodies(client.frames()), [b"activemq"])

    def test_destinations_come_back_as_the_sender_wrote_them(self) -> None:
        client = self.client()
        for number, said in enumerate(("/queue/a/b", "bare", "/topic/t", "/odd/x", "/exchange/e/k", "/exchange/f%2F")):
            client.subscribe(said, str(number))
            frames = client.send("SEND", destination=said)
            self.assertEqual(header(frames, "destination"), [said])

    def test_a_destination_header_of_another_protocol_is_not_believed(self) -> None:
        client = self.client()
        client.subscribe("a")
        for text in ("/queue/b", "/topic/a", "a,b", "", "/topic/*"):
            self.put("a", b"x", headers={"destination": text})
            self.assertEqual(header(client.frames(), "destination"), ["/queue/a"])

    def test_a_queue_bound_to_a_topic_says_where_the_message_was_sent(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.broker.bind("audit", topic("news"), BindingPolicy())))
        client = self.client()
        client.subscribe("/queue/audit")
        self.assertEqual(header(client.send("SEND", destination="/topic/news"), "destination"), ["/topic/news"])

    def test_headers_cross_versions_without_becoming_lines(self) -> None:
        """Lines 7 and 8."""
        for sender in ALL:
            for receiver in ALL:
                sending, receiving = self.client(sender), self.client(receiver)
                receiving.subscribe("/topic/t", "1")
                sending.send("SEND", destination="/topic/t", k="a\nevil:1", **{"x:y": "z"})
                (message,) = receiving.frames()
                self.assertNotIn("evil", message.headers)
                if sender != "1.0":
                    self.assertEqual(message.headers["k"], "a evil:1" if receiver == "1.0" else "a\nevil:1")

    def test_the_senders_reserved_headers_do_not_reach_receivers_by_other_fronts_either(self) -> None:
        self.put(
            "a", b"x", headers={"ack": "no", "receipt": "no", "destination": "no", "k": "v", "content-length": "9"}
        )
        (message,) = self.client().subscribe("a")
        self.assertEqual(message.headers["content-length"], "1")
        self.assertEqual(message.headers["destination"], "/queue/a")
        self.assertEqual(message.headers["k"], "v")
        self.assertNotIn("receipt", message.headers)
        self.assertNotIn("ack", message.headers)

    def test_a_topic_s_message_is_encoded_once_per_version(self) -> None:
        calls = []
        encode = messages.Tails._tail

        def counted(*args: Any) -> bytes:
            calls.append(args)
            return encode(*args)

        self.patch(messages.Tails, "_tail", counted)
        clients = [self.client(version) for version in ("1.2", "1.2", "1.2", "1.1")]
        for number, client in enumerate(clients):
            client.subscribe("/topic/t", f"s{number}")
        for number in range(200):
            self.publish(topic("t"), Message(body=b"%d" % number))
        self.assertEqual(len(calls), 400)
        for number, client in enumerate(clients):
            frames = client.frames()
            self.assertEqual(bodies(frames), [b"%d" % n for n in range(200)])
            self.assertEqual(set(header(frames, "subscription")), {f"s{number}"})


class ReceiptTest(FrontTest):
    def test_every_command_has_one(self) -> None:
        """Line 41."""
        self.put("a", b"1", b"2")
        client = self.client()
        found = receipts(client.send("SEND", destination="b", receipt="send"))
        frames = client.subscribe("a", ack="client", receipt="subscribe")
        found += receipts(frames)
        first, second = header(frames, "ack")
        for command, headers in (
            ("BEGIN", {"transaction": "t"}),
            ("SEND", {"transaction": "t", "destination": "b"}),
            ("ACK", {"transaction": "t", "id": first}),
            ("ABORT", {"transaction": "t"}),
            ("ACK", {"id": first}),
            ("NACK", {"id": second}),
            ("BEGIN", {"transaction": "t"}),
            ("COMMIT", {"transaction": "t"}),
            ("UNSUBSCRIBE", {"id": "0"}),
            ("DISCONNECT", {}),
        ):
            found += receipts(client.send(command, receipt=command, **headers))
        self.assertEqual(
            found,
            "send subscribe BEGIN SEND ACK ABORT ACK NACK BEGIN COMMIT UNSUBSCRIBE DISCONNECT".split(),  # noqa: SIM905
        )

    def test_they_are_escaped_as_the_version_says(self) -> None:
        """Line 8."""
        for version, sent, id in (("1.0", b"r\\c1", "r\\c1"), ("1.1", b"r\\c1", "r:1"), ("1.2", b"r\\c\\r", "r:\r")):
            client = self.client(version)
            frames = client.raw(b"SEND\ndestination:a\nreceipt:" + sent + b"\n\n\0")
            self.assertEqual(receipts(frames), [id])

    def test_none_comes_before_its_commit_and_they_keep_their_order(self) -> None:
        """Lines 41 and 43."""
        self.put("a", b"1")
        client = self.client()
        (message,) = client.subscribe("a", ack="client")
        self.store.hold = True
        client.send("SEND", destination="b", receipt="1")
        client.send("BEGIN", transaction="t", receipt="2")
        client.send("SEND", destination="b", transaction="t", receipt="3")
        client.send("ACK", id=message.headers["ack"], receipt="4")
        client.send("COMMIT", transaction="t", receipt="5")
        client.send("UNSUBSCRIBE", id="0", receipt="6")
        self.assertEqual(client.frames(), [])
        self.store.release_commit()
        self.assertEqual(receipts(client.frames()), ["1", "2", "3"])
        self.store.hold = False
        self.store.release_commit()
        self.assertEqual(receipts(client.frames()), ["4", "5", "6"])

    def test_pipelined_sends_share_commits(self) -> None:
        """Line 45."""
        client = self.client()
        self.store.hold = True
        before = self.store.commits
        client.raw(b"".join(b"SEND\ndestination:a\nreceipt:%d\n\nx\0" % n for n in range(500)))
        self.store.hold = False
        self.store.release_commit()
        self.assertEqual(receipts(client.frames()), [str(n) for n in range(500)])
        self.assertLessEqual(self.store.commits - before, 3)

    def test_who_is_owed_too_many_replies_is_not_read(self) -> None:
        client = self.client()
        self.store.hold = True
        client.raw(b"SEND\ndestination:a\n\nx\0" * 3000)
        self.assertEqual(client.transport.producerState, "paused")
        self.assertLess(client.protocol._outbox.owed, 1100)
        self.store.hold = False
        self.store.release_commit()
        client.frames()
        self.assertEqual(client.transport.producerState, "producing")
        self.assertEqual(self.ready("a"), 3000)

    def test_a_subscription_s_receipt_comes_before_its_first_message(self) -> None:
        """Line 42."""
        self.put("a", b"1")
        client = self.client()
        self.store.hold = True
        client.send("SEND", destination="b", receipt="1")
        self.assertEqual(client.subscribe("a", receipt="2"), [])
        self.assertEqual(client.send("SEND", destination="c", receipt="3"), [])
        self.store.hold = False
        self.store.release_commit()
        frames = client.frames()
        self.assertEqual([f.headers.get("receipt-id") for f in frames if f.command != "MESSAGE"], ["1", "2", "3"])
        commands = [(f.command, f.headers.get("receipt-id")) for f in frames]
        self.assertLess(commands.index(("RECEIPT", "2")), commands.index(("MESSAGE", None)))

    def test_an_unroutable_message_is_receipted(self) -> None:
        """Line 40."""
        self.assertEqual(receipts(self.client().send("SEND", destination="/topic/nobody", receipt="1")), ["1"])


class QueueTest(FrontTest):
    def test_messages_of_other_fronts_are_delivered(self) -> None:
        """Line 33."""
        self.publish(queue("a"), Message(body=bytes(range(256)), flags=7, content_type="a/b", headers={"n": "ü"}))
        (message,) = self.client("1.1").subscribe("/queue/a")
        self.assertEqual(message.body, bytes(range(256)))
        self.assertEqual([message.headers[name] for name in ("memcache-flags", "content-type", "n")], ["7", "a/b", "ü"])

    def test_closing_the_front_waits_for_the_last_connection(self) -> None:
        client = self.client()
        closed = Deferred.fromCoroutine(self.factory.close())
        self.assertNoResult(closed)
        client.lose()
        self.clients.remove(client)
        self.successResultOf(closed)
        self.successResultOf(Deferred.fromCoroutine(self.factory.close()))
