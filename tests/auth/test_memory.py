"""What is remembered of logins."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from broker.auth import memory
from broker.auth.memory import Failures, Verified, network


def test_verified_credentials_are_these_and_no_others() -> None:
    verified = Verified()
    digest = verified.digest("alice", b"secret", "stored")
    assert digest not in verified
    verified.add(digest)
    assert verified.digest("alice", b"secret", "stored") in verified
    for other in (("alice", b"Secret", "stored"), ("bob", b"secret", "stored"), ("alice", b"secret", "changed")):
        assert verified.digest(*other) not in verified
    # the same letters, divided otherwise
    assert verified.digest("alices", b"ecret", "stored") not in verified


def test_a_digest_means_nothing_to_another_process() -> None:
    assert Verified().digest("alice", b"secret", "x") != Verified().digest("alice", b"secret", "x")


def test_the_credentials_longest_not_used_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_VERIFIED", 3)
    verified = Verified()
    for name in (b"a", b"b", b"c"):
        verified.add(name)
    assert b"a" in verified  # used
    verified.add(b"d")
    assert len(verified) == 3
    assert [name for name in (b"a", b"b", b"c", b"d") if name in verified] == [b"a", b"c", b"d"]


def test_a_burst_of_failures_and_then_one_every_period() -> None:
    clock = Clock()
    failures = Failures(clock.seconds, burst=3, period=10)
    for last in (False, False, True):
        assert not failures.spent("k")
        assert failures.count("k") is last
    assert failures.spent("k")
    assert not failures.spent("other")
    clock.advance(9.9)
    assert failures.spent("k")
    clock.advance(0.2)
    assert not failures.spent("k")
    assert failures.count("k")
    assert failures.spent("k")
    clock.advance(31)
    assert [failures.count("k") for _ in range(3)] == [False, False, True]


def test_failures_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_KEYS", 100)
    failures = Failures(Clock().seconds, burst=1, period=10)
    failures.count("victim")
    for number in range(1000):
        failures.count(str(number))
        failures.count("victim")  # who is tried again and again is not forgotten
    assert len(failures) == 100
    assert failures.spent("victim")
    assert not failures.spent("0")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "", True),
    ],
)
def test_one_client_is_an_address_or_64_bits_of_one(one: str, other: str, same: bool) -> None:
    assert (network(one) == network(other)) is same
