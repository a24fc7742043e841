"""What one protocol puts in, another takes out: all nine pairs, with clients others wrote, against a data file."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator, Mapping

import pytest

from tests.clients.support import Http, Speaker, speakers
from tests.support import Twistd

PROTOCOLS = ("memcache", "STOMP", "HTTP")
PAIRS = list(itertools.product(PROTOCOLS, PROTOCOLS))

BODIES = {
    "one byte": b"1",
    "250,000 bytes": bytes(range(250)) * 1000,
    "every byte value": bytes(range(256)),
    "line ends and ENDs": b"\r\nEND\r\n\r\n\0\nSTORED\r\nVALUE q 0 1\r\n\0\0MESSAGE\n\n0\r\n\r\n\r",
}
#: HTTP takes none that is empty, and without configuration none above 256,000 bytes (Linger).
FURTHER_BODIES = {"empty": b"", "1 MiB": b"\r\nEND\r\n\0" * (2**20 // 8)}

#: What each producer says of its message, in its protocol's own words.
SAID: dict[str, dict[str, str]] = {
    "memcache": {"flags": "7"},
    "STOMP": {
        "content-type": "text/x-poem",
        "priority": "6",
        "memcache-flags": "7",
        "colour": "blue: dark",
        "ce-id": "o-17",
        "two words": "no name in HTTP",
    },
    "HTTP": {
        "?": "?priority=-2",
        "Content-Type": "text/x-poem",
        "X-Message-Colour": "blue: dark",
        "ce-id": "o-17",
        "X-Other": "not kept",
    },
}

#: What each consumer is told of it.
TOLD: dict[tuple[str, str], dict[str, str]] = {
    ("memcache", "memcache"): {"flags": "7"},
    ("memcache", "STOMP"): {"content-type": "application/octet-stream", "priority": "4", "memcache-flags": "7"},
    ("memcache", "HTTP"): {"content-type": "application/octet-stream", "x-linger-priority": "0"},
    ("STOMP", "memcache"): {"flags": "7"},
    ("STOMP", "STOMP"): SAID["STOMP"],
    ("STOMP", "HTTP"): {
        "content-type": "text/x-poem",
        "x-linger-priority": "-2",
        "x-message-colour": "blue: dark",
        "ce-id": "o-17",
    },
    ("HTTP", "memcache"): {"flags": "0"},
    ("HTTP", "STOMP"): {"content-type": "text/x-poem", "priority": "6", "colour": "blue: dark", "ce-id": "o-17"},
    ("HTTP", "HTTP"): {
        "content-type": "text/x-poem",
        "x-linger-priority": "-2",
        "x-message-colour": "blue: dark",
        "ce-id": "o-17",
    },
}

#: What the protocols say of every message.
OF_THE_PROTOCOL = {
    "memcache": set[str](),
    "STOMP": {"destination", "message-id", "subscription", "ack", "timestamp", "expires", "content-length"}
    | {"redelivered", "delivery-count"},
    "HTTP": {"server", "date", "content-length"}
    | {f"x-linger-{name}" for name in ("channel", "msg-id", "timeout", "deliver", "delivered", "received")}
    | {"x-linger-linger", "x-linger-topic", "x-linger-lease", "ce-specversion", "ce-source", "ce-type", "ce-time"},
}
#: The event id that a message has of us, where its producer gave it none.
_OURS = re.compile(r"[0-9]+\.[0-9]+")


def metadata(protocol: str, said: Mapping[str, str]) -> dict[str, str]:
    """What is said of this very message, in small letters."""
    told = {name: value for name, value in said.items() if name not in OF_THE_PROTOCOL[protocol]}
    if _OURS.fullmatch(told.get("ce-id", "")):
        del told["ce-id"]  # every event has one
    return told


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Speaker]]:
    """A client of each protocol, at a broker with a data file; its log must be clean in the end."""
    with Twistd(tmp_path_factory.mktemp("pairs"), "--data=broker.sqlite", "--sync=normal") as broker:
        with speakers(broker.ports()) as made:
            yield made
        broker.process.terminate()
        broker.wait()
        assert "#info] stopped" in broker.said
        for bad in "#warn]", "#error]", "#critical]", "Traceback":
            assert bad not in broker.said


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(("source", "sink"), PAIRS)
def test_a_body(clients: dict[str, Speaker], source: str, sink: str, body: bytes) -> None:
    clients[source].put("bodies", body)
    assert clients[sink].take("bodies").body == body


@pytest.mark.parametrize("body", FURTHER_BODIES.values(), ids=FURTHER_BODIES)
@pytest.mark.parametrize(("source", "sink"), [pair for pair in PAIRS if pair[0] != "HTTP"])
def test_a_body_that_http_does_not_take(clients: dict[str, Speaker], source: str, sink: str, body: bytes) -> None:
    clients[source].put("bodies", body)
    assert clients[sink].take("bodies").body == body


@pytest.mark.parametrize(("source", "sink"), PAIRS)
def test_what_is_said_of_a_message(clients: dict[str, Speaker], source: str, sink: str) -> None:
    clients[source].put("told", b"body", SAID[source])
    taken = clients[sink].take("told")
    assert metadata(sink, taken.said) == TOLD[source, sink]


#: An hour to live, in each protocol's words.
AN_HOUR = {"memcache": {"exptime": "3600"}, "STOMP": {"expiration": "3600000"}, "HTTP": {"?": "?linger=3600"}}


@pytest.mark.parametrize("source", PROTOCOLS)
def test_the_time_a_message_lives(clients: dict[str, Speaker], source: str) -> None:
    began = time.time()
    for _ in range(2):
        clients[source].put("mortal", b"body", AN_HOUR[source])
    assert clients["HTTP"].take("mortal").said["x-linger-linger"] == "3600"
    expires = int(clients["STOMP"].take("mortal").said["expires"]) / 1000
    assert 3599 < expires - began < 3600 + 60


@pytest.mark.parametrize("source", PROTOCOLS)
def test_a_message_that_is_over_reaches_nobody(clients: dict[str, Speaker], source: str) -> None:
    over = {"memcache": {"exptime": "-1"}, "STOMP": {"expires": "1"}}
    if source in over:
        clients[source].put("dead", b"over", over[source])
    clients[source].put("dead", b"alive")
    assert clients["HTTP"].take("dead").body == b"alive"


@pytest.mark.parametrize(("source", "sink"), PAIRS)
def test_by_way_of_a_topic(clients: dict[str, Speaker], source: str, sink: str) -> None:
    http = clients["HTTP"]
    assert isinstance(http, Http)
    for reader in "audit", "billing":
        assert http.ask("PUT", f"/channels/{reader}/topics/news", b"")[0] == 204
    clients[source].publish("news", b"extra, extra")
    for reader in "audit", "billing":
        assert clients[sink].take(reader).body == b"extra, extra"


#: pymemcache counts the options too: 244 and /close are its 250 bytes.
@pytest.mark.parametrize("name", ["a/b", "per cent%", "zwölf", "x" * 244], ids=["slash", "per cent", "umlaut", "long"])
@pytest.mark.parametrize(("source", "sink"), PAIRS)
def test_a_name(clients: dict[str, Speaker], source: str, sink: str, name: str) -> None:
    spelled = dict.fromkeys(PROTOCOLS, name)
    spelled["memcache"] = name.replace("%", "%25").replace(" ", "%20")
    clients[source].put(spelled[source], b"named")
    assert clients[sink].take(spelled[sink]).body == b"named"


@pytest.mark.parametrize("sink", PROTOCOLS)
def test_what_all_three_put_in_comes_out_in_order(clients: dict[str, Speaker], sink: str) -> None:
    bodies = [b"%d" % number for number in range(30)]
    for body, source in zip(bodies, itertools.cycle(PROTOCOLS), strict=False):
        clients[source].put("order", body)
    assert [clients[sink].take("order").body for _ in bodies] == bodies


def test_takers_of_all_three_share_a_queue_in_order(clients: dict[str, Speaker]) -> None:
    bodies = [b"%d" % number for number in range(30)]
    for body in bodies:
        clients["STOMP"].put("shared", body)
    takers = itertools.cycle(PROTOCOLS)
    assert [clients[next(takers)].take("shared").body for _ in bodies] == bodies
