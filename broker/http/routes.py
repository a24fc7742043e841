"""Which request means what: the route table, and the reading of a path.

A path is matched as it came, still percent-encoded, so a ``%2F`` belongs to its segment: ``/channels/a%2Fb`` is the
queue ``a/b``. A name may use every character RFC 3986 allows in a segment (*pchar*); Linger takes ``[A-Za-z0-9_%-]``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote_to_bytes

import msgspec

from broker.core.destination import check_name
from broker.http.problem import Problem


class Endpoint(enum.Enum):
    """What a request asks for."""

    #: By identity: `enum.Enum`'s own is a call of Python, two for each request.
    __hash__ = object.__hash__

    WELCOME = enum.auto()
    CHANNELS = enum.auto()
    TAKE = enum.auto()
    PEEK = enum.auto()
    PUBLISH = enum.auto()
    PURGE = enum.auto()
    CHANNEL_STATS = enum.auto()
    CHANNEL_TOPICS = enum.auto()
    SUBSCRIBE = enum.auto()
    UNSUBSCRIBE = enum.auto()
    TOPICS = enum.auto()
    PUBLISH_TO_TOPIC = enum.auto()
    TOPIC_CHANNELS = enum.auto()
    TOUCH = enum.auto()
    SETTLE = enum.auto()
    BROWSE = enum.auto()
    PUBLISH_BATCH = enum.auto()
    LEASE = enum.auto()
    STREAM = enum.auto()
    CHANNEL_CONSUMERS = enum.auto()
    CHANNEL_CONFIG = enum.auto()
    SET_CHANNEL_CONFIG = enum.auto()
    CHANGE_CHANNEL_CONFIG = enum.auto()
    PAUSE = enum.auto()
    RESUME = enum.auto()
    SOURCES = enum.auto()
    BIND = enum.auto()
    UNBIND = enum.auto()
    TOPIC_LOG = enum.auto()
    TOPIC_STREAM = enum.auto()
    TOPIC_CONFIG = enum.auto()
    SET_TOPIC_CONFIG = enum.auto()
    CHANGE_TOPIC_CONFIG = enum.auto()
    MESSAGE = enum.auto()
    NACK = enum.auto()
    COMMIT = enum.auto()
    LINEAGE = enum.auto()
    CONSUMERS = enum.auto()
    REPLAYS = enum.auto()
    BEGIN_REPLAY = enum.auto()
    REPLAY = enum.auto()
    CHANGE_REPLAY = enum.auto()
    END_REPLAY = enum.auto()
    DEFINITIONS = enum.auto()
    APPLY_DEFINITIONS = enum.auto()
    DRAIN = enum.auto()
    RESUME_ALL = enum.auto()
    STATUS = enum.auto()
    SET_STATUS = enum.auto()
    DEBUG = enum.auto()
    SET_LOG_LEVEL = enum.auto()
    STACK = enum.auto()
    TRACE = enum.auto()
    OPENAPI = enum.auto()
    PROBLEM = enum.auto()
    RELOAD = enum.auto()
    UPGRADE = enum.auto()
    STATS = enum.auto()
    METRICS = enum.auto()
    HEALTH = enum.auto()
    READY = enum.auto()


#: Path templates and their methods. ``{channel}`` and ``{topic}`` are names, ``{message}`` and ``{replay}`` decimal
#: numbers.
#: HEAD is allowed wherever GET is; it has an endpoint of its own where GET would change something.
ROUTES: Mapping[str, Mapping[str, Endpoint]] = {
    "/": {"GET": Endpoint.WELCOME},
    "/channels": {"GET": Endpoint.CHANNELS},
    "/channels/{channel}": {
        "GET": Endpoint.TAKE,
        "HEAD": Endpoint.PEEK,
        "POST": Endpoint.PUBLISH,
        "DELETE": Endpoint.PURGE,
    },
    "/channels/{channel}/stats": {"GET": Endpoint.CHANNEL_STATS},
    "/channels/{channel}/topics": {"GET": Endpoint.CHANNEL_TOPICS},
    "/channels/{channel}/topics/{topic}": {"PUT": Endpoint.SUBSCRIBE, "DELETE": Endpoint.UNSUBSCRIBE},
    "/channels/{channel}/sources": {"GET": Endpoint.SOURCES},
    "/channels/{channel}/sources/{source}": {"PUT": Endpoint.BIND, "DELETE": Endpoint.UNBIND},
    "/channels/{channel}/messages": {"GET": Endpoint.BROWSE, "POST": Endpoint.PUBLISH_BATCH},
    "/channels/{channel}/lease": {"POST": Endpoint.LEASE},
    "/channels/{channel}/stream": {"GET": Endpoint.STREAM},
    "/channels/{channel}/consumers": {"GET": Endpoint.CHANNEL_CONSUMERS},
    "/channels/{channel}/config": {
        "GET": Endpoint.CHANNEL_CONFIG,
        "PUT": Endpoint.SET_CHANNEL_CONFIG,
        "PATCH": Endpoint.CHANGE_CHANNEL_CONFIG,
    },
    "/channels/{channel}/pause": {"POST": Endpoint.PAUSE},
    "/channels/{channel}/resume": {"POST": Endpoint.RESUME},
    "/topics": {"GET": Endpoint.TOPICS},
    "/topics/{topic}": {"POST": Endpoint.PUBLISH_TO_TOPIC},
    "/topics/{topic}/channels": {"GET": Endpoint.TOPIC_CHANNELS},
    "/topics/{topic}/messages": {"GET": Endpoint.TOPIC_LOG},
    "/topics/{topic}/stream": {"GET": Endpoint.TOPIC_STREAM},
    "/topics/{topic}/config": {
        "GET": Endpoint.TOPIC_CONFIG,
        "PUT": Endpoint.SET_TOPIC_CONFIG,
        "PATCH": Endpoint.CHANGE_TOPIC_CONFIG,
    },
    "/messages/{message}": {"GET": Endpoint.MESSAGE, "DELETE": Endpoint.SETTLE},
    "/messages/{message}/touch": {"POST": Endpoint.TOUCH},
    "/messages/{message}/nack": {"POST": Endpoint.NACK},
    "/commit": {"POST": Endpoint.COMMIT},
    "/lineage/{event}": {"GET": Endpoint.LINEAGE},
    "/consumers": {"GET": Endpoint.CONSUMERS},
    "/replays": {"GET": Endpoint.REPLAYS, "POST": Endpoint.BEGIN_REPLAY},
    "/replays/{replay}": {
        "GET": Endpoint.REPLAY,
        "PATCH": Endpoint.CHANGE_REPLAY,
        "DELETE": Endpoint.END_REPLAY,
    },
    "/definitions": {"GET": Endpoint.DEFINITIONS, "PUT": Endpoint.APPLY_DEFINITIONS},
    "/drain": {"POST": Endpoint.DRAIN},
    "/resume": {"POST": Endpoint.RESUME_ALL},
    "/status": {"GET": Endpoint.STATUS, "PUT": Endpoint.SET_STATUS},
    "/debug": {"GET": Endpoint.DEBUG},
    "/debug/log": {"PUT": Endpoint.SET_LOG_LEVEL},
    "/debug/stack": {"GET": Endpoint.STACK},
    "/debug/trace": {"GET": Endpoint.TRACE},
    "/openapi.json": {"GET": Endpoint.OPENAPI},
    "/problems/{problem}": {"GET": Endpoint.PROBLEM},
    "/reload": {"POST": Endpoint.RELOAD},
    "/upgrade": {"POST": Endpoint.UPGRADE},
    "/stats": {"GET": Endpoint.STATS},
    "/metrics": {"GET": Endpoint.METRICS},
    "/healthz": {"GET": Endpoint.HEALTH},
    "/readyz": {"GET": Endpoint.READY},
}


class Match(msgspec.Struct, frozen=True):
    """A request that means something. `names` holds the template's variables, decoded."""

    endpoint: Endpoint
    names: dict[str, str] = {}

    @property
    def channel(self) -> str:
        """The name in ``{channel}``."""
        return self.names["channel"]

    @property
    def topic(self) -> str:
        """The name in ``{topic}``."""
        return self.names["topic"]

    @property
    def message(self) -> int:
        """The number in ``{message}``; `Problem` 400 if it has more than 64 bits."""
        return self._number("message")

    @property
    def replay(self) -> int:
        """The number in ``{replay}``; the same."""
        return self._number("replay")

    def _number(self, variable: str) -> int:
        digits = self.names[variable]
        # 20 digits are beyond 64 bits anyway, and int() is quadratic in their number
        if len(digits.lstrip("0")) > 19 or (number := int(digits[-19:])) > _MAX_INTEGER:
            raise Problem(400, "bad-parameter", f"Invalid {variable} number.")
        return number


