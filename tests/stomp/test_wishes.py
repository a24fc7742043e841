"""What a SUBSCRIBE may ask for beside its destination: selectors, nothing of one's own, prefetch, a look."""

from __future__ import annotations

import pytest

from broker.stomp.consumer import AckMode
from broker.stomp.destinations import Names
from broker.stomp.dialect import V1_2
from broker.stomp.server import StompFactory
from broker.stomp.wishes import Terms, wish
from tests.stomp.support import FrontTest, bodies, header, receipts


@pytest.mark.parametrize(
    ("headers", "prefetch", "window"),
    [
        ({}, 1000, 0),
        ({"prefetch-count": "5"}, 5, 0),
        ({"prefetch-count": "0"}, 65_536, 0),
        ({"prefetch-count": "99999"}, 65_536, 0),
        ({"activemq.prefetchSize": "7"}, 7, 0),
        ({"activemq.prefetchSize": "0"}, 1, 0),
        ({"prefetch-count": "3", "activemq.prefetchSize": "7", "consumer-window-size": "9"}, 3, 0),
        ({"consumer-window-size": "10240"}, 65_536, 10_240),
        ({"consumer-window-size": "0"}, 1, 0),
        ({"consumer-window-size": "-1"}, 65_536, 0),
    ],
)
def test_prefetch_in_three_spellings(headers: dict[str, str], prefetch: int, window: int) -> None:
    """Line 52."""
    asked = wish({"ack": "client", **headers}, Names().parse("a"), "me", V1_2, Terms())
    assert (asked.mode, asked.prefetch, asked.window) == (AckMode.CLIENT, prefetch, window)


class SelectorTest(FrontTest):
    def test_a_queues_consumer_gets_what_it_selects_and_others_the_rest(self) -> None:
        """Line 49."""
        red, all_ = self.client(), self.client()
        red.subscribe("q", selector="colour = 'red'")
        for n, colour in enumerate(("red", "blue", "red")):
            red.send("SEND", b"%d" % n, destination="q", colour=colour)
        self.assertEqual(bodies(all_.subscribe("q")), [b"1"])
        self.put("q", b"3", headers={"colour": "red"})
        self.put("q", b"4", headers={"colour": "green"})
        self.assertIn(b"4", bodies(all_.frames()))

    def test_one_of_a_topic_drops_the_rest(self) -> None:
        for ack in ("auto", "client"):
            client = self.client()
            client.subscribe("/topic/t", selector="n >= 2 AND JMSPriority = 4", ack=ack, prefetch_count=2)
            got = []
            for n in range(4):
                got += bodies(client.send("SEND", b"%d" % n, destination="/topic/t", n=n))
            self.assertEqual(got, [b"2", b"3"])

    def test_a_list_of_both(self) -> None:
        client = self.client()
        client.subscribe("/queue/q,/topic/t", selector="n = 1")
        got = []
        for n in (1, 2):
            for destination in ("q", "/topic/t"):
                got += bodies(client.send("SEND", b"%d" % n, destination=destination, n=n))
        self.assertEqual((got, self.ready("q")), ([b"1", b"1"], 1))

    def test_a_bad_one_is_an_error_that_says_where(self) -> None:
        error = self.assert_error(self.client().subscribe("q", selector="a = 'x"), "Invalid selector")
        self.assertEqual(error.body, b"bad selector at character 5: the text in quotes does not end\n")

    def test_an_empty_one_selects_all(self) -> None:
        client = self.client()
        client.subscribe("/topic/t", selector=" ")
        self.assertEqual(bodies(client.send("SEND", b"1", destination="/topic/t")), [b"1"])


class NoLocalTest(FrontTest):
    def test_a_session_does_not_get_back_what_it_has_sent(self) -> None:
        for name in ("no-local", "activemq.noLocal"):
            client, other = self.client(), self.client()
            client.subscribe("/topic/t", **{name: "true"})
            other.subscribe("/topic/t")
            self.assertEqual(client.send("SEND", b"mine", destination="/topic/t"), [])
            frames = other.send("SEND", b"theirs", destination="/topic/t")
            self.assertEqual(bodies(frames), [b"mine", b"theirs"])
            self.assertEqual(header(frames, "no-local"), [None, None], "it is between the session and the broker")
            self.assertEqual(bodies(client.frames()), [b"theirs"])
            for each in (client, other):
                each.lose()
                self.clients.remove(each)

    def test_nobody_passes_for_another(self) -> None:
        client, other = self.client(), self.client()
        client.subscribe("/topic/t", no_local="true")
        other.send("SEND", b"x", destination="/topic/t", no_local=client.protocol.name)
        self.assertEqual(bodies(client.frames()), [b"x"])


class ExclusiveTest(FrontTest):
    def test_an_exclusive_consumer_is_alone_until_it_goes(self) -> None:
        plain, alone = self.client(), self.client()
        plain.subscribe("q", "1")
        alone.subscribe("q", "1", ack="client", prefetch_count=1, **{"activemq.exclusive": "true"})
        self.put("q", b"1", b"2")
        self.assertEqual((bodies(plain.frames()), bodies(alone.frames())), ([], [b"1"]))
        alone.send("UNSUBSCRIBE", id="1")
        self.assertEqual(bodies(plain.frames()), [b"2"])


