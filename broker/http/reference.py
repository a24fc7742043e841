"""What each endpoint is for, takes and answers: the one source of ``/openapi.json`` and of the manual's table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from broker.http.commit import Ops
from broker.http.consuming import Wanted
from broker.http.replays import Replay, ReplayChange
from broker.http.routes import Endpoint
from broker.http.settings import Definitions

_WHOLE = {"type": "integer", "minimum": 0, "maximum": 2**31}
_TEXT = {"type": "string"}
_FLAG = {"type": "string", "enum": ["", "1", "0"]}

#: Parameters by name: their schema, and what they mean. Most may stand in a form body too.
PARAMETERS: Mapping[str, tuple[dict[str, Any], str]] = {
    "ack": ({"type": "string", "enum": ["", "auto"]}, "`auto`: settled once it is sent"),
    "after": (_TEXT, "go on behind this position, or name: what an earlier answer called `after`"),
    "at": (_TEXT, "when it may be delivered: RFC 3339, seconds since 1970, or `30s`, `2h`, `1d` from now"),
    "attempt": (_TEXT, "a name for this request: asked again with it, the same messages come again"),
    "atomic": (_FLAG, "`0`: each operation by itself, with its own result"),
    "body": (_FLAG, "`0`: without bodies"),
    "bytes": ({"type": "integer", "minimum": 0, "maximum": 4096}, "how much of a body is shown; default 32"),
    "code": (_TEXT, "which version the worker runs"),
    "connection": (_TEXT, "where it comes from, as `192.0.2.1:50000`, or what the log calls it"),
    "config": (_FLAG, "forget the channel too, with what it is bound to"),
    "credit": ({"type": "integer", "minimum": 1, "maximum": 1000}, "messages on loan at a time; default 10"),
    "dead": (_FLAG, "never deliver it again: to `dead_letter`, or dropped"),
    "delay": (_WHOLE, "seconds until it may be delivered"),
    "deliver": (_WHOLE, "deliveries after which it is given up; 0: no limit"),
    "detail": (_FLAG, "with numbers, and the empty ones"),
    "dry_run": (_FLAG, "only say what would change"),
    "flow": (_TEXT, "the flow whose channels are looked at; without it those that `queue` names, or all"),
    "free": (_FLAG, "do not count it as a failed delivery"),
    "follows": (_FLAG, "what the source channel settles is settled here too"),
    "from": (_TEXT, "where a new binding begins: `now`, `start`, a stamp, a time, or `-7d`"),
    "full": (_FLAG, "all numbers"),
    "group": (_TEXT, "messages of one group go to one consumer at a time, where the policy says `groups`"),
    "ids": (_FLAG, "ids only, as Linger had it in 2015"),
    "lease": (_TEXT, "only while it is on loan under this lease (`X-Linger-Lease`), else 409"),
    "level": (
        {"type": "string", "enum": ["debug", "info", "warn", "error", ""]},
        "the least that is logged; empty: as what the part lies in",
    ),
    "limit": ({"type": "integer", "minimum": 1}, "how many at most; not more than 1,000"),
    "linger": (_WHOLE, "seconds after which it is dropped; 0: never"),
    "log": (_FLAG, "to the log too"),
    "match": (_TEXT, "a filter; only messages it is true of"),
    "msg": (_TEXT, "the message, as text/plain; it wins over the body"),
    "nowait": (_FLAG, "do not wait, whatever its value"),
    "part": (_TEXT, "a module of the broker, as `broker.stomp`, with those below it; without it all"),
    "prefix": (_TEXT, "only names that begin so"),
    "priority": ({"type": "integer"}, "lower first; default 0"),
    "prune": (_FLAG, "end what is not named"),
    "queue": (_TEXT, "a pattern of names: `*` any run of characters, `?` any one"),
    "reason": (_TEXT, "why, for people"),
    "seconds": ({"type": "integer", "minimum": 1, "maximum": 3600}, "how long; default 60"),
    "since": (_TEXT, "from this time on"),
    "status": (
        {"type": "string", "enum": ["up", "writeavoid", "draining", "readonly", "quiescent"]},
        "the stricter the later; from `draining` on nothing is put in, when `quiescent` nothing is taken",
    ),
    "state": (_TEXT, "some of `ready`, `hidden`, `delayed`, `done`, with commas between"),
    "strict": (_FLAG, "507 if a channel is full, and nobody gets it"),
    "timeout": ({"type": "integer", "minimum": 1}, "the lease in seconds"),
    "to": (_TEXT, "further destinations, all or none: `topic:news,queue:audit`"),
    "undo": (_FLAG, "settle what it put in and nobody has got, or move it back"),
    "until": (_TEXT, "before this time"),
    "worker": (_TEXT, "who takes it: host and process, say; shown by `/consumers`"),
    "wait": ({"type": "integer", "minimum": 0, "maximum": 120}, "seconds to wait"),
}

#: What every endpoint may answer.
COMMON: Mapping[int, str] = {
    400: "a wrong parameter, name or body",
    401: "credentials are needed",
    403: "no right to that, or a foreign page",
    408: "the request did not come whole in five minutes",
    413: "far too large",
    414: "the request line is too long",
    429: "too many requests of this user wait, or a limit of his is reached",
    431: "a header line is too long",
    500: "the broker's own failure; it is in its log",
    503: "not now: the store does not commit, or the broker stops or drains",
}

EVENTS = "text/event-stream"
ANY = "*/*"
JSON = "application/json"


class Body(msgspec.Struct, frozen=True):
    """What a request carries."""

    media: tuple[str, ...]
    type: Any = None
    needed: bool = False


class Doc(msgspec.Struct, frozen=True):
    """One endpoint."""

    says: str
    parameters: str = ""
    answers: dict[int, str] = {}
    #: The media types of an answer that is 2xx; none: it has no body.
    media: tuple[str, ...] = (JSON,)
    body: Body | None = None


_WISHES = "msg priority timeout deliver linger delay at group"
_MESSAGE = Body((ANY, "application/x-www-form-urlencoded", "application/cloudevents+json"))
_BINDING = "priority timeout deliver linger match from follows"
_CONFIG = Body((JSON,), dict[str, Any], needed=True)
_PAGE = "after limit since until match body"
_GONE = {404: "there is no such message"}
_NO_REPLAY = {404: "there is no such replay"}
_LOST = {**_GONE, 409: "it is not on loan, or under another lease"}
_FULL = {507: "the channel is full"}
_RUNNING = {409: "a publish under this `Idempotency-Key` is still under way"}
_OTHER = {**_RUNNING, 422: "the `Idempotency-Key` was used for another message"}
_CHANGED = {412: "`If-Match` names an older state", 415: "the body is not JSON", 422: "a key is wrong; nothing changed"}

DOCS: Mapping[Endpoint, Doc] = {
    Endpoint.WELCOME: Doc("who the server is", answers={200: "Linger's welcome"}),
    Endpoint.CHANNELS: Doc(
        "the channels with messages, bindings or somebody waiting",
        "detail queue limit after prefix",
        {200: "their names"},
    ),
    Endpoint.TAKE: Doc(
        "the next message, on loan for its lease",
        "nowait wait timeout ack worker code",
        {200: "the message", 204: "none came in time"},
        (ANY, "application/cloudevents+json"),
    ),
    Endpoint.PEEK: Doc("what a GET would bring; takes nothing", "", {200: "its headers", 204: "none"}, ()),
    Endpoint.PUBLISH: Doc(
        "put a message in", _WISHES + " to", {202: "its id", 415: "an unknown batch", **_OTHER, **_FULL}, body=_MESSAGE
    ),
    Endpoint.PURGE: Doc("settle everything in it, on loan or not", "state config", {204: "done"}, ()),
    Endpoint.CHANNEL_STATS: Doc("how many wait and are hidden", "full", {200: "numbers"}),
    Endpoint.CHANNEL_TOPICS: Doc("the topics it is subscribed to", "", {200: "their names"}),
    Endpoint.SUBSCRIBE: Doc("subscribe; a second PUT replaces all parameters", _BINDING, {204: "done"}, ()),
    Endpoint.UNSUBSCRIBE: Doc("unsubscribe, if it was", "", {204: "done"}, ()),
    Endpoint.SOURCES: Doc("what it reads beside its own messages", "", {200: "sources with their parameters"}),
    Endpoint.BIND: Doc("read `queue:NAME` or `topic:NAME`, which may be a pattern, too", _BINDING, {204: "done"}, ()),
    Endpoint.UNBIND: Doc("read it no more", "", {204: "done"}, ()),
    Endpoint.BROWSE: Doc("look at what is in it; takes nothing", f"state {_PAGE} ids", {200: "a page"}),
    Endpoint.PUBLISH_BATCH: Doc(
        "put several messages in, all or none",
        _WISHES.replace("msg ", ""),
        {202: "their ids", 415: "the type is none of a batch", **_RUNNING, **_FULL},
        body=Body((JSON, "application/x-ndjson", "application/cloudevents-batch+json"), list[Any], needed=True),
    ),
    Endpoint.LEASE: Doc(
        "take several messages, each on loan",
        "limit wait timeout worker code attempt",
        {200: "the messages", 204: "none came in time", 415: "the body is not JSON"},
        (JSON, "application/x-ndjson", "multipart/mixed"),
        Body((JSON,), Wanted),
    ),
    Endpoint.STREAM: Doc(
        "messages on loan as they come; settle them by DELETE",
        "credit",
        {200: "events"},
        (EVENTS, "application/x-ndjson"),
    ),
    Endpoint.CHANNEL_CONSUMERS: Doc("who asks for its messages", "", {200: "consumers"}),
    Endpoint.CHANNEL_CONFIG: Doc("what holds for it, key by key", "", {200: "the configuration"}),
    Endpoint.SET_CHANNEL_CONFIG: Doc(
        "set these keys and no others", "", {200: "set", 201: "set for the first time", **_CHANGED}, body=_CONFIG
    ),
    Endpoint.CHANGE_CHANNEL_CONFIG: Doc(
        "set these keys; null: no longer", "", {200: "set", 201: "set for the first time", **_CHANGED}, body=_CONFIG
    ),
    Endpoint.PAUSE: Doc("deliver nothing until it is resumed", "", {200: "the configuration", 422: "not possible"}),
    Endpoint.RESUME: Doc("deliver again", "", {200: "the configuration", 422: "not possible"}),
    Endpoint.TOPICS: Doc("the topics some channel is subscribed to", "", {200: "their names"}),
    Endpoint.PUBLISH_TO_TOPIC: Doc(
        "publish to all subscribed channels in one commit",
        "msg group strict to",
        {202: "the id in every channel", **_OTHER, **_FULL},
        body=_MESSAGE,
    ),
    Endpoint.TOPIC_CHANNELS: Doc("the channels subscribed to it", "", {200: "their names"}),
    Endpoint.TOPIC_LOG: Doc("read its log, as far as it is kept", _PAGE, {200: "a page"}),
    Endpoint.TOPIC_STREAM: Doc(
        "what is published, as it comes, or behind `Last-Event-ID`",
        "after since match",
        {200: "events"},
        (EVENTS, "application/x-ndjson"),
    ),
    Endpoint.TOPIC_CONFIG: Doc("what holds for it, key by key", "", {200: "the configuration"}),
    Endpoint.SET_TOPIC_CONFIG: Doc(
        "set these keys and no others", "", {200: "set", 201: "set for the first time", **_CHANGED}, body=_CONFIG
    ),
    Endpoint.CHANGE_TOPIC_CONFIG: Doc(
        "set these keys; null: no longer", "", {200: "set", 201: "set for the first time", **_CHANGED}, body=_CONFIG
    ),
    Endpoint.MESSAGE: Doc("where it stands, and why it is not delivered", "", {200: "the message", **_GONE}),
    Endpoint.SETTLE: Doc("settle it, by anybody, on loan or not", "lease", {204: "done", **_LOST}, ()),
    Endpoint.TOUCH: Doc("its lease begins anew; hides one that waits", "timeout lease", {204: "done", **_LOST}, ()),
    Endpoint.NACK: Doc("give it back as failed", "delay reason dead free lease", {204: "done", **_LOST}, ()),
    Endpoint.COMMIT: Doc(
        "ack, nack, touch and publish in one transaction",
        "atomic",
        {200: "what became of each", 404: "there is no such message", 409: "a lease is lost; nothing was done",
         415: "the body is not JSON", **_FULL},
        body=Body((JSON,), Ops, needed=True),
    ),
    Endpoint.LINEAGE: Doc(
        "what became of a message: what was made of it, by channel, stage and state, as far as it is kept",
        "flow queue since",
        {200: "counts, and since when they are known", 404: "nothing is known of that flow"},
    ),
    Endpoint.CONSUMERS: Doc("who asks for messages of which channel", "after", {200: "consumers"}),
    Endpoint.REPLAYS: Doc("the replays that are not over, and the last hundred that are", "", {200: "how they stand"}),
    Endpoint.BEGIN_REPLAY: Doc(
        "put messages of the past, or what waits or died in a channel, in again",
        "dry_run",
        {
            200: "what it would put in",
            202: "it runs",
            404: "there is no such source",
            415: "the body is not JSON",
            422: "the `Idempotency-Key` was used for another replay",
        },
        body=Body((JSON,), Replay, needed=True),
    ),
    Endpoint.REPLAY: Doc(
        "how it stands; as events, until it is over", "", {200: "the replay", **_NO_REPLAY}, (JSON, EVENTS)
    ),
    Endpoint.CHANGE_REPLAY: Doc(
        "pause it or go on, at another rate, up to another number",
        "",
        {200: "the replay", **_NO_REPLAY, 409: "it is over", 415: "the body is not JSON"},
        body=Body((JSON,), ReplayChange, needed=True),
    ),
    Endpoint.END_REPLAY: Doc(
        "end it", "undo", {200: "what was undone", 204: "done", **_NO_REPLAY}
    ),
    Endpoint.DEFINITIONS: Doc("what was configured here, and all bindings", "", {200: "definitions"}),
    Endpoint.APPLY_DEFINITIONS: Doc(
        "bring this about",
        "dry_run prune",
        {200: "what changed", 415: "the body is not JSON", 422: "a key is wrong; nothing changed"},
        body=Body((JSON,), Definitions, needed=True),
    ),
    Endpoint.DRAIN: Doc("take no messages any more, on any front", "", {202: "draining"}),
    Endpoint.RESUME_ALL: Doc("take messages again", "", {202: "not draining"}),
    Endpoint.STATUS: Doc("what the broker does at the moment", "", {200: "the status"}),
    Endpoint.SET_STATUS: Doc("have it do so from now on, on all fronts", "status", {200: "the status"}),
    Endpoint.DEBUG: Doc("from which level on parts of the broker are logged", "", {200: "levels"}),
    Endpoint.SET_LOG_LEVEL: Doc("log a part from this level on", "part level", {200: "levels"}),
    Endpoint.TRACE: Doc(
        "what passes over one connection, or becomes of one queue's messages, while it happens",
        "queue connection seconds bytes log",
        {200: "events, or lines of JSON", 404: "there is no such connection"},
        (EVENTS, "application/x-ndjson"),
    ),
    Endpoint.STACK: Doc(
        "what every thread is doing now, and what the reactor has planned", "", {200: "lines"}, ("text/plain",)
    ),
    Endpoint.RELOAD: Doc(
        "read configuration and users again",
        "",
        {200: "what changed", 409: "there is no file", 422: "a file has a mistake; nothing changed"},
    ),
    Endpoint.UPGRADE: Doc(
        "have a new process of the code on disk take over",
        "",
        {202: "it could serve, and is about to", 409: "there is none that could; everything stays as it was"},
    ),
    Endpoint.STATS: Doc("numbers", "", {200: "numbers"}),
    Endpoint.METRICS: Doc(
        "the same for Prometheus", "queue", {200: "numbers"}, ("text/plain", "application/openmetrics-text")
    ),
    Endpoint.HEALTH: Doc("whether anything is answered", "", {200: "it is"}, ("text/plain",)),
    Endpoint.READY: Doc("whether messages are taken", "", {200: "they are"}, ("text/plain",)),
    Endpoint.OPENAPI: Doc("this interface, in OpenAPI 3.1", "", {200: "the document"}),
    Endpoint.PROBLEM: Doc("what a problem type means", "", {200: "a sentence", 404: "no such type"}, ("text/plain",)),
}  # fmt: skip

#: What the names in a path are.
VARIABLES: Mapping[str, tuple[dict[str, Any], str]] = {
    "channel": ({"type": "string", "minLength": 1, "maxLength": 250}, "a channel"),
    "topic": ({"type": "string", "minLength": 1, "maxLength": 250}, "a topic"),
    "source": ({"type": "string", "pattern": "^(queue|topic):.+"}, "`queue:NAME` or `topic:NAME`"),
    "message": ({"type": "integer", "minimum": 0, "maximum": 2**53}, "a message's id in its channel"),
    "replay": ({"type": "integer", "minimum": 0, "maximum": 2**53}, "a replay's number"),
    "event": ({"type": "string", "minLength": 1, "maxLength": 250}, "the id of an event, or of a replay"),
    "problem": (_TEXT, "the last part of a problem's `type`"),
}