_MAX_INTEGER = 2**63 - 1
#: The variables that are numbers.
_NUMBERS = ("message", "replay")
_NUMBERED = ("/messages/", "/replays/")

#: One or more pchar, still encoded. Whether a ``%`` starts a valid escape is the decoder's matter.
_pchar = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@%]+")
_digits = re.compile(r"[0-9]+")
_bad_escape = re.compile(r"%(?![0-9A-Fa-f]{2})")

_Template = tuple[tuple[str, ...], Mapping[str, Endpoint]]
#: By number of segments, the first of them, which is never a variable, and the last, empty if it is one.
_templates: dict[tuple[int, str, str], list[_Template]] = {}
for _path, _methods in ROUTES.items():
    _segments = tuple(_path[1:].split("/"))
    _last = "" if _segments[-1].startswith("{") else _segments[-1]
    _templates.setdefault((len(_segments), _segments[0], _last), []).append((_segments, _methods))


def resolve(method: str, path: str) -> Match:
    """What `method` on the raw `path` (no query) asks for.

    Raises `Problem`: 404 for an unknown path (also a trailing or doubled slash, or a message that is no number), 405
    for a known one without this method, 400 for a name that is not UTF-8; `BadName` for a name the broker refuses.
    """
    # a number is asked for once or twice, and may have any length
    return _resolve(method, path) if path.startswith(_NUMBERED) else _known(method, path)