class WindowTest(FrontTest):
    def test_bytes_unsettled_stop_deliveries_until_some_are_settled(self) -> None:
        """Line 52, Artemis's part."""
        client = self.client()
        self.put("q", *(b"%d" % n * 600 for n in range(6)))
        first, second = client.subscribe("q", ack="client-individual", consumer_window_size="1500")
        self.assertEqual((first.body[:1], second.body[:1]), (b"0", b"1"))
        self.assertEqual(len(client.send("ACK", id=first.headers["ack"])), 1)
        client.send("BEGIN", transaction="t")
        self.assertEqual(len(client.send("ACK", id=second.headers["ack"], transaction="t")), 1)
        client.send("ABORT", transaction="t")
        self.assertEqual(self.on_loan("q"), 3)

    def test_one_message_is_always_delivered(self) -> None:
        client = self.client()
        self.put("q", b"x" * 5000, b"y" * 5000)
        self.assertEqual(len(client.subscribe("q", ack="client", consumer_window_size="10")), 1)


class BrowserTest(FrontTest):
    """Line 53."""

    def test_it_shows_what_is_there_then_its_end_and_takes_nothing(self) -> None:
        for version in ("1.1", "1.2"):
            self.put("q", b"1", b"2")
            for ack in ("auto", "client", "client-individual"):
                client = self.client(version)
                frames = client.subscribe("q", "b", ack, browser="true", receipt="r")
                self.assertEqual(receipts(frames[:1]), ["r"])
                *messages, end = frames[1:]
                self.assertEqual(bodies(messages), [b"1", b"2"] * (1 if version == "1.1" else 2))
                self.assertEqual(header(messages, "subscription"), ["b"] * len(messages))
                self.assertEqual((end.body, end.headers["browser"], end.headers["subscription"]), (b"", "end", "b"))
                self.assertEqual(receipts(client.send("UNSUBSCRIBE", id="b", receipt="1")), ["1"])
        self.assertEqual((self.ready("q"), self.on_loan("q")), (4, 0))

    def test_an_empty_queue_has_only_an_end(self) -> None:
        (end,) = self.client().subscribe("none", browser="true")
        self.assertEqual(end.headers["browser"], "end")

    def test_it_selects(self) -> None:
        for n in range(5):
            self.put("q", b"%d" % n, headers={"n": str(n)})
        frames = self.client().subscribe("q", browser="true", selector="n IN (1, 3)")
        self.assertEqual(bodies(frames), [b"1", b"3", b""])

    def test_a_long_queue_is_shown_whole_and_in_order_as_the_client_takes_it(self) -> None:
        bodies_ = [b"%d" % n * 1000 for n in range(300)]
        self.put("q", *bodies_)
        client = self.client()
        client.takes = False
        client.protocol.dataReceived(b"SUBSCRIBE\nid:1\ndestination:q\nbrowser:true\n\n\0")
        for _ in range(20):
            self.clock.advance(0)
        unread = len(client.transport.value())
        self.assertLess(unread, 400_000)
        client.takes = True
        frames = client.frames()
        self.assertEqual(bodies(frames)[:-1], bodies_)

    def test_whoever_goes_meanwhile_harms_nobody(self) -> None:
        self.put("q", *(b"x" * 1000 for _ in range(300)))
        client = self.client(takes=False)
        client.protocol.dataReceived(b"SUBSCRIBE\nid:1\ndestination:q\nbrowser:true\n\n\0")
        self.clock.advance(0)
        client.lose()
        self.clients.remove(client)
        self.assertEqual(self.ready("q"), 300)


class SenderTest(FrontTest):
    def test_the_user_is_stamped_if_the_listener_says_so_and_the_clients_word_is_dropped(self) -> None:
        """Line 37."""
        for stamps, expected in ((True, "anonymous"), (False, None)):
            self.factory = StompFactory(self.broker, clock=self.clock, terms=Terms(user_id=stamps))
            client = self.client()
            client.subscribe("/topic/t")
            frames = client.raw(b"SEND\ndestination:/topic/t\nJMSXUserID:root\n\n\0")
            self.assertEqual(header(frames, "JMSXUserID"), [expected])

    def test_a_delay_until_a_moment(self) -> None:
        """Line 36, Artemis's spelling."""
        client = self.client()
        client.subscribe("q")
        at = int(self.clock.seconds() + 5 + 1_700_000_000) * 1000
        client.raw(b"SEND\ndestination:q\nAMQ_SCHEDULED_TIME:%d\n\nx\0" % at)
        client.raw(b"SEND\ndestination:q\nAMQ_SCHEDULED_TIME:1\n\nold\0")
        self.clock.advance(4)
        self.assertEqual(bodies(client.frames()), [])
        self.clock.advance(2)
        self.assertEqual(bodies(client.frames()), [b"x"])

    def test_a_dead_letter_says_so_in_rabbits_words_too(self) -> None:
        headers = {"dead-letter-reason": "max_attempts", "original-destination": "/queue/work"}
        self.put("dead", b"x", headers=headers)
        (frame,) = self.client().subscribe("dead")
        self.assertEqual(
            {name: value for name, value in frame.headers.items() if "death" in name},
            {"x-first-death-reason": "delivery_limit", "x-first-death-queue": "work", "x-first-death-exchange": ""},
        )
        self.assertEqual(frame.headers["dead-letter-reason"], "max_attempts")
