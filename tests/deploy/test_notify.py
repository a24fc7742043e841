"""What is told to NOTIFY_SOCKET, and when."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from broker.notify import INTERVAL, Notifier
from tests.deploy.support import Activated, Notified


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[Notified]:
    with Notified(tmp_path) as made:
        yield made


def test_it_is_told_of_a_start_a_reload_and_the_end(tmp_path: Path, notified: Notified) -> None:
    # A receiver holds ten messages, and what comes then is lost: twice a second leaves time to read them.
    environment = {"NOTIFY_SOCKET": str(notified.path), "WATCHDOG_USEC": "1000000"}
    ports = ("--memcache=0", "--stomp=0", "--http=0", "--data=:memory:")
    with Activated(tmp_path, *ports, environment=environment) as twistd:
        assert notified.next() == {"READY": "1", "STATUS": "ready"}
        twistd.until(r"#info\] ready")
        assert [notified.next() for _ in range(3)] == [{"WATCHDOG": "1"}] * 3
        before = time.monotonic_ns() // 1000
        twistd.process.send_signal(signal.SIGHUP)
        assert int(notified.until("RELOADING")["MONOTONIC_USEC"]) > before
        assert notified.until("READY")["STATUS"] == "ready"
        twistd.process.send_signal(signal.SIGTERM)
        assert notified.until("STOPPING")["STATUS"] == "the broker is stopping"
        assert twistd.wait() == -signal.SIGTERM


def test_a_broker_that_does_not_turn_does_not_say_that_it_lives(tmp_path: Path, notified: Notified) -> None:
    environment = {"NOTIFY_SOCKET": str(notified.path), "WATCHDOG_USEC": "100000"}
    options = ("--memcache=0", "--stomp=off", "--http=off", "--data=:memory:")
    with Activated(tmp_path, *options, environment=environment) as twistd:
        notified.until("WATCHDOG")
        twistd.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, twistd.process.pid, os.WSTOPPED | os.WNOWAIT)
        notified.drain()
        assert notified.silent_for(0.3)
        twistd.process.send_signal(signal.SIGCONT)
        assert notified.next() == {"WATCHDOG": "1"}


def test_the_reason_of_a_failed_start_is_its_status(tmp_path: Path, notified: Notified) -> None:
    (tmp_path / "broker.sqlite").write_bytes(b"no database at all, but longer than its header" * 10)
    with Activated(tmp_path, "--http=0", "--memcache=off", environment={"NOTIFY_SOCKET": str(notified.path)}) as twistd:
        assert twistd.wait() == 1
        assert notified.next()["STATUS"].startswith("cannot start: ")


def test_what_it_is_like_is_told_when_it_changes_and_the_watchdog_at_half_its_interval(notified: Notified) -> None:
    clock, status = Clock(), [""]
    environment = {"NOTIFY_SOCKET": str(notified.path), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier(clock, lambda: status[0], environment)
    notifier.ready()
    assert notified.next()["READY"] == "1"
    assert notified.next() == {"WATCHDOG": "1"}
    status[0] = "the store does not commit:\nthe disk is full"
    clock.advance(14.9)
    assert notified.silent_for(0)
    clock.advance(0.1)
    assert notified.next() == {"WATCHDOG": "1", "STATUS": "the store does not commit: the disk is full"}
    clock.advance(15)
    assert notified.next() == {"WATCHDOG": "1"}
    notifier.close()
    assert not clock.getDelayedCalls()


def test_without_a_watchdog_only_changes_are_told(notified: Notified) -> None:
    clock, status = Clock(), [""]
    others = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    notifier = Notifier(clock, lambda: status[0], {"NOTIFY_SOCKET": str(notified.path), **others})
    notifier.ready()
    notified.next()
    clock.pump([INTERVAL] * 3)
    assert notified.silent_for(0)
    status[0] = "the broker drains"
    clock.advance(INTERVAL)
    assert notified.next() == {"STATUS": "the broker drains"}
    notifier.close()


def test_a_name_without_a_path_is_understood() -> None:
    name = f"broker-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receives:
        receives.bind(f"\0{name}")
        notifier = Notifier(Clock(), lambda: "", {"NOTIFY_SOCKET": f"@{name}"})
        notifier.ready()
        notifier.close()
        receives.settimeout(10)
        assert receives.recv(100) == b"READY=1\nSTATUS=ready"


def test_nobody_to_tell_is_nothing_to_fear(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}, {"NOTIFY_SOCKET": "vsock:2:1"}):
        clock = Clock()
        notifier = Notifier(clock, lambda: "", environment)
        notifier.reloading()
        notifier.ready()
        notifier.stopping()
        assert not clock.getDelayedCalls()
        notifier.close()


def test_a_receiver_that_does_not_read_holds_nothing_up(notified: Notified) -> None:
    clock = Clock()
    environment = {"NOTIFY_SOCKET": str(notified.path), "WATCHDOG_USEC": "2000000"}
    notifier = Notifier(clock, lambda: "", environment)
    notifier.ready()
    clock.pump([1] * 1000)  # far more than its buffer takes
    notified.drain()
    clock.advance(1)
    assert notified.next() == {"WATCHDOG": "1"}
    notifier.close()
