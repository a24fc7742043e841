"""Every misuse of a command has its ERROR, in the client's version, and the connection ends after it."""

from __future__ import annotations

from twisted.internet.protocol import connectionDone
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from broker import errors
from broker.core.filter import BadFilter
from broker.core.message import Message
from broker.core.policy import Policy
from broker.stomp.errors import refusal
from tests.stomp.support import Client, FrontTest, bodies, receipts

ALL = ("1.0", "1.1", "1.2")
LATER = ("1.1", "1.2")


class CommandErrorsTest(FrontTest):
    """The table of commands, row by row."""

    def refuses(self, message: str, versions: tuple[str, ...], command: str, **headers: str) -> None:
        """A connected client's frame is refused, with its receipt's id if it had one, and nothing after it is done."""
        for version in versions:
            for receipt in ({}, {"receipt": "r:1"}):
                client = self.client(version)
                frames = client.send(command, **headers, **receipt)
                self.assert_error(frames, message, **({"receipt_id": "r:1"} if receipt else {}))
                self.assert_closes(client)
                self.assertEqual(client.send("SEND", b"late", destination="late", receipt="2"), [])
                self.assertEqual(self.ready("late"), 0)

    def accepts(self, versions: tuple[str, ...], command: str, **headers: str) -> None:
        for version in versions:
            client = self.client(version)
            self.assertEqual(receipts(client.send(command, receipt="1", **headers)), ["1"])
            self.assertFalse(client.transport.half_closed)

    def test_send_needs_a_destination(self) -> None:
        """Line 38."""
        self.refuses("Missing destination", ALL, "SEND")

    def test_send_needs_an_open_transaction(self) -> None:
        self.refuses("Bad transaction", ALL, "SEND", destination="/queue/a", transaction="t")

    def test_a_message_id_on_send_is_ignored(self) -> None:
        """Line 34."""
        self.accepts(ALL, "SEND", destination="/queue/a", message_id="mine")

    def test_destinations_that_mean_nothing_are_refused(self) -> None:
        """Line 38."""
        for destination in (
            *("", " ", "/queue/", "/topic/", "x" * 251, "a\tb", "/exchange//", "/amq/queue/", "/topic/a.>.b"),
            *("/queue/a,", ",/queue/a", "/queue/a,/topic/"),
        ):
            for command in ("SEND", "SUBSCRIBE"):
                versions = LATER if "\t" in destination else ALL
                self.refuses("Invalid destination", versions, command, destination=destination, id="1")

    def test_destinations_that_mean_something_elsewhere_are_refused(self) -> None:
        for command in ("SEND", "SUBSCRIBE"):
            self.refuses("Invalid destination", ("1.2",), command, destination="/advisory/a", id="1")
        for destination in ("/temp-queue/", "/temp-topic/", "/reply-queue/", "/queue/temp-queue/a", "temp-queue/a"):
            self.refuses("Invalid destination", ("1.2",), "SEND", destination=destination)
        for destination in ("/reply-queue/a", "/remote-temp-queue/a", "/remote-temp-topic/a"):
            self.refuses("Invalid destination", ("1.2",), "SUBSCRIBE", destination=destination, id="1")

    def test_patterns_are_not_sent_to(self) -> None:
        for destination in ("/topic/a.*", "/topic/#", "/topic/a.>", "/exchange/e/*", "/topic/a,/topic/b.#"):
            self.refuses("Invalid destination", ("1.2",), "SEND", destination=destination)

    def test_a_queue_that_must_be_there_is_not_made(self) -> None:
        for command in ("SEND", "SUBSCRIBE"):
            self.refuses("Destination not found", ("1.2",), command, destination="/amq/queue/none", id="1")
        self.assertFalse(self.broker.exists("none"))

    def test_subscribe_needs_a_destination(self) -> None:
        self.refuses("Missing destination", ALL, "SUBSCRIBE", id="1")

    def test_subscribe_needs_an_id_from_1_1_on(self) -> None:
        """Line 46."""
        self.refuses("Missing id", LATER, "SUBSCRIBE", destination="/queue/a")
        self.accepts(("1.0",), "SUBSCRIBE", destination="/queue/a")

    def test_a_subscription_id_names_one_subscription(self) -> None:
        """Line 48."""
        for version in LATER:
            client = self.client(version)
            client.subscribe("/queue/a", "1")
            self.assert_error(client.subscribe("/queue/b", "1"), "Duplicated subscription identifier")

    def test_the_same_destination_may_have_several_ids(self) -> None:
        """Line 48."""
        for version in ALL:
            client = self.client(version)
            client.subscribe("/queue/a", "1", receipt="1")
            self.assertEqual(receipts(client.subscribe("/queue/a", "2", receipt="2")), ["2"])

    def test_the_ack_mode_is_one_of_three(self) -> None:
        self.refuses("Invalid ack mode", ALL, "SUBSCRIBE", destination="/queue/a", id="1", ack="Client")
        for mode in ("auto", "client", "client-individual"):
            self.accepts(ALL, "SUBSCRIBE", destination="/queue/a", id="1", ack=mode)

    def test_what_would_change_the_messages_is_not_silently_ignored(self) -> None:
        self.refuses("Invalid selector", ALL, "SUBSCRIBE", destination="/queue/a", id="1", selector="a = ")
        for header, value in (("from-seq", "x"), ("from-time", "yesterday"), ("consumer-window-size", "-2")):
            self.refuses("Invalid header", ALL, "SUBSCRIBE", destination="/topic/a", id="1", **{header: value})
        self.refuses("Not supported", ("1.0",), "SUBSCRIBE", destination="/queue/a", browser="true")
        for destination in ("/topic/a", "/queue/a,b"):
            self.refuses("Not supported", LATER, "SUBSCRIBE", destination=destination, id="1", browser="true")
        for header in ("activemq.subscriptionName", "durable-subscription-name"):
            for destination in ("/queue/a", "/topic/a,b", "/temp-topic/a"):
                headers = {"destination": destination, header: "name"}
                self.refuses("Invalid destination", LATER, "SUBSCRIBE", id="1", **headers)
        for header in ("AMQ_SCHEDULED_PERIOD", "AMQ_SCHEDULED_REPEAT", "AMQ_SCHEDULED_CRON"):
            frames = self.client().raw(b"SEND\ndestination:a\n%b:5\n\n\0" % header.encode())
            self.assert_error(frames, "Not supported")

    def test_a_prefetch_is_a_count(self) -> None:
        for count in ("-1", "x", "", "1.5", "9" * 30):
            self.refuses("Invalid header", ALL, "SUBSCRIBE", destination="/queue/a", id="1", prefetch_count=count)

    def test_unsubscribe_needs_an_id_or_in_1_0_a_destination(self) -> None:
        """Line 46."""
        self.refuses("Missing id", ALL, "UNSUBSCRIBE")
        self.refuses("Missing id", LATER, "UNSUBSCRIBE", destination="/queue/a")

    def test_unsubscribe_needs_a_subscription(self) -> None:
        """Line 47."""
        self.refuses("No subscription found", ALL, "UNSUBSCRIBE", id="1")
        self.refuses("No subscription found", ("1.0",), "UNSUBSCRIBE", destination="/queue/a")

    def test_acks_need_their_version_s_headers(self) -> None:
        """Line 58."""
        for command in ("ACK", "NACK"):
            versions = ("1.1",) if command == "NACK" else ("1.0", "1.1")
            self.refuses("Missing message-id", versions, command, id="1", subscription="1")
            self.refuses("Missing subscription", ("1.1",), command, message_id="1")
            self.refuses("Missing id", ("1.2",), command, message_id="1", subscription="1")

    def test_acks_need_an_unsettled_delivery(self) -> None:
        """Line 61."""
        self.refuses("Message not found", ("1.0",), "ACK", message_id="1.1")
        self.refuses("Message not found", ("1.1",), "ACK", message_id="1.1", subscription="1")
        for id in ("1", "1.1", "", ".", "1.", "1.²", "1.99999999999999999999999", "1.-1"):
            for command in ("ACK", "NACK"):
                self.refuses("Message not found", ("1.2",), command, id=id)

    def test_acks_need_an_open_transaction(self) -> None:
        for command in ("ACK", "NACK"):
            self.refuses("Bad transaction", ("1.2",), command, id="1.1", transaction="t")

    def test_there_is_no_nack_in_1_0(self) -> None:
        self.refuses("NACK not supported in 1.0", ("1.0",), "NACK", message_id="1")

    def test_transactions_need_their_id(self) -> None:
        for command in ("BEGIN", "COMMIT", "ABORT"):
            self.refuses("Missing transaction", ALL, command)

    def test_begin_needs_a_new_id(self) -> None:
        for version in ALL:
            client = self.client(version)
            client.send("BEGIN", transaction="t")
            self.assert_error(client.send("BEGIN", transaction="t"), "Transaction already started")

    def test_commit_and_abort_need_an_open_transaction(self) -> None:
        self.refuses("Bad transaction", ALL, "COMMIT", transaction="t")
        self.refuses("Bad transaction", ALL, "ABORT", transaction="t")

    def test_unknown_and_server_commands_are_refused(self) -> None:
        """Line 15."""
        for command in ("HELLO", "send", "SUB", "CONNECTED", "MESSAGE", "RECEIPT", "ERROR"):
            self.refuses("Bad command", ALL, command)

    def test_send_headers_must_have_their_type(self) -> None:
        for header, value in (
            *(("priority", "high"), ("priority", "-1"), ("priority", "1.5")),
            *(("expires", "soon"), ("expires", "-1"), ("expires", str(2**64)), ("ttl", "x"), ("expiration", "-5")),
            *(("memcache_flags", str(2**32)), ("memcache_flags", "0x1")),
        ):
            self.refuses("Invalid header", ("1.2",), "SEND", destination="/queue/a", **{header: value})
        self.assertEqual(self.ready("a"), 0)


