"""Transactions: together or not at all, and what may still be said of the deliveries in them."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from broker.stomp.frames import Frame
from tests.stomp.support import FrontTest, bodies, header, receipts


class TransactionTest(FrontTest):
    def setUp(self) -> None:
        super().setUp()
        self.sender = self.client()

    def waiting(self, *names: str) -> list[int]:
        return [self.ready(name) for name in names]

    def test_sends_become_visible_together_at_commit(self) -> None:
        """Lines 63 and 64."""
        self.sender.send("BEGIN", transaction="t")
        for name in ("a", "b"):
            self.sender.send("SEND", destination=name, transaction="t")
        self.sender.send("SEND", destination="c")
        self.assertEqual(self.waiting("a", "b", "c"), [0, 0, 1])
        commits = self.store.commits
        self.assertEqual(receipts(self.sender.send("COMMIT", transaction="t", receipt="1")), ["1"])
        self.assertEqual(self.waiting("a", "b", "c"), [1, 1, 1])
        self.assertEqual(self.store.commits, commits + 1)

    def test_abort_drops_sends(self) -> None:
        """Line 63."""
        self.sender.send("BEGIN", transaction="t")
        self.sender.send("SEND", destination="a", transaction="t")
        self.sender.send("ABORT", transaction="t")
        self.assertEqual(self.waiting("a"), [0])
        self.assertEqual(receipts(self.sender.send("BEGIN", transaction="t", receipt="1")), ["1"])

    def test_several_may_be_open_and_order_is_that_of_the_commits(self) -> None:
        for t in ("1", "2"):
            self.sender.send("BEGIN", transaction=t)
            self.sender.send("SEND", t.encode(), destination="a", transaction=t)
        for t in ("2", "1"):
            self.sender.send("COMMIT", transaction=t)
        self.assertEqual(bodies(self.client().subscribe("a")), [b"2", b"1"])

    def test_a_bad_send_is_refused_when_it_comes(self) -> None:
        self.sender.send("BEGIN", transaction="t")
        self.assert_error(self.sender.send("SEND", destination="", transaction="t"), "Invalid destination")

    def lend(self, mode: str, version: str = "1.2", count: int = 4) -> list[str]:
        self.put("q", *(b"%d" % n for n in range(count)))
        self.consumer = self.client(version)
        frames = self.consumer.subscribe("q", "s", mode)
        self.consumer.send("BEGIN", transaction="t")
        return [frame.headers["ack"] for frame in frames]

    def ack(self, id: str, command: str = "ACK", **headers: object) -> list[Frame]:
        return self.consumer.send(command, id=id, transaction="t", receipt="r", **headers)

    def end(self, command: str) -> None:
        self.assertEqual(receipts(self.consumer.send(command, transaction="t", receipt="end")), ["end"])

    def left(self) -> list[bytes]:
        self.consumer.lose()
        self.clients.remove(self.consumer)
        other = self.client()
        found = bodies(other.subscribe("q"))
        other.lose()
        self.clients.remove(other)
        return found

    def test_acks_hold_from_commit_on(self) -> None:
        """Line 64."""
        for mode, left in (("client", [b"3"]), ("client-individual", [b"0", b"1", b"3"])):
            ids = self.lend(mode)
            self.ack(ids[2])
            self.assertEqual(self.on_loan("q"), 4)
            self.end("COMMIT")
            self.assertEqual(self.left(), left)

    def test_after_abort_the_same_deliveries_can_be_acked_again(self) -> None:
        """Line 65."""
        for mode in ("client", "client-individual"):
            ids = self.lend(mode)
            for _ in range(3):
                self.assertEqual(receipts(self.ack(ids[3])), ["r"])
                self.end("ABORT")
                self.assertEqual(self.consumer.frames(), [])
                self.consumer.send("BEGIN", transaction="t")
            self.assertEqual(receipts(self.consumer.send("ACK", id=ids[1], receipt="1")), ["1"])
            self.assertEqual(self.left(), [b"2", b"3"] if mode == "client" else [b"0", b"2", b"3"])

    def test_after_abort_in_1_1_too(self) -> None:
        """Line 65."""
        self.put("q", b"1")
        self.consumer = self.client("1.1")
        (message,) = self.consumer.subscribe("q", "s", "client")
        named = {"message_id": message.headers["message-id"], "subscription": "s"}
        for end, expected in (("ABORT", 1), ("COMMIT", 0)):
            self.consumer.send("BEGIN", transaction="t")
            self.assertEqual(receipts(self.consumer.send("ACK", transaction="t", receipt="1", **named)), ["1"])
            self.end(end)
            self.assertEqual(self.on_loan("q"), expected)
        self.assert_error(self.consumer.send("ACK", **named), "Message not found")

    def test_nacks_hold_from_commit_on(self) -> None:
        """Line 60."""
        ids = self.lend("client-individual", count=2)
        self.assertEqual(bodies(self.ack(ids[0], "NACK")), [])
        self.ack(ids[1], "NACK", requeue="false")
        frames = self.consumer.send("COMMIT", transaction="t", receipt="end")
        self.assertEqual((receipts(frames), bodies(frames)), (["end"], [b"0"]))
        self.assertEqual(header(frames, "delivery-count"), ["2"])

    def test_cumulative_acks_may_come_out_of_order(self) -> None:
        """Line 66."""
        ids = self.lend("client")
        self.ack(ids[2])
        self.assertEqual(receipts(self.ack(ids[0])), ["r"])
        self.end("COMMIT")
        self.assertEqual(self.left(), [b"3"])

    def test_naming_a_delivery_twice_is_an_error(self) -> None:
        """Line 66."""
        for mode, first, then, command in (
            *(("client", 2, 2, "ACK"), ("client-individual", 0, 0, "ACK"), ("client-individual", 0, 0, "NACK")),
            ("client", 2, 0, "NACK"),
        ):
            ids = self.lend(mode)
            self.ack(ids[first])
            self.assert_error(self.ack(ids[then], command), "Message not found", receipt_id="r")
            self.assertEqual(self.left(), [b"0", b"1", b"2", b"3"])
            self.successResultOf(Deferred.fromCoroutine(self.broker.purge("q")))

    def test_a_delivery_in_one_transaction_is_in_no_other(self) -> None:
        ids = self.lend("client")
        self.ack(ids[1])
        self.assert_error(self.consumer.send("ACK", id=ids[1]), "Message not found")

    def test_a_broken_connection_aborts(self) -> None:
        """Line 67."""
        ids = self.lend("client")
        self.ack(ids[3])
        self.consumer.send("SEND", destination="b", transaction="t")
        self.assertEqual(self.left(), [b"0", b"1", b"2", b"3"])
        self.assertEqual(self.waiting("b"), [0])

    def test_disconnect_aborts(self) -> None:
        """Line 67."""
        ids = self.lend("client")
        self.ack(ids[3])
        self.consumer.send("SEND", destination="b", transaction="t")
        self.assertEqual(receipts(self.consumer.send("DISCONNECT", receipt="1")), ["1"])
        self.assertEqual(self.waiting("b", "q"), [0, 4])

    def test_acks_after_unsubscribe_and_abort(self) -> None:
        """Lines 61 and 65."""
        ids = self.lend("client", count=2)
        self.ack(ids[1])
        self.consumer.send("UNSUBSCRIBE", id="s")
        self.consumer.subscribe("elsewhere", "s")
        self.end("ABORT")
        self.assertEqual(receipts(self.consumer.send("ACK", id=ids[0], receipt="1")), ["1"])
        self.assertEqual(self.left(), [b"1"])

    def test_sixteen_may_be_open(self) -> None:
        """Line 22."""
        for n in range(16):
            self.assertEqual(receipts(self.sender.send("BEGIN", transaction=n, receipt="1")), ["1"])
        self.assert_error(self.sender.send("BEGIN", transaction="16"), "Too many transactions")

    def test_a_transaction_has_1024_actions_at_most(self) -> None:
        """Line 22."""
        self.sender.send("BEGIN", transaction="t")
        frames = self.sender.raw(b"SEND\ndestination:a\ntransaction:t\n\n\0" * 1024)
        self.assertEqual(frames, [])
        self.assert_error(self.sender.send("SEND", destination="a", transaction="t"), "Transaction too large")

    def test_a_transaction_has_64_mib_at_most(self) -> None:
        self.sender.send("BEGIN", transaction="t")
        frame = b"SEND\ndestination:a\ntransaction:t\n\n" + b"x" * 99_000 + b"\0"
        for _ in range(64 * 1024 * 1024 // 99_400):
            self.assertEqual(self.sender.raw(frame), [])
        self.assert_error(self.sender.raw(frame * 2), "Transaction too large")
