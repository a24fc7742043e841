"""Temporary queues and topics, and replies: RabbitMQ's way and ActiveMQ's."""

from __future__ import annotations

from broker.stomp.destinations import Names
from broker.stomp.flavour import ACTIVEMQ
from broker.stomp.server import StompFactory
from broker.stomp.temporary import start_of
from broker.stomp.wishes import Terms
from tests.stomp.support import Client, FrontTest, bodies, header, receipts


class ReplyTest(FrontTest):
    """Line 71."""

    def ask(self, client: Client, **headers: str) -> str:
        """Send a request to /queue/work; what its receiver sees in reply-to."""
        client.send("SEND", b"question", destination="/queue/work", reply_to="/temp-queue/foo", **headers)
        worker = self.client()
        (request,) = worker.subscribe("/queue/work")
        worker.lose()
        self.clients.remove(worker)
        return request.headers["reply-to"]

    def test_a_reply_comes_without_a_subscription(self) -> None:
        client, worker = self.client(), self.client("1.1")
        to = self.ask(client)
        self.assertTrue(to.startswith("/reply-queue/"))
        self.assertEqual(receipts(worker.send("SEND", b"answer", destination=to, receipt="1")), ["1"])
        (answer,) = client.frames()
        self.assertEqual(answer.body, b"answer")
        self.assertEqual(answer.headers["subscription"], "/temp-queue/foo")
        self.assertEqual(answer.headers["destination"], "/temp-queue/foo")
        self.assertNotIn("ack", answer.headers)

    def test_whoever_subscribes_gets_it_by_his_own_id(self) -> None:
        for first in (True, False):
            client, worker = self.client(), self.client()
            if first:
                client.subscribe("/temp-queue/foo", "mine", ack="client")
            to = self.ask(client)
            if not first:
                client.subscribe("/temp-queue/foo", "mine", ack="client")
            worker.send("SEND", b"answer", destination=to)
            self.assertEqual(header(client.frames(), "subscription"), ["mine"])

    def test_either_spelling_reaches_it(self) -> None:
        client, worker = self.client(), self.client()
        token = self.ask(client).removeprefix("/reply-queue/")
        for prefix in ("/reply-queue/", "/remote-temp-queue/"):
            worker.send("SEND", b"answer", destination=prefix + token)
            self.assertEqual(bodies(client.frames()), [b"answer"])

    def test_what_comes_before_anybody_reads_it_is_kept(self) -> None:
        client = self.client()
        client.send("SEND", b"1", destination="/temp-queue/foo")
        self.assertEqual(header(client.subscribe("/temp-queue/foo"), "destination"), ["/temp-queue/foo"])

    def test_the_same_name_is_another_queue_in_another_session(self) -> None:
        one, other = self.client(), self.client()
        one.subscribe("/temp-queue/foo")
        other.subscribe("/temp-queue/foo")
        self.assertEqual(bodies(one.send("SEND", b"1", destination="/temp-queue/foo")), [b"1"])
        self.assertEqual(other.frames(), [])

    def test_it_goes_with_its_session_and_what_comes_late_is_confirmed_and_dropped(self) -> None:
        client, worker = self.client(), self.client()
        to = self.ask(client)
        queue = f"temp-queue/{to.removeprefix('/reply-queue/')}"
        self.assertTrue(self.broker.exists(queue))
        client.lose()
        self.clients.remove(client)
        self.assertFalse(self.broker.exists(queue))
        for headers in ({}, {"transaction": "t"}):
            if headers:
                worker.send("BEGIN", **headers)
            frames = worker.send("SEND", b"late", destination=to, receipt="1", **headers)
            self.assertEqual(receipts(frames), ["1"])
        self.assertFalse(self.broker.exists(queue))

    def test_its_own_session_sees_its_own_name(self) -> None:
        client = self.client()
        client.subscribe("/topic/t", "1")
        self.ask(client)
        frames = client.send("SEND", destination="/topic/t", reply_to="/temp-queue/foo")
        self.assertEqual(header(frames, "reply-to"), ["/temp-queue/foo"])

    def test_what_is_no_temporary_queue_is_passed_on(self) -> None:
        client = self.client()
        client.subscribe("/topic/t", "1")
        for text in ("/queue/x", "anything", "", "/temp-queue"):
            self.assertEqual(header(client.send("SEND", destination="/topic/t", reply_to=text), "reply-to"), [text])

    def test_active_mqs_clients_see_their_own_spelling(self) -> None:
        self.factory = StompFactory(self.broker, clock=self.clock, terms=Terms(flavour=ACTIVEMQ))
        client = self.client()
        to = self.ask(client)
        self.assertTrue(to.startswith("/remote-temp-queue/"))
        self.assertEqual(bodies(client.send("SEND", b"1", destination=to)), [b"1"])

    def test_a_temporary_topic_is_heard_by_all_its_owners_subscriptions(self) -> None:
        client, worker = self.client(), self.client()
        for id in ("1", "2"):
            client.subscribe("/temp-topic/foo", id)
        worker.subscribe("/queue/work", "w")
        client.send("SEND", destination="/queue/work", reply_to="/temp-topic/foo")
        (to,) = header(worker.frames(), "reply-to")
        self.assertRegex(str(to), "^/remote-temp-topic/")
        worker.send("SEND", b"news", destination=to)
        frames = client.frames()
        self.assertEqual(sorted(map(str, header(frames, "subscription"))), ["1", "2"])
        self.assertEqual(header(frames, "destination"), ["/temp-topic/foo"] * 2)

    def test_a_session_has_not_too_many(self) -> None:
        client = self.client()
        for n in range(1000):
            client.protocol.dataReceived(b"SEND\ndestination:/temp-queue/%d\n\n\0" % n)
        self.assert_error(client.send("SEND", destination="/temp-queue/one-more"), "Too many subscriptions")

    def test_what_a_crash_has_left_goes_when_a_port_opens(self) -> None:
        self.put("temp-queue/0.session.foo", b"old")
        ours = f"temp-queue/{start_of(self.broker)}.session.foo"
        self.put(ours, b"new")
        self.factory.startFactory()
        self.clock.advance(0)
        self.assertEqual(self.broker.queues(), [ours])


def test_names_cross_to_others_and_back() -> None:
    mine, other = Names(owner="1.me"), Names(owner="1.you")
    for text, exported in {
        "/temp-queue/a.b/c": "/reply-queue/1.me.a.b/c",
        "/temp-topic/a": "/remote-temp-topic/1.me.a",
    }.items():
        assert mine.exported(text) == exported
        assert mine.imported(exported) == text
        assert other.imported(exported) == exported
        assert mine.parse(text)[0].destination == other.parse(exported)[0].destination
    assert other.imported("/reply-queue/1.me.a", "/remote-temp-queue/") == "/remote-temp-queue/1.me.a"
    assert Names().imported("/reply-queue/1.me.a") == "/reply-queue/1.me.a"
