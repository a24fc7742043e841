"""What policies make of SEND and SUBSCRIBE: groups, keys against doubles, ranks of consumers, full queues."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from broker.core.policy import Policies, Policy
from tests.stomp.support import FrontTest, bodies, header, receipts


class PolicyTest(FrontTest):
    def hold_to(self, **says: Any) -> None:
        """From now on every queue has this policy."""
        policy = msgspec.structs.replace(self.policy, **says)
        self.successResultOf(Deferred.fromCoroutine(self.broker.reload(Policies(policy))))


class GroupTest(PolicyTest):
    policy = Policy(groups=True)

    def test_a_group_goes_to_one_consumer_at_a_time_and_comes_back_with_its_header(self) -> None:
        """Line 37."""
        sender, one, two = self.client(), self.client(), self.client()
        for client in (one, two):
            client.subscribe("q", ack="client-individual", prefetch_count=1)
        for n, group in enumerate(("red", "red", "blue")):
            sender.send("SEND", b"%d" % n, destination="q", JMSXGroupID=group)
        first, second = one.frames(), two.frames()
        self.assertEqual((bodies(first), bodies(second)), ([b"0"], [b"2"]))
        self.assertEqual(header(first + second, "JMSXGroupID"), ["red", "blue"])
        self.assertEqual(bodies(two.send("ACK", id=second[0].headers["ack"])), [], "the next is of a busy group")
        one.send("ACK", id=first[0].headers["ack"])
        self.assertEqual(bodies(one.frames() + two.frames()), [b"1"])

    def test_a_group_given_by_another_protocol_is_shown_too(self) -> None:
        self.put("q", b"x", group="red")
        self.assertEqual(header(self.client("1.1").subscribe("q"), "JMSXGroupID"), ["red"])


class KeyTest(PolicyTest):
    policy = Policy(dedup_window=60_000)

    def test_the_same_publish_again_is_receipted_and_not_stored(self) -> None:
        client = self.client()
        for n in range(3):
            self.assertEqual(
                receipts(client.send("SEND", b"%d" % n, destination="q", dedup_id="k", receipt=n)), [str(n)]
            )
        client.send("SEND", b"other", destination="q", dedup_id="l")
        self.assertEqual(bodies(client.subscribe("q")), [b"0", b"other"])

    def test_two_on_their_way_are_receipted_together(self) -> None:
        client = self.client()
        self.store.hold = True
        for n in range(2):
            self.assertEqual(client.send("SEND", b"%d" % n, destination="q", dedup_id="k", receipt=n), [])
        self.store.hold = False
        self.store.release_commit()
        self.assertEqual(receipts(client.frames()), ["0", "1"])
        self.assertEqual(self.ready("q"), 1)

    def test_in_a_transaction_too(self) -> None:
        client = self.client()
        client.send("SEND", b"1", destination="q", dedup_id="k")
        client.send("BEGIN", transaction="t")
        client.send("SEND", b"2", destination="q", dedup_id="k", transaction="t")
        client.send("SEND", b"3", destination="q", transaction="t")
        self.assertEqual(receipts(client.send("COMMIT", transaction="t", receipt="r")), ["r"])
        self.assertEqual(bodies(client.subscribe("q")), [b"1", b"3"])

    def test_a_receiver_that_sends_on_all_its_headers_repeats_no_key(self) -> None:
        client = self.client()
        client.send("SEND", b"1", destination="q", dedup_id="k", colour="blue")
        (message,) = client.subscribe("q", ack="client")
        self.assertEqual((message.headers.get("dedup-id"), message.headers["colour"]), (None, "blue"))


class RankTest(PolicyTest):
    def test_the_highest_priority_with_room_is_served_first(self) -> None:
        """Line 53."""
        clients = [self.client() for _ in range(3)]
        for client, (name, value) in zip(
            clients, (("x_priority", "-5"), ("activemq.priority", "127"), ("prefetch_count", "2")), strict=True
        ):
            client.send("SUBSCRIBE", destination="q", id="0", ack="client", **{"prefetch_count": 2, name: value})
        self.put("q", *(b"%d" % n for n in range(6)))
        self.assertEqual([bodies(client.frames()) for client in clients], [[b"4", b"5"], [b"0", b"1"], [b"2", b"3"]])

    def test_a_priority_is_a_whole_number(self) -> None:
        for value in ("high", "", "1.5", "+1", str(2**31), str(-(2**31)), "9" * 30):
            for name in ("x_priority", "activemq.priority"):
                client = self.client()
                frames = client.subscribe("/queue/q", **{name: value})
                self.assert_error(frames, "Invalid header")

    def test_those_who_ack_can_be_favoured(self) -> None:
        self.hold_to(scheduler="favour_reliable")
        auto, acking = self.client(), self.client()
        auto.subscribe("q")
        acking.subscribe("q", ack="client-individual", prefetch_count=2)
        self.put("q", b"1", b"2", b"3")
        self.assertEqual((bodies(acking.frames()), bodies(auto.frames())), ([b"1", b"2"], [b"3"]))


class FullQueueTest(PolicyTest):
    policy = Policy(max_messages=2, overflow="wait")

    def test_a_send_waits_for_room_and_so_do_the_replies_behind_it(self) -> None:
        client, other = self.client(), self.client()
        self.put("q", b"1", b"2")
        self.assertEqual(client.send("SEND", b"3", destination="q", receipt="3"), [])
        self.assertEqual(client.send("SEND", b"x", destination="elsewhere", receipt="x"), [])
        self.assertEqual(receipts(other.send("SEND", b"y", destination="elsewhere", receipt="y")), ["y"])
        other.subscribe("q", prefetch_count=1)
        self.assertEqual(receipts(client.frames()), ["3", "x"])

    def test_after_half_a_minute_it_is_refused(self) -> None:
        client = self.client()
        self.put("q", b"1", b"2")
        client.send("SEND", b"3", destination="q", receipt="3")
        self.clock.advance(29.9)
        self.assertEqual(client.frames(), [])
        self.clock.advance(0.2)
        self.assert_error(client.frames(), "Queue full", receipt_id="3")

    def test_a_client_that_goes_meanwhile_harms_nobody(self) -> None:
        client = self.client()
        self.put("q", b"1", b"2")
        client.send("SEND", b"3", destination="q", receipt="3")
        client.lose()
        self.clients.remove(client)
        self.assertEqual(bodies(self.client().subscribe("q")), [b"1", b"2", b"3"])

    def test_who_has_too_many_waiting_is_not_read(self) -> None:
        client = self.client()
        self.put("q", b"1", b"2")
        client.raw(b"SEND\ndestination:q\n\nx\0" * 3000)
        self.assertEqual(client.transport.producerState, "paused")
        self.assertLess(client.protocol._outbox.owed, 1100)
        consumer = self.client()
        got = bodies(consumer.subscribe("q"))
        while more := bodies(consumer.frames()):
            got += more
        self.assertEqual(len(got), 3002)
        self.assertEqual(client.transport.producerState, "producing")

    def test_large_ones_count_by_their_bytes(self) -> None:
        client = self.client()
        self.put("q", b"1", b"2")
        client.raw(b"SEND\ndestination:q\n\n%b\0" % (b"x" * 60_000) * 30)
        self.assertEqual(client.transport.producerState, "paused")
        self.assertLess(client.protocol._outbox.owed, 20)

    def test_a_commit_that_finds_no_room_is_an_error_and_gives_back_what_it_acked(self) -> None:
        self.hold_to(overflow="reject")
        client = self.client()
        self.put("work", b"job")
        (job,) = client.subscribe("work", ack="client")
        client.send("BEGIN", transaction="t")
        client.send("ACK", id=job.headers["ack"], transaction="t")
        client.send("SEND", b"result", destination="q", transaction="t")
        self.put("q", b"1", b"2")
        self.assert_error(client.send("COMMIT", transaction="t", receipt="r"), "Queue full", receipt_id="r")
        self.clock.advance(0)
        self.assertEqual((self.ready("q"), self.ready("work"), self.on_loan("work")), (2, 1, 0))

    def test_what_is_dropped_is_receipted_as_the_policy_says(self) -> None:
        self.hold_to(overflow="drop_new")
        client = self.client()
        for n in range(3):
            self.assertEqual(receipts(client.send("SEND", b"%d" % n, destination="q", receipt=n)), [str(n)])
        self.assertEqual(bodies(client.subscribe("q")), [b"0", b"1"])
