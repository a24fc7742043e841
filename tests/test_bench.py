"""``broker bench``: what it says and understands, byte by byte; and whole runs against a broker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from broker.cli import main
from broker.cli.bench import _at
from broker.cli.speech import Event, Http, Memcache, Refusal, Speaker, Stomp
from tests.support import Twistd
from tests.test_cli import run

FRONTS = ["memcache", "stomp", "http"]
BODY = b"\0a\r\nEND\r\n\n\n"


def memcache() -> tuple[Speaker, bytes]:
    speaker = Memcache("q", BODY, None)
    speaker.put()
    speaker.take()
    speaker.take()
    assert speaker.out == b"set q 0 0 %d\r\n%b\r\n" % (len(BODY), BODY) + b"get q\r\n" * 2
    return speaker, b"STORED\r\nVALUE q 0 %d\r\n%b\r\nEND\r\nEND\r\n" % (len(BODY), BODY)


def stomp() -> tuple[Speaker, bytes]:
    speaker = Stomp("q", BODY, None, prefetch=3)
    speaker.put()
    message = b"MESSAGE\nack:7\ncontent-length:%d\n\n%b\0\n" % (len(BODY), BODY)
    receipts = b"".join(b"RECEIPT\nreceipt-id:%b\n\n\0\n\n" % name for name in (b"s", b"p"))
    return speaker, b"CONNECTED\nversion:1.2\n\n\0\n" + receipts + message + b"RECEIPT\nreceipt-id:a\n\n\0"


def http() -> tuple[Speaker, bytes]:
    speaker = Http("q", BODY, "", "localhost")
    speaker.put()
    speaker.take()
    taken = b"HTTP/1.1 200 OK\r\nX-Linger-Msg-Id: 5\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    return speaker, b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}" + taken + b"HTTP/1.1 204 Gone\r\n\r\n"


@pytest.mark.parametrize("make", [memcache, stomp, http])
def test_answers_mean_the_same_byte_by_byte_and_at_once(make: Callable[[], tuple[Speaker, bytes]]) -> None:
    speaker, answers = make()
    at_once = list(speaker.feed(answers))
    other, _ = make()
    assert [event for byte in answers for event in other.feed(bytes([byte]))] == at_once
    assert other.out == speaker.out
    assert Event.READY in at_once
    assert at_once.index(Event.PUT) < at_once.index(Event.TAKEN)


@pytest.mark.parametrize(
    ("speaker", "answer", "why"),
    [
        (Memcache("q", b"", None), b"SERVER_ERROR full\r\n", "SERVER_ERROR full"),
        (Stomp("q", b"", None, 0), b"ERROR\nmessage:no\n\nmore\0", "no: more"),
        (Stomp("q", b"", ("a:b", "c"), 0), b"ERROR\nmessage:no\n\n\0", "no"),
    ],
)
def test_what_the_broker_refuses_ends_it_with_its_words(speaker: Speaker, answer: bytes, why: str) -> None:
    with pytest.raises(Refusal, match=why):
        list(speaker.feed(answer))


def test_the_last_of_a_thousand_is_the_maximum() -> None:
    assert (_at(range(1000), 0.5), _at(range(1000), 0.999), _at(range(1000), 1.0)) == (500, 999, 999)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    with Twistd(tmp_path_factory.mktemp("data"), "--data=:memory:") as twistd:
        yield {name.lower(): port for name, port in twistd.ports().items()}


def bench(ports: dict[str, int], front: str, *options: str, status: int = 0) -> Any:
    address = f"127.0.0.1:{ports[front]}"
    said = run("", "bench", front, address, "--json", "--seconds", "20", *options, status=status).stdout
    return json.loads(said) if said else None


@pytest.mark.parametrize("outstanding", ["1", "7"])
@pytest.mark.parametrize("front", FRONTS)
def test_what_it_publishes_it_takes_again(ports: dict[str, int], front: str, outstanding: str) -> None:
    said = bench(ports, front, "--count", "200", "--outstanding", outstanding, "--connections", "3")
    assert [said[work]["messages"] for work in ("put", "take")] == [200, 200]
    assert said["left"] == 0
    assert 0 < said["put"]["p50_ms"] <= said["put"]["p99_ms"] <= said["put"]["max_ms"]
    assert bench(ports, "http", "--only", "take", status=1)["left"] == 0


@pytest.mark.parametrize("front", FRONTS)
def test_what_is_only_put_waits_for_one_that_only_takes(
    ports: dict[str, int], front: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put = bench(ports, "stomp", "--only", "put", "--count", "50", "--queue", "left", "--size", "1234")
    assert put["put"]["messages"] == 50
    assert "take" not in put
    # Over STOMP silence is the end, and a busy broker may be silent for a second before all has come: not here.
    monkeypatch.setattr("broker.cli.bench.QUIET", float(Twistd.PATIENCE))
    bound = ["--count", "50"] if front == "stomp" else []
    take = ["bench", front, f"127.0.0.1:{ports[front]}", "--json", "--only", "take", "--queue", "left", *bound]
    capsys.readouterr()
    assert main([*take, "--seconds", str(Twistd.PATIENCE), "--outstanding", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["take"]["messages"] == 50
    assert "take" not in bench(ports, "http", "--only", "take", "--queue", "left", status=1)


def test_over_stomp_silence_is_the_end(ports: dict[str, int]) -> None:
    assert "take" not in bench(ports, "stomp", "--only", "take", "--queue", "nothing", status=1)


def test_the_table_says_rates_and_what_it_used_itself(ports: dict[str, int]) -> None:
    address = f"127.0.0.1:{ports['memcache']}"
    lines = run("", "bench", "memcache", address, "--count", "20").stdout.decode().splitlines()
    assert lines[0].startswith(f"memcache at {address}: 10 connections, 1 under way on each, bodies of 100 bytes, ")
    assert [line.split()[:2] for line in lines[1:3]] == [["put", "20"], ["take", "20"]]
    assert lines[3].startswith("this command used ")


def test_it_says_what_is_wrong(ports: dict[str, int]) -> None:
    assert b"is not HOST:PORT" in run("", "bench", "http", "here", status=2).stderr
    assert b"cannot reach 127.0.0.1:1:" in run("", "bench", "stomp", "127.0.0.1:1", status=4).stderr
    assert b"cannot be a key" in run("", "bench", "memcache", "127.0.0.1:1", "--queue", "a b", status=3).stderr
    http_port = f"127.0.0.1:{ports['http']}"
    assert b"refused" in run("", "bench", "memcache", http_port, "--count", "1", status=3).stderr
