"""Who somebody is, by a file of users: what is answered, what it costs, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from broker.auth import users as users_module
from broker.auth.rights import NOTHING, Action, User, may
from broker.auth.users import ADDRESS_BURST, NAME_BURST, NAME_PERIOD, IAuthenticator, Users
from broker.core.destination import queue
from broker.errors import ConfigError
from tests.auth.support import PASSWORD, TOKEN, Hashing, Log, entry, users_of, verify, write

HOME = "192.0.2.1"


class World:
    """A file with alice, bob and a robot, and who they are."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.path = write(
            folder / "users.toml",
            {
                "alice": entry(tokens=(TOKEN,), publish="queue:*"),
                "bob": entry(password="other"),
                "robot": entry(password="", tokens=("robots",)),
                "anonymous": entry(password="", browse="*"),
            },
        )
        self.clock = Clock()
        self.hashing = Hashing()
        self.users = users_of(self.path, self.clock, self.hashing, **options)

    def password(self, name: str, password: str, address: str = HOME) -> str | None:
        """Whose that is; it must be known at once."""
        return _name(self.users.password(name, password, address))

    def token(self, bearer: str) -> str | None:
        return _name(self.users.token(bearer, HOME))


def _name(answer: Deferred[User | None]) -> str | None:
    user = _now(answer)
    return None if user is None else user.name


def _now(answer: Deferred[User | None]) -> User | None:
    results: list[User | None] = []
    _ = answer.addCallback(results.append)
    (user,) = results
    return user


@pytest.fixture(autouse=True)
def _no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users_module, "verify", verify)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_it_is_an_authenticator(world: World) -> None:
    assert verifyObject(IAuthenticator, world.users)


@pytest.mark.parametrize(
    ("name", "password", "found"),
    [
        ("alice", PASSWORD, "alice"),
        ("alice", TOKEN, "alice"),
        ("bob", "other", "bob"),
        ("alice", "other", None),
        ("alice", "", None),
        ("alice", PASSWORD + "x", None),
        ("alice", "x" * 5000, None),
        ("alice", "\ud800", None),
        ("\ud800", PASSWORD, None),
        ("Alice", PASSWORD, None),
        ("nobody", PASSWORD, None),
        ("", "", None),
        ("robot", "", None),
        ("robot", PASSWORD, None),
        ("robot", "robots", "robot"),
        ("bob", TOKEN, None),
        ("anonymous", "", None),
        ("anonymous", PASSWORD, None),
    ],
)
def test_a_name_and_a_password(name: str, password: str, found: str | None, world: World) -> None:
    assert world.password(name, password) == found


@pytest.mark.parametrize("password", ["", "a\nb", "x" * 600])
def test_what_is_no_password_is_wrong_whatever_its_hash_says(
    password: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users_module, "verify", lambda octets, stored: True)
    assert world.password("alice", password) is None
    assert world.password("alice", "anything") == "alice"


def test_a_token(world: World) -> None:
    assert world.token(TOKEN) == "alice"
    assert world.token("robots") == "robot"
    for bad in ("", "x", PASSWORD, TOKEN + "x", "\ud800"):
        assert world.token(bad) is None
    assert world.hashing.count == 0


def test_who_logs_in_twice_is_the_same_user(world: World) -> None:
    assert _now(world.users.token(TOKEN, HOME)) is _now(world.users.password("alice", PASSWORD, HOME))


@pytest.mark.parametrize("name", ["alice", "robot", "nobody", "anonymous", "\ud800"])
def test_a_wrong_password_costs_one_hash_whoever_it_is_for(name: str, world: World) -> None:
    assert world.password(name, "wrong") is None
    assert world.hashing.count == 1


def test_a_verified_password_costs_no_further_hash(world: World) -> None:
    for _ in range(3):
        assert world.password("alice", PASSWORD) == "alice"
    assert world.hashing.count == 1


