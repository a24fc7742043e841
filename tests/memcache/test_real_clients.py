"""Clients that others wrote, each with all that they do with a queue, against one broker in a process of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Protocol

import aiomcache
import bmemcached
import memcache
import pytest
from bmemcached.exceptions import MemcachedException
from pymemcache import serde
from pymemcache.client.base import Client as Pymemcache

from broker.memcache.dialect import SPOKEN
from tests.support import Twistd

#: Seconds a client waits before its test fails; some take what comes later for a miss.
PATIENCE = 60

#: What each client's own serialisation must bring back as it was.
VALUES: list[Any] = [
    b"bytes",
    "text \u00fc",
    42,
    2**70,
    True,
    None,
    1.5,
    {"a": [1, (2,)], "b": {3}},
    b"x" * 100_000,
    "y" * 100_000,
    b"",
    b"\r\nEND\r\nVALUE a 0 1\r\n\x00",
]


class Asked(Protocol):
    """What every client can be asked for, under one name."""

    #: The values that it brings back as they were.
    values: list[Any]

    def set(self, key: str, value: Any) -> bool: ...
    def get(self, key: str) -> Any: ...
    def get_many(self, keys: list[str]) -> dict[str, Any]: ...
    def delete(self, key: str) -> bool: ...
    def incr(self, key: str) -> Any: ...
    def stats(self) -> dict[str, str]: ...
    def version(self) -> str: ...
    def flush_all(self) -> None: ...
    def close(self) -> None: ...


def _text(word: Any) -> str:
    return word.decode() if isinstance(word, bytes | bytearray) else str(word)


class ByPymemcache:
    """pymemcache, text."""

    values = VALUES

    def __init__(self, port: int) -> None:
        self._client: Any = Pymemcache(
            ("127.0.0.1", port), timeout=PATIENCE, default_noreply=False, serde=serde.pickle_serde
        )

    def set(self, key: str, value: Any) -> bool:
        return bool(self._client.set(key, value))

    def get(self, key: str) -> Any:
        return self._client.get(key)

    def get_many(self, keys: list[str]) -> dict[str, Any]:
        return dict(self._client.get_many(keys))

    def delete(self, key: str) -> bool:
        return bool(self._client.delete(key))

    def incr(self, key: str) -> Any:
        return self._client.incr(key, 1)

    def stats(self) -> dict[str, str]:
        return {_text(name): _text(value) for name, value in self._client.stats().items()}

    def version(self) -> str:
        return _text(self._client.version())

    def flush_all(self) -> None:
        assert self._client.flush_all() is True

    def close(self) -> None:
        self._client.close()


class ByPythonMemcached:
    """python-memcached, text."""

    values = [value for value in VALUES if value is not None]

    def __init__(self, port: int) -> None:
        self._client: Any = memcache.Client([f"127.0.0.1:{port}"], socket_timeout=PATIENCE)

    def set(self, key: str, value: Any) -> bool:
        return bool(self._client.set(key, value))

    def get(self, key: str) -> Any:
        return self._client.get(key)

    def get_many(self, keys: list[str]) -> dict[str, Any]:
        return dict(self._client.get_multi(keys))

    def delete(self, key: str) -> bool:
        # It answers the same for a miss; what the server said is in its own words.
        return bool(self._client.delete(key))

    def incr(self, key: str) -> Any:
        return self._client.incr(key)

    def stats(self) -> dict[str, str]:
        ((_, numbers),) = self._client.get_stats()
        return dict(numbers)

    def version(self) -> str:
        return SPOKEN  # it has no such command

    def flush_all(self) -> None:
        self._client.flush_all()

    def close(self) -> None:
        self._client.disconnect_all()


class ByPylibmc:
    """pylibmc, which is libmemcached: text."""

    values = [value for value in VALUES if value is not True]  # it stores that as 1
    binary = False

    def __init__(self, port: int) -> None:
        pylibmc: Any = importlib.import_module("pylibmc")
        behaviors = {"_poll_timeout": 1000 * PATIENCE, "connect_timeout": 1000 * PATIENCE}
        self._miss = pylibmc.NotFound
        self._client: Any = pylibmc.Client([f"127.0.0.1:{port}"], binary=self.binary, behaviors=behaviors)

    def set(self, key: str, value: Any) -> bool:
        return bool(self._client.set(key, value))

    def get(self, key: str) -> Any:
        return self._client.get(key)

    def get_many(self, keys: list[str]) -> dict[str, Any]:
        return dict(self._client.get_multi(keys))

    def delete(self, key: str) -> bool:
        return bool(self._client.delete(key))

    def incr(self, key: str) -> Any:
        try:
            return self._client.incr(key)
        except self._miss:
            return None

    def stats(self) -> dict[str, str]:
        ((_, numbers),) = self._client.get_stats()
        return {_text(name): _text(value) for name, value in numbers.items()}

    def version(self) -> str:
        return SPOKEN  # libmemcached asks for it by itself

    def flush_all(self) -> None:
        assert self._client.flush_all()

    def close(self) -> None:
        self._client.disconnect_all()


class ByPylibmcBinary(ByPylibmc):
    """pylibmc, binary."""

    binary = True


class ByBmemcached:
    """python-binary-memcached."""

    values = VALUES

    def __init__(self, port: int) -> None:
        self._client: Any = bmemcached.Client((f"127.0.0.1:{port}",), socket_timeout=PATIENCE)

    def set(self, key: str, value: Any) -> bool:
        return bool(self._client.set(key, value))

    def get(self, key: str) -> Any:
        return self._client.get(key)

    def get_many(self, keys: list[str]) -> dict[str, Any]:
        return dict(self._client.get_multi(keys))

    def delete(self, key: str) -> bool:
        return bool(self._client.delete(key))

    def incr(self, key: str) -> Any:
        try:
            return self._client.incr(key, 1)
        except MemcachedException:
            return None

    def stats(self) -> dict[str, str]:
        ((_, numbers),) = self._client.stats().items()
        return {_text(name): _text(value) for name, value in numbers.items()}

    def version(self) -> str:
        return SPOKEN  # it has no such command

    def flush_all(self) -> None:
        assert self._client.flush_all()

    def close(self) -> None:
        self._client.disconnect_all()


async def _set_flags(value: Any) -> tuple[bytes, int]:
    return pickle.dumps(value), 1


async def _get_flags(value: bytes, flags: int) -> Any:
    assert flags == 1
    return pickle.loads(value)


class ByAiomcache:
    """aiomcache, text; its flags are what its user makes of them."""

    values = VALUES

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._client: Any = aiomcache.FlagClient(
            "127.0.0.1", port, pool_size=1, get_flag_handler=_get_flags, set_flag_handler=_set_flags
        )

    def _do(self, asked: Any) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(asked, PATIENCE))

    def set(self, key: str, value: Any) -> bool:
        # bytes and None are its own, without a flag
        return bool(self._do(self._client.set(key.encode(), (value,))))

    def get(self, key: str) -> Any:
        found = self._do(self._client.get(key.encode()))
        return None if found is None else found[0]

    def get_many(self, keys: list[str]) -> dict[str, Any]:
        found = self._do(self._client.multi_get(*(key.encode() for key in keys)))
        return {key: value[0] for key, value in zip(keys, found, strict=True) if value is not None}

    def delete(self, key: str) -> bool:
        return bool(self._do(self._client.delete(key.encode())))

    def incr(self, key: str) -> Any:
        try:
            return self._do(self._client.incr(key.encode()))
        except aiomcache.ClientException:
            return None

    def stats(self) -> dict[str, str]:
        return {_text(name): _text(value) for name, value in self._do(self._client.stats()).items()}

    def version(self) -> str:
        return _text(self._do(self._client.version()))

    def flush_all(self) -> None:
        self._do(self._client.flush_all())

    def close(self) -> None:
        self._do(self._client.close())
        self._loop.close()


CLIENTS: list[Callable[[int], Asked]] = [
    ByPymemcache,
    ByPythonMemcached,
    ByBmemcached,
    ByAiomcache,
    # it has no wheel for every Python
    *([ByPylibmc, ByPylibmcBinary] if importlib.util.find_spec("pylibmc") else []),
]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with Twistd(tmp_path_factory.mktemp("broker"), "--data=:memory:") as twistd:
        yield twistd.ports()["memcache"]


@pytest.fixture(params=CLIENTS, ids=lambda client: client.__name__)
def client(request: pytest.FixtureRequest, port: int) -> Iterator[Asked]:
    with closing(request.param(port)) as asked:
        asked.flush_all()
        yield asked


def raw(port: int, data: bytes) -> bytes:
    """What a socket gets that sends this."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(data + b"quit\r\n")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_values_of_any_type_come_back_as_they_went_in(client: Asked) -> None:
    for value in client.values:
        assert client.set("values", value) is True
    for value in client.values:
        found = client.get("values")
        assert (type(found), found) == (type(value), value)
    assert client.get("values") is None


