"""200 long polls beside 1,000 requests a second: what the polls cost while they wait, and how long everybody waits.

    .venv/bin/python -m benchmarks.long_polls [POLLS [REQUESTS_PER_SECOND [SECONDS]]]

The polls wait each at a channel of its own. First nobody says anything for SECONDS (default 5): the processor's time is
printed beside that of a broker without polls. Then half of the requests put messages in and half take them out, from
32 connections at a steady rate; a few times a second a message goes to one of the polls, which is answered and asked
again.
"""

from __future__ import annotations

import http.client
import socket
import sys
import threading
import time

from benchmarks.measuring import Folder, Process, Row, report

POLLS, RATE, SECONDS = 200, 1_000, 5.0
#: So many that a commit's time does not bound the rate: eight that wait 7 ms each come to a thousand and no more.
CLIENTS = 32
#: Goals: of a processor for all polls while they wait beyond what the broker takes without them, and seconds.
MOST_CPU, MOST_P99 = 0.01, 0.25
#: The share of the rate asked for that must have been there, or else the latencies are those of less.
LEAST_RATE = 0.95


class Poll:
    """A long poll at a channel of its own."""

    def __init__(self, port: int, number: int) -> None:
        self.channel = f"poll.{number}"
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.ask()

    def ask(self) -> None:
        """Wait for a message."""
        self._socket.sendall(f"GET /channels/{self.channel}?ack=auto HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def answer(self) -> None:
        """Read the answer; its body has one byte."""
        said = b""
        while not said.endswith(b"\r\n\r\nx"):
            said += self._socket.recv(4096)

    def close(self) -> None:
        """Leave."""
        self._socket.close()


def load(port: int, number: int, every: float, until: float, took: list[float]) -> None:
    """Put and take in turn, every so many seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    following, turn = time.perf_counter(), 0
    while time.perf_counter() < until:
        method, path = (("POST", f"/channels/work.{number}"), ("GET", f"/channels/work.{number}?nowait&ack=auto"))[
            turn % 2
        ]
        begun = time.perf_counter()
        connection.request(method, path, b"x" * 100 if method == "POST" else None)
        response = connection.getresponse()
        response.read()
        took.append(time.perf_counter() - begun)
        assert response.status in (200, 202), response.status
        turn += 1
        following += every
        time.sleep(max(following - time.perf_counter(), 0))
    connection.close()


def wake(port: int, polls: list[Poll], until: float) -> list[float]:
    """Send messages to polls; seconds from the publish to the poll's answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    took, turn = [], 0
    while not took or time.perf_counter() < until:
        poll = polls[turn % len(polls)]
        begun = time.perf_counter()
        connection.request("POST", f"/channels/{poll.channel}", b"x")
        poll.answer()
        took.append(time.perf_counter() - begun)
        connection.getresponse().read()
        poll.ask()
        turn += 1
        time.sleep(0.02)
    connection.close()
    return took


def idle(broker: Process, seconds: float) -> float:
    """The share of a processor that the broker takes when nobody says anything."""
    begun, cpu = time.monotonic(), broker.cpu()
    time.sleep(seconds)
    return (broker.cpu() - cpu) / (time.monotonic() - begun)


def measure(count: int = POLLS, rate: int = RATE, seconds: float = SECONDS) -> Row:
    """One run."""
    with Folder() as folder, Process(folder) as broker:
        port = broker.ports["http"]
        warm: list[float] = []
        load(port, 0, 0.001, time.perf_counter() + 0.5, warm)
        without = idle(broker, seconds)
        polls = [Poll(port, number) for number in range(count)]
        time.sleep(0.5)
        waiting = idle(broker, seconds)
        until = time.perf_counter() + seconds
        requests: list[list[float]] = [[] for _ in range(CLIENTS)]
        threads = [
            threading.Thread(target=load, args=(port, number, CLIENTS / rate, until, took))
            for number, took in enumerate(requests)
        ]
        begun, cpu = time.monotonic(), broker.cpu()
        for thread in threads:
            thread.start()
        woken = sorted(wake(port, polls, until))
        for thread in threads:
            thread.join()
        busy = (broker.cpu() - cpu) / (time.monotonic() - begun)
        for poll in polls:
            poll.close()
    took = sorted(one for some in requests for one in some)
    return {
        "polls": count,
        "idle CPU % without": round(without * 100, 2),
        "with": round(waiting * 100, 2),
        "of requests/s": rate,
        "requests/s": round(len(took) / seconds),
        "CPU %": round(busy * 100),
        "p50 ms": _ms(took, 0.5),
        "p99 ms": _ms(took, 0.99),
        "woken p50 ms": _ms(woken, 0.5),
        "woken p99 ms": _ms(woken, 0.99),
    }


def _ms(took: list[float], share: float) -> float:
    return round(took[int(len(took) * share)] * 1e3, 2)


def missed(row: Row) -> list[str]:
    """The goals that were not reached."""
    said = []
    more = float(str(row["with"])) - float(str(row["idle CPU % without"]))
    if more > MOST_CPU * 100:
        said.append(f"{more:.2f} % of a processor for polls that wait")
    if int(str(row["requests/s"])) < LEAST_RATE * int(str(row["of requests/s"])):
        said.append(f"{row['requests/s']} of {row['of requests/s']} requests/s: the machine had other things to do")
    for name in ("p99 ms", "woken p99 ms"):
        if float(str(row[name])) > MOST_P99 * 1e3:
            said.append(f"{name}: {row[name]}")
    return said


def main() -> int:
    """Run with what the command line says."""
    said = [float(word) for word in sys.argv[1:]]
    row = measure(*(int(number) for number in said[:2]), *said[2:])
    return report("long_polls", [row], missed(row))


if __name__ == "__main__":
    raise SystemExit(main())
