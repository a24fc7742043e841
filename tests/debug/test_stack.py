"""What every thread is doing, and what is planned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

from twisted.internet.task import Clock

from broker.debug import MAX_CALLS, MAX_FRAMES, stack
from tests.http.support import World
from tests.support import CANARY, Twistd


def planned(secret: str) -> None:
    raise AssertionError(secret)


def test_every_thread_is_shown_and_what_is_planned_without_values() -> None:
    clock = Clock()
    clock.callLater(5, planned, CANARY)
    clock.callLater(2, partial(planned, CANARY))
    over, begun = threading.Event(), threading.Event()

    def wait_for_the_test() -> None:
        begun.set()
        over.wait(30)

    thread = threading.Thread(target=wait_for_the_test, name="a thread of the test")
    thread.start()
    try:
        assert begun.wait(30)
        text = stack(clock)
    finally:
        over.set()
        thread.join()
    assert "thread a thread of the test:" in text
    assert "in wait_for_the_test" in text
    assert text.index("thread MainThread:") < text.index("thread a thread of the test:")
    assert text.index(f"in 2.000 s: {planned.__module__}.planned") < text.index(
        f"in 5.000 s: {planned.__module__}.planned"
    )
    assert CANARY not in text


def test_a_dump_is_bounded() -> None:
    clock = Clock()
    for _ in range(500):
        clock.callLater(1, planned, "")

    def deep(left: int) -> str:
        return deep(left - 1) if left else stack(clock)

    text = deep(500)
    assert "500 calls planned" in text
    assert text.count(f"{planned.__module__}.planned") == MAX_CALLS
    assert MAX_FRAMES - 5 < text.count("in deep") <= MAX_FRAMES


def test_over_http_it_is_text() -> None:
    answer = World().ask("GET", "/debug/stack")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain")
    assert b"thread MainThread:" in answer.body


def test_sigquit_writes_it_to_the_log_and_the_broker_goes_on(tmp_path: Path) -> None:
    with Twistd(tmp_path, "--data=:memory:") as twistd:
        twistd.ports()
        os.kill(twistd.process.pid, signal.SIGQUIT)
        twistd.until("SIGQUIT: ")
        twistd.until("thread MainThread:")
        twistd.until("calls planned")
        twistd.process.send_signal(signal.SIGTERM)
        twistd.until("stopped")


HANGS = """
import sys
from twisted.internet.task import Clock
from twisted.logger import globalLogBeginner, textFileLogObserver
from broker.debug import on_quit
globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
on_quit(Clock())
def hangs():
    print("now", flush=True)
    while True:
        pass
hangs()
"""


def test_sigquit_shows_where_a_loop_hangs() -> None:
    with subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(Twistd.PATIENCE, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "now\n"
            process.send_signal(signal.SIGQUIT)
            assert any(line.strip().endswith("in hangs") for line in process.stdout)
        finally:
            watchdog.cancel()
            process.kill()