def test_two_hashes_at_a_time_and_one_for_a_fleet_that_comes_at_once(world: World) -> None:
    world.hashing.at_once = False
    answers = [world.users.password("alice", PASSWORD, HOME) for _ in range(50)]
    others = [world.users.password("bob", "other", HOME) for _ in range(50)]
    assert len(world.hashing.waiting) == 2
    while world.hashing.waiting:
        world.hashing.waiting.pop(0)()
        assert len(world.hashing.waiting) <= 2
    assert [_name(answer) for answer in answers] == ["alice"] * 50
    assert [_name(answer) for answer in others] == ["bob"] * 50
    assert world.hashing.count <= 4


def test_no_more_may_wait_than_that(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users_module, "MAX_WAITING", 3)
    world.hashing.at_once = False
    answers = [world.users.password("bob", f"wrong {n}", f"192.0.2.{n}") for n in range(5)]
    assert not any(answer.called for answer in answers)
    with Log() as log:
        assert world.password("bob", "other") is None
    assert "too many logins at once" in log.text
    while world.hashing.waiting:
        world.hashing.waiting.pop(0)()
    assert world.hashing.count == 5


def test_a_hash_that_could_not_be_computed_is_our_failure_and_frees_its_place(world: World) -> None:
    world.users._run = lambda work: fail(MemoryError())
    for _ in range(5):
        failures: list[Any] = []
        _ = world.users.password("alice", PASSWORD, HOME).addErrback(failures.append)
        assert failures[0].check(MemoryError)
    world.users._run = world.hashing.run
    assert world.password("alice", PASSWORD) == "alice"


def test_a_name_gets_so_many_tries(world: World) -> None:
    for number in range(NAME_BURST):
        assert world.password("alice", f"wrong {number}", f"192.0.2.{number}") is None
    assert world.hashing.count == NAME_BURST
    assert world.password("alice", PASSWORD) is None
    assert world.hashing.count == NAME_BURST  # not even looked at
    assert world.password("bob", "other") == "bob"
    assert world.password("alice", TOKEN) == "alice"
    world.clock.advance(NAME_PERIOD + 0.1)
    assert world.password("alice", PASSWORD) == "alice"


def test_a_name_that_is_none_gets_as_many(world: World) -> None:
    for number in range(NAME_BURST + 5):
        assert world.password("nobody", "wrong", f"192.0.2.{number}") is None
    assert world.hashing.count == NAME_BURST


def test_guesses_do_not_lock_out_who_was_verified(world: World) -> None:
    assert world.password("alice", PASSWORD) == "alice"
    for number in range(NAME_BURST):
        world.password("alice", "wrong", f"192.0.2.{number}")
    assert world.password("alice", PASSWORD) == "alice"


def test_an_address_gets_so_many_tries_whatever_the_names(world: World) -> None:
    for number in range(ADDRESS_BURST + 20):
        assert world.password(f"user{number}", "wrong") is None
    assert world.hashing.count == ADDRESS_BURST
    assert world.password("alice", PASSWORD) is None
    assert world.password("alice", PASSWORD, "192.0.2.2") == "alice"
    world.clock.advance(1.1)
    assert world.password("bob", "other") == "bob"


def test_tokens_that_are_none_count_too(world: World) -> None:
    for number in range(ADDRESS_BURST):
        assert world.token(f"wrong {number}") is None
    assert world.password("alice", PASSWORD) is None
    assert world.token(TOKEN) == "alice"


def test_tries_that_wait_for_their_turn_do_not_slip_through(world: World) -> None:
    world.hashing.at_once = False
    answers = [world.users.password("alice", f"wrong {n}", HOME) for n in range(100)]
    while world.hashing.waiting:
        world.hashing.waiting.pop(0)()
    assert [_name(answer) for answer in answers] == [None] * 100
    assert world.hashing.count <= NAME_BURST + 1  # those that were under way at the last


# -- the log


