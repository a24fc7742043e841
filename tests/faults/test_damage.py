"""A data file that the disk has damaged, under a real broker: what can be read is served, and the rest is named."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pymemcache.client.base import Client

from tests.support import Twistd

COUNT = 60


def bodies(folder: Path, port: int) -> list[int]:
    """Which messages the queue gives, in its order."""
    client = Client(("127.0.0.1", port), timeout=30)
    try:
        found = []
        while (body := client.get("orders")) is not None:
            found.append(int(body[:3]))
        return found
    finally:
        client.close()


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """What a broker that was killed left: 60 messages, each of them a commit."""
    with Twistd(tmp_path) as broker:
        client = Client(("127.0.0.1", broker.ports()["memcache"]), timeout=30, default_noreply=False)
        for number in range(COUNT):
            client.set("orders", b"%03d" % number + bytes(20_000 if number < 40 else 50))
        client.close()
        broker.kill()
    return tmp_path / "broker.sqlite"


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(statement).rowcount == 1
        connection.commit()


def test_what_cannot_be_read_is_skipped_and_named_and_nothing_else_is(left: Path) -> None:
    change(left, "UPDATE batch SET data = substr(data, 1, 9000) WHERE base = 17")
    change(left, "UPDATE rec SET data = zeroblob(length(data)) WHERE cid = (SELECT max(cid) - 5 FROM rec)")
    with Twistd(left.parent) as broker:
        found = bodies(left.parent, broker.ports()["memcache"])
        broker.process.terminate()
        broker.wait()
    lost = sorted(set(range(COUNT)) - set(found))
    assert found == sorted(found)
    assert len(lost) == 2
    assert lost[0] == 17
    assert lost[1] > 40
    for number in lost:
        assert f"messages {number} to {number} of lane 1, queue orders, cannot be read, and are skipped" in broker.said
    with closing(sqlite3.connect(left)) as connection:
        aside = connection.execute("SELECT base, n FROM quarantine ORDER BY base").fetchall()
        assert aside == [(number, 1) for number in lost]
    with Twistd(left.parent) as broker:
        assert bodies(left.parent, broker.ports()["memcache"]) == []
        assert "cannot be read" not in broker.said


def test_a_log_that_was_torn_ends_where_it_was_torn(left: Path) -> None:
    log = Path(f"{left}-wal")
    whole = log.read_bytes()
    log.write_bytes(whole[: len(whole) * 2 // 3] + bytes(5000))
    with Twistd(left.parent) as broker:
        client = Client(("127.0.0.1", broker.ports()["memcache"]), timeout=30, default_noreply=False)
        client.set("orders", b"%03d" % 999)
        client.close()
        broker.kill()
    with Twistd(left.parent) as broker:
        found = bodies(left.parent, broker.ports()["memcache"])
    assert found == [*range(len(found) - 1), 999]
    assert 10 < len(found) < COUNT


def test_a_file_that_says_no_longer_what_there_is_is_not_served(left: Path) -> None:
    change(left, "UPDATE rec SET dir = substr(dir, 1, length(dir) - 1) WHERE cid = (SELECT max(cid) FROM rec)")
    with Twistd(left.parent) as broker:
        assert broker.wait() == 1
    assert "cannot start: record " in broker.said
    assert "of the data file is damaged" in broker.said
    assert "Traceback" not in broker.said
