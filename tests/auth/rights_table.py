"""Every action of every front, and the rights it takes: what test_rights_table.py tries, and docs/users.rst shows.

``python -m tests.auth.rights_table`` writes the page's table; a test says that this was done.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/users.rst"
BEGIN, END = ".. The table of rights begins.\n", ".. The table of rights ends.\n"

#: A right on all destinations, and one on any of them.
WHOLE, SOME = "everything", "anything"


class Row(msgspec.Struct, frozen=True):
    """An action: in words, the rights it takes (``browse queue:q``), and the requests that ask for it.

    In requests Q is a queue, with messages, T a topic; NEW is not there. N is the number of a message of Q that waits,
    L of one on loan, R of a replay from Q to T.
    """

    what: str
    needs: tuple[str, ...] = ()
    #: Lines; what follows the first is its body.
    memcache: tuple[str, ...] = ()
    #: Command, destination, and headers as ``name:value``.
    stomp: tuple[str, ...] = ()
    #: The request line, and a body.
    http: tuple[str, ...] = ()
    #: Of what is named by a number: who may not is answered as if there were none.
    hidden: bool = False


PLAN = '{"source":{"channel":"Q"},"target":{"topic":"T"},"mode":"%s","rate":1}'

TABLE = (
    Row(
        "put a message into a queue",
        ("publish queue:Q",),
        memcache=("set Q 0 0 1\nx", "ms Q 1\nx"),
        stomp=("SEND /queue/Q", "SEND /amq/queue/Q"),
        http=(
            "POST /channels/Q x",
            'POST /channels/Q/messages [{"specversion":"1.0","id":"1","source":"s","type":"t","data":"x"}]',
            'POST /commit {"ops":[{"publish":{"channel":"Q","body":"x"}}]}',
        ),
    ),
    Row(
        "the same, into several places",
        ("publish queue:Q", "publish topic:T"),
        stomp=("SEND /queue/Q,/topic/T",),
        http=("POST /topics/T?to=queue:Q x", "POST /channels/Q?to=topic:T x"),
    ),
    Row(
        "the same, and the queue is not there",
        ("publish queue:NEW", "create queue:NEW"),
        memcache=("set NEW 0 0 1\nx", "ms NEW 1\nx"),
        stomp=("SEND /queue/NEW",),
        http=("POST /channels/NEW x", 'POST /commit {"ops":[{"publish":{"channel":"NEW","body":"x"}}]}'),
    ),
    Row(
        "put a message into a topic",
        ("publish topic:T",),
        memcache=("set /topic/T 0 0 1\nx", "ms /topic/T 1\nx"),
        stomp=("SEND /topic/T",),
        http=("POST /topics/T x", 'POST /commit {"ops":[{"publish":{"topic":"T","body":"x"}}]}'),
    ),
    Row(
        "take a message",
        ("subscribe queue:Q",),
        memcache=("get Q", "gets Q", "get Q/open", "mg Q v", "monitor Q 0 1"),
        stomp=("SUBSCRIBE /queue/Q id:1", "SUBSCRIBE /amq/queue/Q id:1"),
        http=("GET /channels/Q?nowait", "GET /channels/Q", "POST /channels/Q/lease", "GET /channels/Q/stream"),
    ),
    Row(
        "wait for one, and the queue is not there",
        ("subscribe queue:NEW", "create queue:NEW"),
        memcache=("get NEW/t=1000", "monitor NEW 1"),
        stomp=("SUBSCRIBE /queue/NEW id:1",),
        http=("GET /channels/NEW?wait=1", "POST /channels/NEW/lease?wait=1", "GET /channels/NEW/stream"),
    ),
    Row(
        "get what a topic gets",
        ("subscribe topic:T",),
        stomp=("SUBSCRIBE /topic/T id:1",),
        http=("GET /topics/T/stream",),
    ),
    Row(
        "settle, give back or touch a message by its number",
        ("subscribe queue:Q",),
        memcache=("md Q CL",),
        http=(
            "DELETE /messages/N",
            "POST /messages/N/touch",
            "POST /messages/L/nack",
            'POST /commit {"ops":[{"ack":{"id":L}}]}',
        ),
        hidden=True,
    ),
    Row("touch what one has open", ("subscribe queue:Q",), memcache=("touch Q 10",)),
    Row(
        "settle one and put another in",
        ("publish queue:Q", "subscribe queue:Q"),
        memcache=("cas Q 0 0 1 L\nx",),
        hidden=True,
    ),
    Row(
        "have a queue made that gets what a topic gets",
        ("subscribe topic:T", "subscribe queue:dsub/bob/n", "create queue:dsub/bob/n"),
        stomp=("SUBSCRIBE /topic/T id:1 activemq.subscriptionName:n",),
    ),
    Row(
        "and have it end",
        ("subscribe queue:dsub/bob/n", "create queue:dsub/bob/n"),
        stomp=("UNSUBSCRIBE /topic/T id:1 activemq.subscriptionName:n",),
    ),
    Row(
        "bind a queue to a topic, or to another queue",
        ("admin queue:Q", "subscribe topic:T"),
        http=("PUT /channels/Q/topics/T", "PUT /channels/Q/sources/topic:T"),
    ),
    Row(
        "the same, and the queue is not there",
        ("admin queue:NEW", "subscribe topic:T", "create queue:NEW"),
        http=("PUT /channels/NEW/topics/T", "PUT /channels/NEW/sources/topic:T"),
    ),
    Row(
        "look into a queue: messages, numbers, rules",
        ("browse queue:Q",),
        memcache=("get Q/peek", "me Q"),
        stomp=("SUBSCRIBE /queue/Q id:1 browser:true",),
        http=(
            "HEAD /channels/Q",
            "GET /channels/Q/messages",
            "GET /channels/Q/stats",
            "GET /channels/Q/topics",
            "GET /channels/Q/sources",
            "GET /channels/Q/consumers",
            "GET /channels/Q/config",
        ),
    ),
    Row("look at a message by its number", ("browse queue:Q",), http=("GET /messages/N",), hidden=True),
    Row(
        "look into a topic",
        ("browse topic:T",),
        http=("GET /topics/T/messages", "GET /topics/T/channels", "GET /topics/T/config"),
    ),
    Row(
        "list what there is; only what may be looked into is shown",
        (f"browse {SOME}",),
        memcache=("stats", "stats settings", "dump_stats", "dump_config Q"),
        http=("GET /channels", "GET /topics", "GET /consumers", "GET /replays", "GET /lineage/e"),
    ),
    Row(
        "numbers of the whole broker, and where its clients come from",
        (f"browse {WHOLE}",),
        memcache=("stats conns",),
        http=("GET /stats", "GET /metrics", "GET /status"),
    ),
    Row(
        "empty, delete, pause or configure a queue; end its bindings",
        ("admin queue:Q",),
        memcache=("flush Q", "flush_expired Q", "delete Q"),
        http=(
            "POST /channels/Q/pause",
            "POST /channels/Q/resume",
            'PATCH /channels/Q/config {"lease":5}',
            'PUT /channels/Q/config {"lease":5}',
            "DELETE /channels/Q/topics/T",
            "DELETE /channels/Q/sources/topic:T",
            "DELETE /channels/Q",
        ),
    ),
    Row(
        "configure a topic",
        ("admin topic:T",),
        http=('PATCH /topics/T/config {"retain":5}', 'PUT /topics/T/config {"retain":5}'),
    ),
    Row(
        "copy what was there into another queue or topic: replays",
        ("browse queue:Q", "publish topic:T"),
        http=(f"POST /replays {PLAN % 'copy'}",),
    ),
    Row(
        "the same, and take it away",
        ("subscribe queue:Q", "publish topic:T"),
        http=(f"POST /replays {PLAN % 'move'}",),
    ),
    Row("look at a replay", ("browse queue:Q",), http=("GET /replays/R",), hidden=True),
    Row(
        "pause or end a replay",
        ("browse queue:Q", "publish topic:T"),
        http=('PATCH /replays/R {"state":"paused"}', "DELETE /replays/R"),
        hidden=True,
    ),
    Row(
        "what concerns the whole broker",
        (f"admin {WHOLE}",),
        memcache=("flush_all", "flush_all_expired", "stats reset", "status up", "reload", "shutdown"),
        http=(
            "POST /reload",
            "POST /upgrade",
            "GET /definitions",
            'PUT /definitions {"queues":{}}',
            "POST /resume",
            "POST /drain",
            "PUT /status?status=up",
            "GET /debug",
            "PUT /debug/log?level=info",
            "GET /debug/stack",
            "GET /debug/trace?queue=Q",
        ),
    ),
    Row(
        "anything else",
        memcache=("version", "mn", "verbosity 1", "status", "confirm Q 1", "quit"),
        stomp=(
            "ACK id:1",
            "NACK id:1",
            "BEGIN transaction:1",
            "COMMIT transaction:1",
            "ABORT transaction:1",
            "DISCONNECT",
        ),
        http=("GET /", "GET /openapi.json", "GET /problems/forbidden", "GET /healthz", "GET /readyz"),
    ),
)


def table() -> str:
    """In reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 24 24 16 16 20", ""]
    heads = ("action", "rights", "memcache", "STOMP", "HTTP")
    rows = [
        (
            row.what,
            _codes(row.needs),
            _codes(one.partition("\n")[0] for one in row.memcache),
            _codes(row.stomp),
            _codes(" ".join(one.split(" ")[:2]) for one in row.http),
        )
        for row in TABLE
    ]
    for cells in (heads, *rows):
        lines += [f"   {' ' if number else '*'} - {cell}".rstrip() for number, cell in enumerate(cells)]
    return "\n".join(lines)


def _codes(words: object) -> str:
    assert not isinstance(words, str)
    return ", ".join(f"``{one}``" for one in dict.fromkeys(words))  # type: ignore[call-overload]


def written(page: str) -> str:
    """`page` with the table as it must be."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin
    assert end
    return f"{before}{begin}\n{table()}\n\n{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
