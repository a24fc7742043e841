"""The ``broker`` command, run as a process against a broker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.client import BadUrl, Client
from tests.support import Twistd

#: Every byte there is, with what ends a line, a frame or a body in the three protocols.
BYTES = bytes(range(256)) + b"\r\nEND\r\n\0"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Twistd(tmp_path_factory.mktemp("data"), "--data=:memory:") as twistd:
        yield f"http://127.0.0.1:{twistd.ports()['HTTP']}"


def run(
    url: str, *arguments: str | bytes, given: bytes = b"", status: int = 0, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    """Run ``broker`` with these arguments; it must end with `status`."""
    command = [sys.executable, "-c", "import sys; from broker.cli import main; sys.exit(main())", *arguments]
    done = subprocess.run(
        command,
        input=given,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "BROKER_URL": url},
        timeout=Twistd.PATIENCE,
    )
    assert done.returncode == status, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def test_what_is_published_is_got_once(url: str) -> None:
    number = run(url, "publish", "once", "hello").stdout
    assert int(number) > 0
    assert run(url, "get", "once").stdout == b"hello"
    assert run(url, "get", "once", status=1).stdout == b""


@pytest.mark.parametrize("how", [["-"], []])
def test_every_byte_passes_through_standard_input_and_output(url: str, how: list[str]) -> None:
    run(url, "publish", "bytes", *how, given=BYTES)
    assert run(url, "get", "bytes").stdout == BYTES


def test_an_argument_that_is_not_utf8_is_sent_as_it_is(url: str) -> None:
    run(url, "publish", "latin", b"caf\xe9")
    assert run(url, "get", "latin").stdout == b"caf\xe9"


@pytest.mark.parametrize("name", ["a/b", "günther", "a b", "50%", "orders+audit", "?nowait"])
def test_a_name_means_the_queue_of_that_name(url: str, name: str) -> None:
    run(url, "publish", name, name)
    assert run(url, "get", name).stdout.decode() == name


def test_count_takes_that_many_each_on_its_line(url: str) -> None:
    for body in ("one", "two", "three"):
        run(url, "publish", "several", body)
    assert run(url, "get", "several", "--count", "2").stdout == b"one\ntwo\n"
    assert run(url, "get", "several", "--count", "2").stdout == b"three\n"
    run(url, "get", "several", "--count", "2", status=1)


def test_json_is_a_line_per_message_whatever_its_bytes(url: str) -> None:
    number = json.loads(run(url, "publish", "json", "grün", "--json").stdout)["id"]
    run(url, "publish", "json", "--content-type", "image/png", given=b"\x89PNG\n\xff")
    first, second = map(json.loads, run(url, "get", "json", "--count=9", "--json").stdout.splitlines())
    assert first == {"id": number, "content_type": "text/plain; charset=utf-8", "delivered": 1, "body": "grün"}
    assert second["content_type"] == "image/png"
    assert second["body_base64"] == "iVBORwr/"


def test_wait_gets_what_comes_later(url: str) -> None:
    waiting: list[bytes] = []
    getter = threading.Thread(target=lambda: waiting.append(run(url, "get", "later", "--wait", "20").stdout))
    getter.start()
    run(url, "publish", "later", "at last")
    getter.join(Twistd.PATIENCE)
    assert waiting == [b"at last"]


def test_wait_ends_when_nothing_comes(url: str) -> None:
    run(url, "get", "never", "--wait", "1", status=1)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fetch", "q"],
        ["get"],
        ["get", "q", "--count", "0"],
        ["get", "q", "--wait", "soon"],
        ["get", "q", "--url", "127.0.0.1:8989"],
        ["get", "q", "--url", "http://127.0.0.1:port"],
        ["get", "q", "--url", "ftp://127.0.0.1"],
    ],
)
def test_wrong_usage_is_status_2(url: str, arguments: list[str]) -> None:
    assert b"usage: broker" in run(url, *arguments, status=2).stderr


def test_a_refusal_is_status_3_and_in_the_brokers_words(url: str) -> None:
    assert run(url, "publish", "q", "", status=3).stderr.startswith(b"broker: refused: 400 ")
    assert run(url, "publish", "n" * 251, "x", status=3).stderr.startswith(b"broker: refused: 400 ")
    assert run(url, "publish", "q", "-", given=b"x" * 256_001, status=3).stderr.startswith(b"broker: refused: 4")


def test_nobody_there_is_status_4() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # ours, but nobody listens
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert run(nobody, "get", "q", status=4).stderr == b"broker: cannot reach %s: Connection refused\n" % (
            nobody.encode()
        )


def test_somebody_else_there_is_status_4() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        greeter = threading.Thread(target=greet)
        greeter.start()
        somebody = f"http://127.0.0.1:{other.getsockname()[1]}"
        assert run(somebody, "get", "q", status=4).stderr.startswith(b"broker: cannot reach ")
        greeter.join(Twistd.PATIENCE)


def test_a_message_that_could_not_be_written_out_stays(url: str) -> None:
    run(url, "publish", "full", "keep me")
    with open("/dev/full", "wb") as full:
        stopped = run(url, "get", "full", status=5, stdout=full.fileno())
    assert stopped.stderr == b"broker: cannot write: No space left on device\n"
    client = Client(url)
    client._request("GET", "/channels/full/stats")
    assert json.loads(client._request("GET", "/channels/full/stats")[2]) == {"ready": 0, "hidden": 1}
    client.close()


def test_a_url_may_have_a_path_a_proxy_took_off(tmp_path: Path) -> None:
    assert Client("https://broker.example/queues/")._prefix == "/queues"
    with pytest.raises(BadUrl):
        Client("https://broker.example/?a=b")