def test_reliable_reads(client: Asked) -> None:
    for value in "one", "two":
        assert client.set("work", value)
    assert client.get("work/open") == "one"
    assert client.get("work/close/open") == "two"
    assert client.get("work/abort") is None
    assert client.get("work/open") == "two"
    assert client.get("work/close") is None
    assert client.get("work") is None


def test_a_wait_within_the_client_s_own(client: Asked) -> None:
    assert client.get("work/t=200") is None
    assert client.set("work", "one")
    assert client.get("work/t=200") == "one"


def test_several_keys(client: Asked) -> None:
    assert client.set("a", 1)
    assert client.set("c", 3)
    assert client.get_many(["a", "b", "c"]) == {"a": 1, "c": 3}
    assert client.get_many(["a", "b", "c"]) == {}


def test_what_queues_do_not_do(client: Asked, port: int) -> None:
    assert client.incr("work") is None
    assert client.set("work", "one")
    assert client.incr("work") is None
    client.delete("work")
    client.delete("work")
    assert client.get("work") is None
    assert raw(port, b"delete work\r\n") == b"NOT_FOUND\r\n"


def test_numbers_and_the_version(client: Asked) -> None:
    assert client.set("work", "one")
    shown = client.stats()
    assert shown["curr_items"] == "1"
    assert shown.get("queue_work_items", "1") == "1"  # libmemcached shows what it knows of
    assert client.version() == SPOKEN
    client.flush_all()
    assert client.get("work") is None


