"""The fronts as the service has them: what speaks to whoever comes in by a listener, and how it ends."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.web.http import Request

from broker.config import MEMORY, Config, MemcacheListener, StompListener
from broker.http import guard
from broker.http.problem import Problem
from broker.http.server import Site, make_site
from broker.listen import Connections, Way
from broker.listeners import NAMES, Wish
from broker.memcache.dialect import DIALECTS
from broker.memcache.server import MemcacheFactory
from broker.running import BrokerService, Front
from broker.stomp.flavour import FLAVOURS
from broker.stomp.server import StompFactory
from broker.stomp.upgrade import WebSockets
from broker.stomp.wishes import Terms


def make_front(wish: Wish, way: Way, config: Config, of: BrokerService) -> Front:
    """What speaks to whoever comes in by `way`."""
    size = config.max_message_size
    match wish.front:
        case "memcache":
            told = wish.said if isinstance(wish.said, MemcacheListener) else MemcacheListener(0)
            memcache = MemcacheFactory(
                of.broker,
                max_message_size=size,
                flush_all=told.flush_all == "on" or (told.flush_all is None and way.local),
                dialect=DIALECTS[told.dialect],
                door=of.door.at(NAMES[wish.front]),
                reload=of.reloading.reload,
                shutdown=of.end if told.shutdown == "on" else None,
                status=of.status,
                idle_timeout=told.idle_timeout / 1000,
                refuse_writes_above=told.refuse_writes_above,
                refuse_reads_above=told.refuse_reads_above,
            )
            return Front(wish.front, way, Connections(memcache), lambda: Deferred.fromCoroutine(memcache.close()))
        case "stomp":
            said = wish.said if isinstance(wish.said, StompListener) else StompListener(0)
            stomp = StompFactory(
                of.broker,
                max_message_size=size,
                clock=of.reactor,
                terms=Terms(
                    flavour=FLAVOURS[said.flavour],
                    lenient_ack=said.lenient_ack,
                    user_id=said.user_id,
                    send_timeout=said.send_timeout,
                    heart_beat_min=said.heart_beat_min,
                    heart_beat_max=said.heart_beat_max,
                    heart_beat_grace=said.heart_beat_grace,
                ),
                login_timeout=said.login_timeout / 1000,
                door=of.door.at(NAMES[wish.front]),
            )
            return Front(wish.front, way, Connections(stomp), stomp.shut_down)
        case _:
            site = make_site(
                of.broker,
                max_message_size=config.http_max_message_size,
                unready=of.unready,
                hosts=config.http_host,
                database=None if config.data == MEMORY else config.data,
                clock=of.reactor,
                door=of.door.at(NAMES[wish.front]),
                reload=of.reloading.reload,
                upgrade=lambda asked: of.upgrade(asked),
                save=of.settings.save,
                levels=of.levels,
                status=of.status,
                taps=of.taps,
            )
            site.noisy = False
            pages = StompFactory(of.broker, max_message_size=size, clock=of.reactor, door=of.door.at(NAMES[wish.front]))
            site.resource = WebSockets(site.resource, pages, lambda request: _unwelcome(site, request))

            def end() -> None:
                site.drain()
                pages.shut_down()

            return Front(wish.front, way, Connections(site), end)


def _unwelcome(site: Site, request: Request) -> int:
    """The status with which a WebSocket is refused; 0: it may come in. A page's origin is checked as for all else."""
    bound = getattr(request.getHost(), "host", "")  # a Unix socket has none
    try:
        guard.check(request.getHeader("host"), request.getHeader("origin"), bound, site.hosts)
    except Problem as problem:
        return problem.status
    return 503 if site.stopping else 0
