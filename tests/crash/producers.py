"""Producers: each is a thread's work, with connections of its own and a few messages under way."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.crash.clients import Http, Memcache, Ports, Stomp, frame
from tests.crash.ledger import Ledger
from tests.crash.places import DELAY, ONE, TWO, Post

#: Sends, and unsettled deliveries, that a client has under way.
UNDER_WAY = 4
#: Where a front's producer sends; those a consumer of every front empties more often.
BY_ALL = (*("one", "two", "three") * 3, "deep", "later", "fleeting", "newest", "oldest", "volatile", "spread", ONE)
BY_MEMCACHE = (*BY_ALL, "bounded", "sole")
BY_HTTP = (*BY_ALL, "bounded", "ranked", TWO)
#: A publish to a full queue ends a STOMP session: what may be refused does not come from here.
BY_STOMP = (*BY_ALL, "ranked", "grouped", "grouped", "fragile", "fragile", "sole", "patient", TWO)


def _posts(producer: str, targets: tuple[str, ...], ledger: Ledger, chance: random.Random) -> Iterator[list[Post]]:
    while True:
        yield [ledger.sending(producer, chance.choice(targets)) for _ in range(chance.randint(1, UNDER_WAY))]


def by_memcache(ports: Ports, ledger: Ledger, chance: random.Random) -> None:
    """Several sets in one write."""
    with Memcache(ports.memcache) as client:
        for posts in _posts("memcache", BY_MEMCACHE, ledger, chance):
            client.sets([(post.target, post.body()) for post in posts])
            for post in posts:
                if client.stored(may_be_full=post.target == "bounded"):
                    ledger.confirmed(post)
                else:
                    ledger.refused(post)


def by_http(ports: Ports, ledger: Ledger, chance: random.Random) -> None:
    """One request after the other."""
    with Http(ports.http) as client:
        for posts in _posts("http", BY_HTTP, ledger, chance):
            for post in posts:
                topic = post.target.removeprefix("/topic/")
                path = f"channels/{topic}" if topic == post.target else f"topics/{topic}"
                answer = client.ask("POST", f"/{path}?priority={post.rank}", 202, 507, body=post.body())
                if answer.status == 507 and post.target != "bounded":
                    raise AssertionError(f"{post.target} is full")
                (ledger.confirmed if answer.status == 202 else ledger.refused)(post)


def by_stomp(ports: Ports, ledger: Ledger, chance: random.Random) -> None:
    """Several SENDs in one write, each with its receipt."""
    with Stomp(ports.stomp) as client:
        for posts in _posts("stomp", BY_STOMP, ledger, chance):
            _send(client, ledger, posts)


def with_keys(ports: Ports, ledger: Ledger, chance: random.Random) -> None:
    """First what is not known to be stored is sent again; some are sent twice, at once or later."""
    sent: list[Post] = list(ledger.unsure)
    with Stomp(ports.stomp) as client:
        for post in sent:
            ledger.sending_again(post)
            _send(client, ledger, [post])
        while True:
            posts = [ledger.sending("keys", "keyed") for _ in range(chance.randint(1, UNDER_WAY))]
            sent = [*sent[-50:], *posts]
            again = [chance.choice(sent)] if chance.random() < 0.5 else []
            _send(client, ledger, [*posts, *again, *(posts[:1] if chance.random() < 0.3 else [])])


def _send(client: Stomp, ledger: Ledger, posts: list[Post]) -> None:
    client.send(b"".join(send(post, receipt=number) for number, post in enumerate(posts)))
    for number, post in enumerate(posts):
        assert client.next("RECEIPT").headers["receipt-id"] == str(number)
        ledger.confirmed(post)


def send(post: Post, **headers: str | int) -> bytes:
    """The SEND of a post."""
    headers |= {"destination": post.target, "priority": 4 - post.rank}
    if post.group:
        headers["JMSXGroupID"] = post.group
    if post.key:
        headers["dedup_id"] = post.key
    if post.target == "later" and post.number % 2:
        headers["x_delay"] = DELAY // 2
    return frame("SEND", post.body(), **headers)
