"""STOMP's login, and what each frame takes."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone

from broker.auth.door import Door
from broker.core.destination import queue, topic
from broker.core.message import Message
from broker.stomp.server import StompFactory
from tests.auth.support import PASSWORD, Known, Log, everything
from tests.stomp.support import Client, bodies, receipts
from tests.stomp.support import FrontTest as StompTest


class FrontTest(StompTest):
    """A front with users."""

    def setUp(self) -> None:
        super().setUp()
        self.use(Known({"alice": everything(), "bob": {}}))

    def use(self, authenticator: Known) -> None:
        """Have these users."""
        self.authenticator = authenticator
        self.factory = StompFactory(self.broker, clock=self.clock, door=Door(self.broker, authenticator))

    def user(self, name: str, **rights: str) -> Client:
        """A connection of somebody who has these rights."""
        if rights:
            self.authenticator.allow(name, **rights)
        return self.client(login=name, passcode=PASSWORD)


class LoginTest(FrontTest):
    """CONNECT."""

    def refused(self, **headers: str) -> None:
        client = self.open()
        error = self.assert_error(client.send("CONNECT", accept_version="1.2", host="h", **headers), "Access refused")
        self.assertEqual(error.body, b"login and passcode are needed, and those of a user\n")
        self.assert_closes(client)
        self.assertEqual(client.send("SEND", b"x", destination="/queue/q"), [])
        self.assertEqual(self.broker.queues(), [])

    def test_a_user_comes_in_by_his_password(self) -> None:
        client = self.user("alice")
        self.assertEqual(receipts(client.send("SEND", b"x", destination="/queue/q", receipt="1")), ["1"])
        self.assertEqual(self.authenticator.asked, [("alice", PASSWORD, "192.168.1.1")])

    def test_all_others_are_refused_in_the_same_words(self) -> None:
        """Line 26."""
        self.refused()
        self.refused(login="alice")
        self.refused(passcode=PASSWORD)
        self.refused(login="alice", passcode="wrong")
        self.refused(login="eve", passcode=PASSWORD)
        self.refused(login="", passcode="")

    def test_the_error_names_the_receipt_and_not_the_passcode(self) -> None:
        client = self.open()
        frames = client.send("CONNECT", accept_version="1.2", login="alice", passcode="guessed", receipt="7")
        error = self.assert_error(frames, "Access refused", receipt_id="7")
        self.assertNotIn("guessed", str(error))

    def test_what_follows_connect_waits_until_the_password_is_verified(self) -> None:
        self.authenticator.late = True
        client = self.open()
        self.assertEqual(client.send("CONNECT", accept_version="1.2", login="alice", passcode=PASSWORD), [])
        self.assertEqual(client.send("SEND", b"x", destination="/queue/q", receipt="1"), [])
        self.assertEqual(client.transport.producerState, "paused")
        self.authenticator.waiting.pop()()
        self.assertEqual([frame.command for frame in client.frames()], ["CONNECTED", "RECEIPT"])
        self.assertEqual(client.transport.producerState, "producing")
        self.assertEqual(self.ready("q"), 1)

    def test_a_wrong_password_that_takes_its_time(self) -> None:
        self.authenticator.late = True
        client = self.open()
        client.send("CONNECT", accept_version="1.2", login="alice", passcode="wrong")
        client.send("SEND", b"x", destination="/queue/q")
        self.authenticator.waiting.pop()()
        self.assert_error(client.frames(), "Access refused")
        self.assert_closes(client)
        self.assertEqual(self.broker.queues(), [])

    def test_a_client_that_goes_meanwhile(self) -> None:
        self.authenticator.late = True
        client = self.open()
        client.send("CONNECT", accept_version="1.2", login="alice", passcode=PASSWORD)
        client.send("SEND", b"x", destination="/queue/q")
        others = [call for call in self.clock.getDelayedCalls() if call is not client.protocol._timer]
        self.clients.remove(client)
        client.protocol.connectionLost(connectionDone)
        self.authenticator.waiting.pop()()
        self.clock.advance(0)
        self.assertEqual(self.broker.queues(), [])
        self.assertEqual(len(self.clock.getDelayedCalls()), len(others))

    def test_a_client_that_closes_its_side_meanwhile_is_obeyed(self) -> None:
        self.authenticator.late = True
        client = self.open()
        client.send("CONNECT", accept_version="1.2", login="alice", passcode=PASSWORD)
        client.send("SEND", b"x", destination="/queue/q")
        client.protocol.readConnectionLost()
        self.authenticator.waiting.pop()()
        self.assertEqual([frame.command for frame in client.frames()], ["CONNECTED"])
        self.assertEqual(self.ready("q"), 1)
        self.assertTrue(client.transport.disconnecting)

    def test_stopping_meanwhile(self) -> None:
        self.authenticator.late = True
        client = self.open()
        client.send("CONNECT", accept_version="1.2", login="alice", passcode=PASSWORD)
        self.factory.shut_down()
        self.authenticator.waiting.pop()()
        self.assertEqual(client.frames(), [])
        self.assert_closes(client)

    def test_an_authenticator_that_fails_is_not_told_of(self) -> None:
        def broken(name: str, password: str, address: str) -> Deferred[None]:
            failed: Deferred[None] = Deferred()
            failed.errback(RuntimeError("the directory is down"))
            return failed

        self.authenticator.password = broken  # type: ignore[assignment,method-assign]
        frames = self.open().send("CONNECT", accept_version="1.2", login="alice", passcode=PASSWORD)
        error = self.assert_error(frames, "Processing error")
        self.assertNotIn(b"directory", error.body)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_where_anonymous_is_allowed_it_is_who_names_no_user(self) -> None:
        self.use(Known({"alice": everything()}, anonymous={"publish": "topic:*"}))
        self.assertEqual(receipts(self.client().send("SEND", destination="/topic/t", receipt="1")), ["1"])
        frames = self.client().send("SEND", destination="/queue/q")
        self.assert_error(frames, "Access refused")
        self.refused(login="alice", passcode="wrong")

    def test_who_is_removed_is_told_and_shut_out(self) -> None:
        gone, client, other = self.user("alice"), self.user("alice"), self.user("bob", publish="*")
        client.subscribe("/topic/t")
        self.clients.remove(gone)
        gone.lose()
        alice = self.authenticator.users["alice"]
        self.assertEqual(len(alice.connections), 1)
        alice.remove()
        other.send("SEND", b"news", destination="/topic/t")
        self.assert_error(client.frames(), "Access refused")
        self.assert_closes(client)
        client.lose()
        self.clients.remove(client)
        self.assertFalse(alice.connections)

    def test_without_users_it_does_not_matter_what_one_says(self) -> None:
        """Line 26."""
        self.factory = StompFactory(self.broker, clock=self.clock)
        client = self.client(login="someone", passcode="whatever")
        self.assertEqual(receipts(client.send("SEND", destination="/queue/q", receipt="1")), ["1"])

    def test_no_password_is_logged(self) -> None:
        with Log() as log:
            self.user("alice").lose()
            self.open().send("CONNECT", accept_version="1.2", login="alice", passcode="guessed")
            self.open().raw(b"CONNECT\nlogin:alice\npasscode:guessed\nno colon\n\n\0")
            self.open().raw(b"CONNECT\nlogin:alice\npasscode:gues\\tsed-too\naccept-version:1.2\n\n\0")
        for secret in (PASSWORD, "guessed", "sed-too"):
            self.assertNotIn(secret, log.text)
        self.assertIn("user alice", log.text)


class RightsTest(FrontTest):
    """What each frame takes, which is asked when it comes."""

    def forbidden(self, name: str, what: str, command: str, **headers: str) -> None:
        """bob may do `name` nowhere and everything else; ERROR, and nothing has happened."""
        before = self.broker.queues()
        client = self.user("bob", **{action: p for action, p in everything().items() if action != name})
        error = self.assert_error(client.send(command, b"x", **headers), "Access refused")
        self.assertEqual(error.body.decode(), f"not allowed: user bob has no right to {what}\n")
        self.assert_closes(client)
        self.assertEqual(self.broker.queues(), before)

    def test_send(self) -> None:
        """Line 39."""
        self.put("q", b"0")
        self.forbidden("publish", "publish to queue q", "SEND", destination="/queue/q")
        self.forbidden("publish", "publish to topic t", "SEND", destination="/topic/t")
        self.forbidden("create", "create queue new", "SEND", destination="new")
        client = self.user("bob", publish="queue:q topic:t")
        for number, destination in enumerate(["/queue/q", "q", "/topic/t"]):
            self.assertEqual(receipts(client.send("SEND", destination=destination, receipt=number)), [str(number)])
        client = self.user("bob", publish="queue:new", create="queue:new")
        self.assertEqual(receipts(client.send("SEND", destination="/queue/new", receipt=1)), ["1"])

    def test_send_in_a_transaction(self) -> None:
        self.put("q", b"0")
        client = self.user("bob", publish="queue:q")
        client.send("BEGIN", transaction="t")
        client.send("SEND", b"1", destination="/queue/q", transaction="t")
        self.assert_error(client.send("SEND", b"2", destination="/queue/r", transaction="t"), "Access refused")
        self.assertEqual(self.ready("q"), 1)
        client = self.user("bob")
        client.send("BEGIN", transaction="t")
        client.send("SEND", b"1", destination="/queue/q", transaction="t")
        self.assertEqual(receipts(client.send("COMMIT", transaction="t", receipt="c")), ["c"])
        self.assertEqual(self.ready("q"), 2)

    def test_subscribe(self) -> None:
        """Line 55."""
        self.put("q", b"0")
        headers = {"id": "1", "ack": "client-individual"}
        self.forbidden("subscribe", "take from queue q", "SUBSCRIBE", destination="/queue/q", **headers)
        self.forbidden("subscribe", "take from topic t", "SUBSCRIBE", destination="/topic/t", **headers)
        self.forbidden("create", "create queue new", "SUBSCRIBE", destination="/queue/new", **headers)
        self.assertEqual(self.ready("q"), 1)
        client = self.user("bob", subscribe="queue:q topic:t")
        (message,) = client.subscribe("/queue/q", ack="client-individual")
        self.assertEqual(message.body, b"0")
        self.assertEqual(receipts(client.send("ACK", id=message.headers["ack"], receipt="1")), ["1"])
        client.subscribe("/topic/t", id="2")
        self.publish(topic("t"), Message(body=b"news"))
        self.assertEqual(bodies(client.frames()), [b"news"])

    def test_a_pattern_takes_the_right_to_all_that_it_matches(self) -> None:
        for right, pattern, allowed in (
            ("topic:a.*", "a.*", True),
            ("topic:a.*", "a.*.b", True),
            ("topic:a.*", "a.#", False),
            ("topic:a.* topic:a", "a.#", True),
            ("topic:a*", "a.>", True),
            ("topic:a.?", "a.*", False),
            ("topic:a.#", "a.#", False),
            ("topic:*", "#", True),
            ("topic:*.b", "#.b", False),
        ):
            client = self.user("bob", subscribe=right)
            frames = client.subscribe(f"/topic/{pattern}")
            if allowed:
                self.assertEqual(frames, [], (right, pattern))
            else:
                self.assert_error(frames, "Access refused")

    def test_a_list_takes_the_right_to_each(self) -> None:
        client = self.user("bob", subscribe="queue:q", publish="queue:q", create="queue:q")
        self.assert_error(client.subscribe("/queue/q,/queue/other"), "Access refused")
        self.assertEqual(self.broker.queue_stats("q").consumers, 0)
        client = self.user("bob")
        self.assert_error(client.send("SEND", b"x", destination="/queue/q,other"), "Access refused")
        self.assertEqual(self.ready("q"), 0)

    def test_replies_need_no_right(self) -> None:
        """Line 71: whoever was told where to reply may do so."""
        asker = self.user("alice")
        worker = self.user("bob", subscribe="queue:work")
        asker.send("SEND", destination="/queue/work", reply_to="/temp-queue/me")
        (request,) = worker.subscribe("/queue/work")
        worker.send("SEND", b"answer", destination=request.headers["reply-to"])
        self.assertEqual(bodies(asker.frames()), [b"answer"])
        self.assert_error(worker.subscribe(request.headers["reply-to"], "2"), "Invalid destination")

    def test_a_durable_subscription_takes_the_rights_to_its_topic_and_its_queue(self) -> None:
        headers = {"activemq.subscriptionName": "n"}
        for rights in ({"subscribe": "topic:t"}, {"subscribe": "queue:dsub/*", "create": "queue:dsub/*"}):
            client = self.user("bob", **rights)
            self.assert_error(client.subscribe("/topic/t", **headers), "Access refused")
        client = self.user("bob", subscribe="topic:t queue:dsub/{user}/*", create="queue:dsub/{user}/*")
        frames = client.send("SUBSCRIBE", destination="/topic/t", id="1", receipt="1", **headers)
        self.assertEqual(receipts(frames), ["1"])
        self.assertEqual(self.broker.queues(), ["dsub/bob/n"])
        client = self.user("bob", subscribe="topic:t queue:dsub/{user}/*")
        self.assert_error(client.send("UNSUBSCRIBE", id="1", **headers), "Access refused")

    def test_a_sender_is_who_he_says(self) -> None:
        """Line 39, its last part."""
        client = self.user("alice")
        self.assertEqual(client.send("SEND", destination="/queue/q", user_id="alice"), [])
        self.assert_error(client.send("SEND", destination="/queue/q", user_id="bob"), "Access refused")

    def test_a_right_that_is_taken_back_is_gone_at_once(self) -> None:
        self.put("q", b"0")
        client = self.user("bob", publish="queue:q")
        self.assertEqual(receipts(client.send("SEND", destination="/queue/q", receipt="1")), ["1"])
        self.authenticator.allow("bob")
        self.assert_error(client.send("SEND", destination="/queue/q"), "Access refused")

    def test_a_users_own_queues(self) -> None:
        self.authenticator.users |= Known({"*": everything("queue:{user}.in"), "eve": {}}).users
        star = self.client(login="*", passcode=PASSWORD)
        self.assertEqual(receipts(star.send("SEND", destination="/queue/*.in", receipt="1")), ["1"])
        self.publish(queue("eve.in"), Message(body=b"x"))
        self.assert_error(star.send("SEND", destination="/queue/eve.in"), "Access refused")
