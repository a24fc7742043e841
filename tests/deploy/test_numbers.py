"""The numbers that alerts stand on: how long commits take, what room the disk has, logins that fail."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.threads import deferToThread

from broker.core.destination import queue
from broker.core.message import Message
from broker.core.survey import Surveyor
from broker.storage.sqlite import SQLiteStore
from tests.auth.support import entry, write
from tests.clients.support import Http
from tests.support import Served, serving, tx


async def numbers(served: Served) -> dict[str, int]:
    return (await Surveyor(served.broker).survey()).broker


@tx()
async def test_commits_are_counted_and_timed_and_the_disk_is_looked_at(tmp_path: Path) -> None:
    async with serving(SQLiteStore(str(tmp_path / "broker.sqlite"))) as served:
        before = await numbers(served)
        for _ in range(20):
            await served.broker.publish(queue("q"), Message(body=b"x"))
        after = await numbers(served)
        assert after["store_commits"] - before["store_commits"] >= 20
        while after["store_commit_ms"] == before["store_commit_ms"]:  # some may take less than a millisecond together
            await served.broker.publish(queue("q"), Message(body=b"x"))
            after = await numbers(served)
        assert after["store_commit_ms"] > before["store_commit_ms"]
        assert after["store_disk_free"] > 0


@tx()
async def test_a_login_that_fails_is_counted(tmp_path: Path) -> None:
    users = write(tmp_path / "users.toml", {"alice": entry()})
    async with serving(users=str(users)) as served:
        http = Http(served.http)
        try:
            for secret in ("Basic YWxpY2U6d3Jvbmc=", "Bearer nonsense"):
                status, _, _ = await deferToThread(http.ask, "GET", "/channels", None, {"Authorization": secret})
                assert status == 401
        finally:
            http.close()
        assert (await numbers(served))["logins_failed"] == 2