def _resolve(method: str, path: str) -> Match:
    if path.startswith("/"):
        segments = path[1:].split("/")
        length, first = len(segments), segments[0]
        literal = _templates.get((length, first, segments[-1]), ())
        for template, methods in (*literal, *_templates.get((length, first, ""), ())):
            found = _match(template, segments)
            if found is not None:
                endpoint = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
                if endpoint is None:
                    raise Problem(405, "method-not-allowed", allow=_allowed(methods))
                return Match(endpoint, {variable: _decode(variable, raw) for variable, raw in found})
    raise Problem(404, "not-found")


#: 2 us less. Only what means something is kept, so that a path is no longer than the names in it may be.
_known = lru_cache(1000)(_resolve)


def _match(template: tuple[str, ...], segments: list[str]) -> list[tuple[str, str]] | None:
    found = []
    for wanted, segment in zip(template, segments, strict=True):
        if not wanted.startswith("{"):
            if wanted != segment:
                return None
        elif (_digits if wanted[1:-1] in _NUMBERS else _pchar).fullmatch(segment):
            found.append((wanted[1:-1], segment))
        else:
            return None
    return found


def _decode(variable: str, raw: str) -> str:
    if variable in _NUMBERS:
        return raw
    return _name(raw)


def _name(raw: str) -> str:
    if _bad_escape.search(raw):
        raise Problem(400, "bad-parameter")
    try:
        return check_name(unquote_to_bytes(raw).decode())
    except UnicodeDecodeError:
        raise Problem(400, "bad-parameter") from None


def _allowed(methods: Mapping[str, Endpoint]) -> tuple[str, ...]:
    implied = ["HEAD"] if "GET" in methods and "HEAD" not in methods else []
    return tuple(sorted([*methods, *implied]))