def test_keys_of_250_and_251_bytes(client: Asked) -> None:
    assert client.set("k" * 250, "one")
    assert client.get("k" * 250) == "one"
    try:
        stored = client.set("k" * 251, "one")
    except Exception:  # each has its own
        stored = False
    assert not stored
    # pylibmc and bmemcached may need another connection now; both take one by themselves
    for _ in range(2):
        try:
            assert client.set("after", "one")
            break
        except Exception:
            continue
    assert client.get("after") == "one"


def test_a_client_that_goes_while_it_waits_loses_nothing(client: Asked, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as gone:
        gone.sendall(b"get work/t=60000\r\n")
        while b"queue_work_waiters 1" not in raw(port, b"stats\r\n"):
            pass
    while b"queue_work_waiters 0" not in raw(port, b"stats\r\n"):
        pass
    assert client.set("work", "one")
    assert client.get("work") == "one"


def test_ten_thousand_sets_without_a_reply_then_a_get(port: int) -> None:
    with closing(Pymemcache(("127.0.0.1", port), timeout=PATIENCE)) as one:
        one.flush_all(noreply=False)
        for number in range(10_000):
            one.set("flood", b"%d" % number)
        assert one.get("flood") == b"0"
        assert one.stats()[b"queue_flood_items"] == 9_999


def test_flags_are_seen_by_others_as_they_were_set(port: int) -> None:
    with closing(Pymemcache(("127.0.0.1", port), timeout=PATIENCE, default_noreply=False)) as one:
        one.set("flags", b"x", flags=0xDEADBEEF)
    assert raw(port, b"get flags\r\n") == b"VALUE flags %d 1\r\nx\r\nEND\r\n" % 0xDEADBEEF


def test_the_key_in_a_base64_of_a_meta_client(port: int) -> None:
    """What Dalli sends: ``version``, then meta commands only."""
    sent = b"version\r\nms w7w= 1 c b F1 T0 MS\r\nx\r\nmg w7w= v f k q s b\r\nmn\r\n"
    version, stored, *rest = raw(port, sent).split(b"\r\n")
    assert version == b"VERSION " + SPOKEN.encode()
    assert stored.startswith(b"HD c")
    assert rest == [b"VA 1 f1 kw7w= b s1", b"x", b"MN", b""]
