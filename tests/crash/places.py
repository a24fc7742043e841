"""The queues and topics of the crash tests: at least one under every policy, and what each promises.

What a producer sent is a `Post`; what one queue has of it is a `Copy`. A copy's *home* is the queue that got it from
its producer; the home's policy may move it to one other, its *exit*.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import attrs

#: Milliseconds of a loan over HTTP: longer than a load takes, so that few end before the kill; every check waits for
#: the rest of it.
LEASE = 1000
#: Milliseconds a message is delayed, by policy and (at most) by its sender.
DELAY = 400
#: Messages a bounded queue takes.
LIMIT = 30
#: Messages of the grouped queue on loan at a time.
ON_LOAN = 6
#: Failed deliveries after which a fragile message is given up.
ATTEMPTS = 2


@attrs.frozen
class Place:
    """A queue that gets messages from producers."""

    name: str
    #: Its policy.
    says: dict[str, Any] = attrs.field(factory=dict)
    #: The queue its policy moves messages to.
    exit: str = ""
    #: What of the confirmed and not settled stays: all, the last `LIMIT`, the first `LIMIT`, nothing after a crash.
    keeps: Literal["all", "newest", "oldest", "nothing"] = "all"
    #: It is emptied after every so many restarts.
    every: int = 1
    #: Messages come in order of their rank, then in the order of their producer.
    ranked: bool = False
    #: Messages of a group come in order, to one consumer at a time.
    grouped: bool = False
    #: What comes first depends on more than the order in which it was sent.
    unordered: bool = False

    @property
    def queues(self) -> tuple[str, ...]:
        """Where its messages may be."""
        return (self.name, self.exit) if self.exit else (self.name,)


PLACES = {
    place.name: place
    for place in (
        Place("one"),
        Place("two", {"retain": 600_000}),
        Place("three", {"scheduler": "favour_reliable"}),
        Place("moved"),
        Place("deep", every=5),
        Place("ranked", ranked=True),
        Place("grouped", {"groups": True, "max_on_loan": ON_LOAN}, grouped=True),
        Place("sole", {"exclusive": True}),
        Place("fragile", {"max_attempts": ATTEMPTS, "backoff": [50, 100], "dead_letter": "dead"}, exit="dead"),
        Place("fleeting", {"ttl": 50, "expire_to": "expired"}, exit="expired"),
        Place("later", {"delay": DELAY}, unordered=True),
        Place("bounded", {"max_messages": LIMIT // 10}),
        Place("patient", {"max_messages": LIMIT, "overflow": "wait"}),
        Place("newest", {"max_messages": LIMIT, "overflow": "drop_oldest"}, keeps="newest"),
        Place("oldest", {"max_messages": LIMIT, "overflow": "drop_new"}, keeps="oldest"),
        Place("volatile", {"durable": False}, keeps="nothing"),
        Place("keyed", {"dedup_window": 3_600_000}),
        Place("spread+a"),
        Place("spread+b"),
        Place("news"),
        Place("news-one"),
        Place("news-odd"),
    )
}
#: The place that a queue belongs to.
OF_QUEUE = {queue: place for place in PLACES.values() for queue in place.queues}

#: The broker's configuration, as far as it speaks of queues and topics.
CONFIGURATION: dict[str, Any] = {
    "defaults": {"lease": LEASE, "max_open": 2},
    "queue": {"spread": {"fanout_only": True}} | {place.name: place.says for place in PLACES.values() if place.says},
    "topic": {"news.*": {"retain": 600_000}},
}
#: Bindings, as queue, topic and filter.
BINDINGS = (
    ("news", "news.#", ""),
    ("news-one", "news.one", ""),
    ("news-odd", "news.one", 'body like "% odd %"'),
)
#: Queues that read another by their name, from their first use on.
CHILDREN = ("spread+a", "spread+b")
ONE, TWO = "/topic/news.one", "/topic/news.two"


class Post(NamedTuple):
    """What was sent once. `number` goes up by one with each of this producer to this target."""

    producer: str
    #: A queue's name, or ``/topic/...``.
    target: str
    number: int

    def body(self) -> bytes:
        """The body, which names it: some 20 to 300 bytes, and 20 kB in every fiftieth."""
        filling = b"%d," % self.number
        head = f"{self.producer} {self.target} {self.number} {'odd' if self.number % 2 else 'even'} \n"
        return head.encode() + filling * (4000 if self.number % 50 == 49 else self.number % 7 * 10)

    @classmethod
    def of(cls, body: bytes) -> Post:
        """What a body names; `ValueError` if it is not the body that was sent."""
        producer, target, number, _, _ = body.partition(b"\n")[0].decode().split(" ")
        post = cls(producer, target, int(number))
        if body != post.body():
            raise ValueError(f"the body of {post} is damaged")
        return post

    @property
    def rank(self) -> int:
        """Its priority, lower first."""
        return self.number % 3 if self.target == "ranked" else 0

    @property
    def group(self) -> str:
        """Its message group; empty: none."""
        return f"{self.producer}-{self.number % 2}" if self.target == "grouped" else ""

    @property
    def key(self) -> str:
        """Its key against doubles; empty: none."""
        return f"{self.producer}-{self.number}" if self.target == "keyed" else ""

    @property
    def homes(self) -> tuple[str, ...]:
        """The queues that get a copy."""
        if self.target == "spread":
            return CHILDREN
        if self.target == TWO:
            return ("news",)
        if self.target == ONE:
            return ("news", "news-one", "news-odd") if self.number % 2 else ("news", "news-one")
        return (self.target,)


class Copy(NamedTuple):
    """What one queue has of a post."""

    post: Post
    home: str

    def __str__(self) -> str:
        producer, target, number = self.post
        return f"{producer}'s {target} {number} in {self.home}"
