"""The listeners somebody wants, of all fronts: what the configuration says of them, and what is there by default."""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IReactorSocket

from broker.config import Config, HttpListener, MemcacheListener, StompListener, Where
from broker.errors import ConfigError
from broker.listen import Place, parse
from broker.proxy import Trusted
from broker.tls import Certificates, check_place

#: The fronts, in the order they open, and the ports they have on 127.0.0.1 unless told otherwise.
DEFAULT_PORTS = {"memcache": 22122, "stomp": 61613, "http": 8989}
#: What people call them.
NAMES = {"memcache": "memcache", "stomp": "STOMP", "http": "HTTP"}


@attrs.frozen
class Wish:
    """A listener somebody wants, or, when nobody `named` one, that is there by default."""

    front: str
    place: Place
    named: bool
    #: What more is said of it.
    said: MemcacheListener | StompListener | HttpListener | None = None
    #: With what it speaks TLS; None: it speaks plain.
    certificates: Certificates | None = None
    #: The proxies that say who their client is; None: there are none.
    trusted: Trusted | None = None


def wishes(config: Config, reactor: IReactorSocket) -> list[Wish]:
    """All of them, with the files they need read. Raises `ConfigError`."""
    found = []
    for front, default in DEFAULT_PORTS.items():
        said: list[Where | MemcacheListener | StompListener | HttpListener] | None = getattr(config, front)
        for one in [default] if said is None else said:
            where, more = (one, None) if isinstance(one, int | str) else (one.listen, one)
            place = parse(where, reactor)
            if place is not None:
                certificates, trusted = _certificates(front, place, more), _trusted(front, more)
                found.append(Wish(front, place, said is not None, more, certificates, trusted))
    return found


def _certificates(
    front: str, place: Place, said: MemcacheListener | StompListener | HttpListener | None
) -> Certificates | None:
    """What the listener shows, read now; None: it speaks plain."""
    if said is None or said.tls is None:
        return None
    check_place(place)
    try:
        return Certificates(said.tls, [b"http/1.1"] if front == "http" else None)
    except ConfigError as error:
        raise ConfigError(f"{NAMES[front]} on {said.listen}: {error.reason}") from None


def _trusted(front: str, said: MemcacheListener | StompListener | HttpListener | None) -> Trusted | None:
    """The proxies that the listener believes."""
    if said is None or not said.proxy:
        return None
    try:
        return Trusted(said.proxy)
    except ConfigError as error:
        raise ConfigError(f"{NAMES[front]} on {said.listen}: {error.reason}") from None
