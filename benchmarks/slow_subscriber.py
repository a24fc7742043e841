"""A live subscriber of a topic that stops reading: what the broker's memory grows by while 64 MiB are published.

    .venv/bin/python -m benchmarks.slow_subscriber [MIB [HIGH_WATER_MIB]]

Goal: no more than the topic's ``max_bytes`` and 1 MiB, with both ways to meet a full buffer. With ``drop_oldest`` the
subscriber gets the newest messages when it reads again, in order; with ``disconnect`` its connection is closed. What
the process needs for publishing alone is measured before, without it, and is not counted.
"""

from __future__ import annotations

import sys

from benchmarks.measuring import MIB, Folder, Memcache, Process, Row, Stomp, mib, report

#: What may come on top of the buffer.
MARGIN = MIB
BODY = 4096
_CONFIG = """
[topic."*"]
max_bytes = {high_water}
overflow = "{overflow}"
"""


def measure(size: int, high_water: int, overflow: str) -> Row:
    """One run: `size` bytes published past a subscriber that does not read."""
    count = size // BODY
    with Folder() as folder, Process(folder, config=_CONFIG.format(high_water=high_water, overflow=overflow)) as broker:
        with Memcache(broker.ports["memcache"]) as publisher, Stomp(broker.ports["stomp"]) as subscriber:
            publisher.set_all(["/topic/t"] * max(count // 4, 512), _body(0))
            subscriber.send("SUBSCRIBE", {"destination": "/topic/t", "id": "1", "receipt": "r"})
            assert subscriber.read()[0] == "RECEIPT"
            broker.forget_peak()
            before = broker.rss()
            for first in range(0, count, 512):
                for n in range(first, min(first + 512, count)):
                    publisher.socket.sendall(b"set /topic/t 0 0 %d\r\n%b\r\n" % (BODY, _body(n)))
                publisher.expect(b"STORED\r\n" * min(512, count - first))
            grown = broker.peak() - before
            got = _read(subscriber, count)
    return {
        "overflow": overflow,
        "published MiB": mib(count * BODY),
        "high-water MiB": mib(high_water),
        "grown MiB": mib(grown),
        "messages": count,
        "read in the end": len(got),
        "closed": "yes" if not got or got[-1] != count - 1 else "no",
        "in order": "yes" if got == sorted(set(got)) else "no",
    }


def _body(number: int) -> bytes:
    return b"%010d" % number + bytes(BODY - 10)


def _read(subscriber: Stomp, count: int) -> list[int]:
    """The numbers of the messages it gets now, up to the last one or to the end of the connection."""
    got: list[int] = []
    try:
        while not got or got[-1] != count - 1:
            command, _, body = subscriber.read()
            if command == "ERROR":
                break
            got.append(int(body[:10]))
    except (EOFError, ConnectionError, RuntimeError):
        pass  # it was closed, perhaps in the middle of a message
    return got


def missed(row: Row, high_water: int) -> list[str]:
    """The goals that a run did not reach."""
    overflow, said = row["overflow"], []
    if float(str(row["grown MiB"])) * MIB > high_water + MARGIN:
        said.append(f"{overflow}: grown by {row['grown MiB']} MiB")
    if row["in order"] != "yes":
        said.append(f"{overflow}: what it read was not in order")
    if (row["closed"] == "yes") != (overflow == "disconnect"):
        said.append(f"{overflow}: its connection was {'' if row['closed'] == 'yes' else 'not '}closed")
    return said


def main() -> int:
    """Both ways."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    high_water = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    rows = [measure(size * MIB, high_water * MIB, overflow) for overflow in ("drop_oldest", "disconnect")]
    return report("slow_subscriber", rows, [miss for row in rows for miss in missed(row, high_water * MIB)])


if __name__ == "__main__":
    raise SystemExit(main())
