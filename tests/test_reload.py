"""Reading users, policies and aliases again while the broker runs, whoever asks for it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from broker.config import load
from broker.errors import ConfigError, NothingToReload
from broker.reload import MAX_NAMED, Reloading
from broker.storage.memory import MemoryStore
from tests.auth.support import PASSWORD, Log, entry, everything, write
from tests.auth.test_service import ask, basic, talk
from tests.support import Served, Twistd, flush_logged_errors, serving, tx


def configured(served: Served, path: Path, text: str) -> Reloading:
    """The broker as if `path`, with this text, had been its configuration from the start."""
    path.write_text(text)
    reloading = served.service.reloading
    reloading.configure(load(str(path)), lambda: load(str(path)))
    return reloading


async def asked(served: Served, **headers: str) -> tuple[int, bytes]:
    """What HTTP answers to ``POST /reload``."""
    return await deferToThread(ask, served.http, "POST", "/reload", b"", Accept="application/json", **headers)


@tx()
async def test_new_rules_hold_and_the_answer_says_which_keys_are_new(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    async with serving() as served:
        configured(served, path, "stomp = [0]\n[defaults]\nlease = 5\n[queue.'a*']\npaused = true")
        path.write_text(
            "stomp = [1]\n[defaults]\nlease = 6\nmax_message_size = 7\n[queue.b]\npaused = true\n"
            "[topic.t]\nretain = 8\n[aliases]\nall = ['a', 'b']"
        )
        with Log() as log:
            status, body = await asked(served)
        assert (status, body) == (
            200,
            b'{"queues":1,"topics":1,"aliases":1,"users":null,"changed":["aliases.\\"all\\"","defaults.lease",'
            b'"defaults.max_message_size","queue.\\"a*\\".paused","queue.\\"b\\".paused","topic.\\"t\\".retain"],'
            b'"changed_at_next_start":["stomp","max_message_size"]}',
        )
        assert served.broker.policy.lease == 6
        for line in (
            "anonymous over HTTP: defaults.lease is 6, and was 5",
            'anonymous over HTTP: queue."a*".paused is not said, and was true',
            'anonymous over HTTP: aliases."all" is ["a","b"], and was not said',
            "anonymous over HTTP: stomp has changed; that takes effect at the next start",
        ):
            assert line in log.text, line


@tx()
async def test_what_waits_for_the_next_start_is_named_until_then(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    async with serving() as served:
        reloading = configured(served, path, "sync = 'full'")
        path.write_text("sync = 'normal'\n[defaults]\nlease = 5")
        for changed in (["defaults.lease"], []):
            result = await reloading.reload("test")
            assert (result.changed, result.changed_at_next_start) == (changed, ["sync"])


@tx()
async def test_a_mistake_in_either_file_changes_nothing_of_both(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    file = write(tmp_path / "users.toml", {"alice": entry(**everything())})
    async with serving(users=str(file), log_level="info") as served:
        configured(served, path, "[defaults]\nlease = 5")
        alice = basic("alice", PASSWORD)

        async def unchanged(reason: str) -> None:
            with Log() as log:
                status, body = await asked(served, Authorization=alice)
            assert status == 422
            assert reason.encode() in body
            assert b'"type":"/problems/bad-configuration"' in body
            assert f"alice over HTTP: everything stays as it was: {reason}" in log.text
            assert served.broker.policy.lease == 30_000  # as it was started
            carol = await deferToThread(ask, served.http, "GET", "/", Authorization=basic("carol", PASSWORD))
            assert carol[0] == 401

        write(file, {"alice": entry(**everything()), "carol": entry(**everything())})
        path.write_text("[defaults]\nleese = 5")
        await unchanged(f"{path}: defaults.leese: unknown key")
        file.write_text("[user.alice]\nrights = 5\n")
        path.write_text("[defaults]\nlease = 7")
        await unchanged(f"{file}: user.alice.rights: expected `object`")
        write(file, {"alice": entry(**everything()), "carol": entry(**everything())})
        status, body = await asked(served, Authorization=alice)
        assert status == 200
        assert b'"users":2' in body
        assert served.broker.policy.lease == 7


@tx()
async def test_memcache_reloads_or_says_why_not(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    async with serving() as served:
        answer = await deferToThread(talk, served.memcache, b"reload\r\n")
        assert answer == b"SERVER_ERROR nothing to reload: there is no configuration, users file or certificate\r\n"
        configured(served, path, "[defaults]\nlease = 5")
        path.write_text("[defaults]\nlease = 7")
        # all that is sent behind it is done when it is over
        assert await deferToThread(talk, served.memcache, b"RELOAD\r\nset q 0 0 1\r\nx\r\n") == b"OK\r\nSTORED\r\n"
        assert served.broker.policy.lease == 7
        path.write_text("[defaults]\nlease = 'long'")
        answer = await deferToThread(talk, served.memcache, b"reload\r\n")
        assert answer == b"SERVER_ERROR %s: defaults.lease: expected `int`, got `str`\r\n" % str(path).encode()
        assert served.broker.policy.lease == 7


@tx()
async def test_where_no_file_is_there_is_nothing_to_reload() -> None:
    async with serving() as served:
        status, body = await asked(served)
        assert status == 409
        assert b"/problems/nothing-to-reload" in body


@tx()
async def test_only_who_may_administer_everything_may_reload(tmp_path: Path) -> None:
    file = write(tmp_path / "users.toml", {"bob": entry(admin="queue:*", publish="*", create="*")})
    async with serving(users=str(file)) as served:
        assert (await asked(served, Authorization=basic("bob", PASSWORD)))[0] == 403
        assert (await asked(served))[0] == 401
        login = b"set login 0 0 %d\r\nbob %s\r\n" % (len(PASSWORD) + 4, PASSWORD.encode())
        assert await deferToThread(talk, served.memcache, login + b"reload\r\n") == (
            b"STORED\r\nCLIENT_ERROR not allowed: user bob has no right to administer the whole broker\r\n"
        )


@tx()
async def test_one_reload_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text("")
    begun, gate = threading.Semaphore(0), threading.Event()
    steps: list[str] = []
    async with serving() as served:
        reloading = served.service.reloading
        config = load(str(path))

        def read() -> object:
            steps.append("begins")
            begun.release()
            assert gate.wait(Twistd.PATIENCE)
            steps.append("ends")
            return config

        reloading.configure(config, read)  # type: ignore[arg-type]
        under_way = [Deferred.fromCoroutine(reloading.reload(who)) for who in ("one", "other")]
        assert await deferToThread(begun.acquire, timeout=Twistd.PATIENCE)
        await deferToThread(int)  # a second reader would have begun before this
        assert steps == ["begins"]
        gate.set()
        for each in under_way:
            await each
    assert steps == ["begins", "ends", "begins", "ends"]


@tx()
async def test_after_a_mistake_the_next_reload_has_its_turn(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    async with serving() as served:
        reloading = configured(served, path, "")
        path.unlink()
        with pytest.raises(ConfigError, match="cannot read"):
            await reloading.reload("test")
        path.write_text("[defaults]\nlease = 9")
        assert (await reloading.reload("test")).changed == ["defaults.lease"]


@tx()
async def test_the_log_names_so_many_keys_and_counts_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    async with serving() as served:
        reloading = configured(served, path, "")
        path.write_text("".join(f"[queue.q{number}]\nttl = 5\n" for number in range(MAX_NAMED + 7)))
        with Log() as log:
            await reloading.reload("test")
        assert sum("is 5, and was not said" in str(event) for event in map(_shown, log.events)) == MAX_NAMED
        assert "test: 7 keys more have changed" in log.text


def _shown(event: dict[str, object]) -> str:
    return str(event["log_format"]).format(**event) if event.get("log_format") else ""


@tx()
async def test_sighup_fails_nobody(tmp_path: Path) -> None:
    async with serving(MemoryStore()) as served:
        with Log() as log:
            await served.service.reloading.hang_up()
        assert f"SIGHUP: {NothingToReload().reason}" in log.text
        reloading = configured(served, tmp_path / "broker.toml", "")
        reloading.configure(load(str(tmp_path / "broker.toml")), lambda: 1 // 0)  # type: ignore[arg-type, return-value]
        await reloading.hang_up()
        assert len(flush_logged_errors(ZeroDivisionError)) == 1
        assert served.broker.policy.lease == 30_000
