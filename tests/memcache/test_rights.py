"""What each command takes, over what the older ones take (``tests/auth``)."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from broker.auth.door import Door
from broker.auth.rights import Action, Rights, User
from broker.auth.users import IAuthenticator
from broker.memcache.server import MemcacheFactory
from tests.memcache.support import Client, FrontTest


@implementer(IAuthenticator)
class Everybody:
    """Who says a name has the rights that are listed under it."""

    anonymous = None

    def __init__(self, rights: dict[str, dict[Action, list[str]]]) -> None:
        self._rights = rights

    def password(self, name: str, password: str, address: str) -> Deferred[User | None]:
        return succeed(User(name, Rights(self._rights[name], name)))

    def token(self, bearer: str, address: str) -> Deferred[User | None]:
        return succeed(None)

    def named(self, name: str) -> User | None:
        return None


class RightsTests(FrontTest):
    """A user with one right at a time."""

    def setUp(self) -> None:
        super().setUp()
        rights = {action.value: {action: ["queue:work"]} for action in Action} | {"nobody": {}}
        door = Door(self.broker, Everybody(rights))
        self.closed_factory = MemcacheFactory(self.broker, door=door, shutdown=lambda asked: None)
        self.put("work", b"1", b"2")
        self.put("other", b"3")

    def user(self, name: str) -> Client:
        client = Client(self.closed_factory)
        token = name.encode() + b" x"
        self.assertEqual(client.send(b"set x 0 0 %d\r\n%b\r\n" % (len(token), token)), b"STORED\r\n")
        return client

    def allowed(self, line: bytes) -> list[str]:
        """Who may do it."""
        found = []
        for name in [action.value for action in Action]:
            client = self.user(name)
            if not client.send(line).startswith(b"CLIENT_ERROR not allowed"):
                found.append(name)
            client.go()
            self.clock.advance(0)
        return found

    def test_each_takes_its_right_on_its_queue(self) -> None:
        for line, rights in (
            (b"gat 0 work/open\r\n", ["subscribe"]),
            (b"get work/open/any\r\n", ["subscribe"]),
            (b"touch work 1\r\n", ["subscribe"]),
            (b"monitor work 0\r\n", ["subscribe"]),
            (b"md work C17\r\n", ["subscribe"]),
            (b"mg work/open v\r\n", ["subscribe"]),
            (b"mg work\r\n", ["browse"]),
            (b"me work\r\n", ["browse"]),
            (b"dump_stats work\r\n", ["browse"]),
            (b"dump_config work\r\n", ["browse"]),
            (b"stats conns\r\n", []),
            (b"stats reset\r\n", []),
            (b"stats settings\r\n", ["browse"]),
            (b"ms work 1\r\nx\r\n", ["publish"]),
            (b"cas work 0 0 1 5\r\nx\r\n", ["publish"]),
            (b"flush_expired work\r\n", ["admin"]),
            (b"md work\r\n", ["admin"]),
            (b"gat 0 other/open\r\n", []),
            (b"get work/any other\r\n", []),
            (b"me other\r\n", []),
            (b"flush_all_expired\r\n", []),
            (b"status readonly\r\n", []),
            (b"shutdown\r\n", []),
            (b"reload\r\n", []),
        ):
            self.assertEqual(self.allowed(line), rights, line)

    def test_a_cas_takes_the_right_to_what_it_settles_too(self) -> None:
        number = self.client.send(b"gets other/open\r\n").split(b"\r\n")[0].rpartition(b" ")[2]
        answer = self.user("publish").send(b"cas work 0 0 1 %b\r\nx\r\n" % number)
        self.assertEqual(answer, b"NOT_FOUND\r\n")  # as for a number that is nobody's
        self.assertEqual(self.broker.queue_stats("other").on_loan, 1)

    def test_dumps_and_numbers_show_what_may_be_seen(self) -> None:
        browser = self.user("browse")
        for line in b"dump_stats\r\n", b"dump_config\r\n", b"dump_stats other work\r\n":
            told = browser.send(line)
            self.assertIn(b"queue 'work'", told)
            self.assertNotIn(b"queue 'other'", told)
        told = browser.send(b"stats\r\n")
        self.assertIn(b"queue_work_items", told)
        self.assertNotIn(b"queue_other_items", told)

    def test_anybody_may_ask_for_the_status(self) -> None:
        self.assertEqual(self.user("nobody").send(b"status\r\n"), b"UP\r\n")