def test_no_secret_is_logged_nor_a_name_that_may_be_one(world: World) -> None:
    with Log() as log:
        world.password("alice", PASSWORD)
        world.password("alice", "guessed-wrong")
        world.password("typed-in-the-wrong-place", "x")
        world.token("stale-token")
        world.token(TOKEN)
        for number in range(2 * ADDRESS_BURST):
            world.password("alice", f"guessed-{number}")
    for secret in (PASSWORD, "guessed", "typed-in-the-wrong-place", "stale-token", TOKEN, "scrypt"):
        assert secret not in log.text
    assert f"login of alice from {HOME} failed: a wrong password" in log.text
    assert f"login of nobody we know from {HOME} failed" in log.text


def test_who_guesses_on_and_on_does_not_fill_the_log(world: World) -> None:
    with Log() as log:
        for number in range(10_000):
            world.password(f"user{number % 100}", "wrong")
    assert len(log.events) <= 2 * ADDRESS_BURST


# -- changes


def test_the_connections_of_who_is_removed_end_and_nobody_elses(world: World) -> None:
    alice, bob = _now(world.users.token(TOKEN, HOME)), _now(world.users.password("bob", "other", HOME))
    assert alice is not None
    assert bob is not None
    ended: list[str] = []
    alice.connections.add(lambda: ended.append("alice"))
    bob.connections.add(lambda: ended.append("bob"))
    write(world.path, {"alice": entry()})
    world.users.reload()
    assert ended == ["bob"]


def test_rights_change_for_who_is_there_and_end_for_who_is_gone(world: World) -> None:
    alice, bob = _now(world.users.token(TOKEN, HOME)), _now(world.users.password("bob", "other", HOME))
    assert alice is not None
    assert bob is not None
    assert not may(alice, Action.BROWSE, queue("q"))
    write(world.path, {"alice": entry(tokens=(TOKEN,), browse="queue:*")})
    world.users.reload()
    assert may(alice, Action.BROWSE, queue("q"))
    assert not may(alice, Action.PUBLISH, queue("q"))
    assert bob.rights is NOTHING
    assert world.password("bob", "other") is None
    assert len(world.users) == 1


def test_a_changed_password_counts_although_the_old_one_was_verified(world: World) -> None:
    assert world.password("alice", PASSWORD) == "alice"
    write(world.path, {"alice": entry(password="new")})
    world.users.reload()
    assert world.password("alice", PASSWORD) is None
    assert world.token(TOKEN) is None
    assert world.password("alice", "new") == "alice"


def test_a_password_changed_while_it_is_verified_is_the_old_one(world: World) -> None:
    world.hashing.at_once = False
    answer = world.users.password("alice", PASSWORD, HOME)
    write(world.path, {"alice": entry(password="new")})
    world.users.reload()
    world.hashing.waiting.pop()()
    assert _name(answer) is None


def test_a_bad_file_changes_nothing(world: World) -> None:
    world.path.write_text("[user.eve.rights]\nadmin = ['everything']\n")
    with pytest.raises(ConfigError, match=r"user\.eve\.rights\.admin\[0\]"):
        world.users.reload()
    world.path.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        world.users.reload()
    assert world.password("alice", PASSWORD) == "alice"
    alice = _now(world.users.token(TOKEN, HOME))
    assert alice is not None
    assert may(alice, Action.PUBLISH, queue("q"))


# -- anonymous


def test_nobody_is_anonymous_unless_that_is_allowed(tmp_path: Path) -> None:
    assert World(tmp_path).users.anonymous is None
    anonymous = World(tmp_path, allow_anonymous=True).users.anonymous
    assert anonymous is not None
    assert may(anonymous, Action.BROWSE, queue("q"))
    assert not may(anonymous, Action.PUBLISH, queue("q"))


def test_anonymous_must_have_been_given_its_rights(tmp_path: Path) -> None:
    path = write(tmp_path / "users.toml", {"alice": entry()})
    with pytest.raises(ConfigError, match=r"users\.toml: user\.anonymous: missing"):
        Users(str(path), run=Hashing().run, now=Clock().seconds, allow_anonymous=True)