class ConnectErrorsTest(FrontTest):
    """Before and at CONNECT."""

    def test_the_first_frame_must_be_connect(self) -> None:
        """Line 27."""
        for command in ("SEND", "SUBSCRIBE", "DISCONNECT", "HELLO", "connect"):
            client = self.open()
            frames = client.send(command, destination="/queue/a", id="1", receipt="1")
            self.assert_error(frames, "not connected", receipt_id="1")
            self.assert_closes(client)
        self.assertEqual(self.ready("a"), 0)

    def test_connect_comes_once(self) -> None:
        """Line 27."""
        for command in ("CONNECT", "STOMP"):
            client = self.client()
            self.assert_error(client.send(command, accept_version="1.2", host="x"), "already connected")
            self.assert_closes(client)

    def test_no_common_version_names_ours(self) -> None:
        """Line 24."""
        for versions in ("0.9", "2.0,3.0", "", "one"):
            client = self.open()
            error = self.assert_error(
                client.send("CONNECT", accept_version=versions, host="x"), "version not supported"
            )
            self.assertIn(b"version", error.body)
            self.assertIn(b"1.0,1.1,1.2", error.body)
            self.assert_closes(client)

    def test_a_malformed_heart_beat_is_refused(self) -> None:
        """Line 32."""
        for value in ("0", "T,0", "3000,10,50"):
            client = self.open()
            frames = client.send("CONNECT", accept_version="1.1", host="x", heart_beat=value)
            error = self.assert_error(frames, "Invalid heart-beat")
            self.assertIn(b"heart-beat", error.body)
            self.assert_closes(client)

    def test_a_cr_in_connect_is_refused_when_1_2_is_spoken(self) -> None:
        client = self.open()
        self.assert_error(client.raw(b"CONNECT\naccept-version:1.2\nhost:a\rb\n\n\0"), "malformed line end")
        client = self.open()
        (connected,) = client.raw(b"CONNECT\naccept-version:1.1\nhost:a\rb\n\n\0")
        self.assertEqual(connected.command, "CONNECTED")

    def test_who_does_not_connect_in_time_is_dropped(self) -> None:
        """Line 20."""
        idle, slow, good = self.open(), self.open(), self.client()
        slow.raw(b"CONNECT\n")
        self.clock.advance(9.9)
        self.assertFalse(idle.transport.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(idle.transport.disconnected)
        self.assertTrue(slow.transport.disconnected)
        self.assertFalse(good.transport.disconnecting)

    def test_a_tls_hello_is_closed_on(self) -> None:
        client = self.open()
        self.assertEqual(client.raw(b"\x16\x03\x01\x02\x00\x01\x00"), [])
        self.assertTrue(client.transport.disconnected)

    def test_before_login_a_frame_is_64_kib_at_most(self) -> None:
        """Line 19."""
        for junk in (b"x" * 65, b"CONNECT\nk:" + b"v" * 8191, b"CONNECT\n" + b"k:v\n" * 16384):
            client = self.open()
            (error,) = client.raw(junk)
            self.assertEqual(error.command, "ERROR")
            self.assert_closes(client)
        client = self.open()
        self.assert_error(client.raw(b"CONNECT\n\n" + b"x" * 65536), "Body too large")


class FramingErrorsTest(FrontTest):
    """What is no frame."""

    policy = Policy(max_message_size=1000)

    def test_bad_frames_are_named_and_their_receipt_too(self) -> None:
        """Lines 12, 17 and 44."""
        for tail, message in (
            (b"no colon\n\n\0", "malformed header"),
            (b"k:\xff\n\n\0", "invalid UTF-8"),
            (b"k:\\t\n\n\0", "malformed escape"),
            (b"k:a\0b\n\n\0", "NUL in a header"),
            (b"content-length:x\n\n\0", "Invalid content-length"),
            (b"content-length:1\n\nabc\0", "missing NUL after the body"),
            (b"content-length:1001\n\n", "Body too large"),
            (b"\n" + b"x" * 1001, "Body too large"),
            (b"k:" + b"v" * 10300 + b"\n\n\0", "Header line too long"),
            (b"".join(b"k%d:v\n" % n for n in range(130)) + b"\n\0", "Too many headers"),
        ):
            client = self.client()
            good = b"SEND\ndestination:/queue/a\nreceipt:1\n\nx\0"
            frames = client.raw(good + b"SEND\ndestination:/queue/a\nreceipt:2\n" + tail + good)
            self.assertEqual(receipts(frames), ["1"])
            known = message in ("malformed header", "malformed escape", "Too many headers") or "ength" in message
            known = known or message in ("missing NUL after the body", "Body too large")
            self.assert_error(frames[1:], message, **({"receipt_id": "2"} if known else {}))
            self.assert_closes(client)
        self.assertEqual(self.ready("a"), 10)

    def test_a_body_at_the_limit_passes(self) -> None:
        """Line 17."""
        client = self.client()
        self.assertEqual(receipts(client.send("SEND", b"x" * 1000, destination="/queue/a", receipt="1")), ["1"])


class ClosingTest(FrontTest):
    """How a connection ends after its last frame."""

    def error(self) -> Client:
        client = self.client()
        self.assert_error(client.send("HELLO"), "Bad command")
        self.assert_closes(client)
        return client

    def test_it_ends_when_the_client_closes(self) -> None:
        client = self.error()
        client.protocol.readConnectionLost()
        self.assertTrue(client.transport.disconnecting)

    def test_a_transport_that_has_no_halves_is_closed(self) -> None:
        before = self.clock.getDelayedCalls()
        transport = StringTransport()
        protocol = self.factory.buildProtocol(None)
        protocol.makeConnection(transport)
        protocol.dataReceived(b"HELLO\n\n\0")
        self.assertTrue(transport.value().startswith(b"ERROR\nmessage:not connected\n"))
        self.assertTrue(transport.disconnecting)
        protocol.connectionLost(connectionDone)
        self.assertEqual(self.clock.getDelayedCalls(), before)

    def test_it_ends_after_two_seconds(self) -> None:
        client = self.error()
        self.clock.advance(1.9)
        self.assertFalse(client.transport.disconnecting)
        self.clock.advance(0.2)
        self.assertTrue(client.transport.disconnected)

    def test_it_ends_after_64_kib(self) -> None:
        client = self.error()
        client.raw(b"x" * 65536)
        self.assertFalse(client.transport.disconnecting)
        client.raw(b"x")
        self.assertTrue(client.transport.disconnected)

    def test_it_reads_on_even_if_replies_had_stopped_it(self) -> None:
        self.store.hold = True
        client = self.client()
        client.raw(b"".join(b"SEND\ndestination:a\nreceipt:%d\n\n\0" % n for n in range(2000)) + b"HELLO\n\n\0")
        self.assertEqual(client.transport.producerState, "paused")
        self.store.hold = False
        self.store.release_commit()
        frames = client.frames()
        self.assertEqual(receipts(frames), [str(n) for n in range(2000)])
        self.assert_error(frames[2000:], "Bad command")
        self.assert_closes(client)
        self.assertEqual(client.transport.producerState, "producing")

    def test_the_error_waits_for_earlier_replies_and_deliveries_go_back(self) -> None:
        self.put("a", b"1", b"2")
        client = self.client()
        self.assertEqual(bodies(client.subscribe("a", ack="client")), [b"1", b"2"])
        self.store.hold = True
        frames = client.send("SEND", destination="b", receipt="1") + client.send("HELLO")
        self.assertEqual(frames, [])
        self.store.hold = False
        self.store.release_commit()
        frames = client.frames()
        self.assertEqual([frame.command for frame in frames], ["RECEIPT", "ERROR"])
        self.assertEqual((self.ready("a"), self.on_loan("a")), (2, 0))

    def test_no_message_comes_after_an_error(self) -> None:
        client = self.client()
        client.subscribe("a")
        client.send("HELLO")
        self.put("a", b"late")
        self.assertEqual(client.frames(), [])
        self.assertEqual(self.ready("a"), 1)

    def test_disconnect_is_answered_last_and_obeyed_last(self) -> None:
        client = self.client()
        good = b"SEND\ndestination:/queue/a\n\nx\0"
        frames = client.raw(good + b"DISCONNECT\nreceipt:bye\n\n\0" + good)
        self.assertEqual(receipts(frames), ["bye"])
        self.assert_closes(client)
        self.assertEqual(self.ready("a"), 1)

    def test_disconnect_without_a_receipt_closes_after_what_was_said_is_done(self) -> None:
        self.store.hold = True
        client = self.client()
        client.raw(b"SEND\ndestination:/queue/a\nreceipt:1\n\nx\0DISCONNECT\n\n\0")
        self.assertFalse(client.transport.half_closed)
        self.store.hold = False
        self.store.release_commit()
        self.assertEqual(receipts(client.frames()), ["1"])
        self.assert_closes(client)

    def test_a_client_that_closes_its_side_is_answered_first(self) -> None:
        self.store.hold = True
        client = self.client()
        client.raw(b"SEND\ndestination:/queue/a\nreceipt:1\n\nx\0")
        client.protocol.readConnectionLost()
        self.assertFalse(client.transport.disconnecting)
        self.store.hold = False
        self.store.release_commit()
        self.assertEqual(receipts(client.frames()), ["1"])
        self.assertTrue(client.transport.disconnecting)

    def test_unforeseen_failures_tell_the_client_nothing_and_the_log_all(self) -> None:
        client = self.client()
        self.patch(self.broker, "publish", lambda *_: 1 / 0)
        frames = client.send("SEND", destination="a", receipt="1")
        error = self.assert_error(frames, "Processing error", receipt_id="1")
        self.assertNotIn(b"division", error.body)
        self.assert_closes(client)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_shutting_down_gives_back_without_counting_a_failure(self) -> None:
        self.put("a", b"1")
        client = self.client()
        client.subscribe("a", ack="client")
        self.factory.shut_down()
        self.assertEqual(client.frames(), [])
        self.assert_closes(client)
        (message,) = self.client().subscribe("a")
        self.assertNotIn("delivery-count", message.headers)


class ErrorTableTest(SynchronousTestCase):
    def test_every_error_of_the_broker_has_words(self) -> None:
        words = {
            errors.BadName: "Invalid destination",
            errors.BadValue: "Invalid header",
            errors.MessageTooLarge: "Body too large",
            errors.QueueFull: "Queue full",
            errors.OverLimit: "Limit reached",
            errors.NotFound: "Message not found",
            errors.LeaseLost: "Message not found",
            errors.NotAllowed: "Access refused",
            errors.StoreUnavailable: "Store unavailable",
            errors.StoreRefused: "Message refused",
            errors.Stopping: "Shutting down",
            errors.Blocked: "Blocked by the status",
        }
        for kind, message in words.items():
            refused = refusal(kind("why"))
            assert refused is not None
            self.assertEqual((refused.message, refused.detail), (message, "why"))
        known = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
        # These cannot come of a frame: were one to, the client would learn nothing.
        others = {errors.BrokerError, errors.ConfigError, errors.NothingToReload, errors.NotUpgraded}
        self.assertEqual(known - set(words), others)
        self.assertIsNone(refusal(errors.ConfigError("a path")))
        filtered = refusal(BadFilter("why", 3))
        assert filtered is not None
        self.assertEqual(filtered.message, words[errors.BadValue], "a kind of bad value")


class StoreErrorsTest(FrontTest):
    """A publish or an ack that does not reach the store."""

    policy = Policy(max_messages=2)

    def test_a_failed_send_is_an_error_in_its_place_with_or_without_a_receipt(self) -> None:
        """Line 44."""
        for receipt in ({}, {"receipt": "2"}):
            client = self.client()
            self.store.hold = True
            client.send("SEND", b"x", destination="a", **receipt)
            client.send("BEGIN", transaction="t", receipt="3")
            self.store.hold = False
            self.store.fail_commit()
            frames = client.frames()
            self.assert_error(frames, "Store unavailable", **({"receipt_id": "2"} if receipt else {}))
            self.assert_closes(client)
        self.assertEqual(self.ready("a"), 0)

    def test_only_the_first_of_several_failures_is_told(self) -> None:
        client = self.client()
        self.store.hold = True
        for n in range(5):
            client.send("SEND", destination="a", receipt=n)
        self.store.fail_commit()
        self.store.fail_commit()
        self.assert_error(client.frames(), "Store unavailable", receipt_id="0")

    def test_a_full_queue_is_an_error(self) -> None:
        self.put("a", b"1", b"2")
        self.assert_error(self.client().send("SEND", destination="a", receipt="1"), "Queue full", receipt_id="1")

    def test_a_failed_commit_applies_nothing(self) -> None:
        self.publish_and_lend()
        client = self.clients[0]
        client.send("BEGIN", transaction="t")
        client.send("SEND", destination="b", transaction="t")
        client.send("ACK", id="0.1", transaction="t")
        self.store.hold = True
        client.send("COMMIT", transaction="t", receipt="1")
        self.store.hold = False
        self.store.fail_commit()
        self.assert_error(client.frames(), "Store unavailable", receipt_id="1")
        self.assertEqual((self.ready("a"), self.ready("b")), (1, 0))

    def publish_and_lend(self) -> None:
        self.publish(self.destination("a"), Message(body=b"1"))
        self.assertEqual(bodies(self.client().subscribe("a", ack="client")), [b"1"])

    @staticmethod
    def destination(name: str):  # type: ignore[no-untyped-def]
        from broker.core.destination import queue

        return queue(name)

    def test_a_connection_lost_during_a_commit_settles_or_gives_back_by_its_outcome(self) -> None:
        for fails in (True, False):
            self.publish_and_lend()
            client = self.clients[-1]
            client.send("BEGIN", transaction="t")
            client.send("ACK", id="0.1", transaction="t")
            self.store.hold = True
            client.send("COMMIT", transaction="t")
            client.lose()
            self.clients.remove(client)
            self.assertEqual(self.ready("a"), 0)
            self.store.hold = False
            if fails:
                self.store.fail_commit()
            else:
                self.store.release_commit()
            self.clock.advance(0)
            self.assertEqual((self.ready("a"), self.on_loan("a")), (1 if fails else 0, 0))
            if fails:
                (message,) = self.client().subscribe("a")
                self.assertEqual(message.headers["redelivered"], "true")
                self.clients.pop().lose()
