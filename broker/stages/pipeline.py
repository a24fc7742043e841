"""Flows: stages connected by queues, each a function, and the ways to run them."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import attrs
import msgspec

from broker.stages import local
from broker.stages.definition import announce, bind
from broker.stages.event import Event, root, structured
from broker.stages.link import Link, path_of
from broker.stages.settle import Who
from broker.stages.stage import BACKOFF, Mode, Stage, checked
from broker.stages.supervisor import Supervisor

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL = "http://127.0.0.1:8989"
#: Seconds for which work goes on when a worker is to end; what is not finished then is given back.
GRACE = 25.0


#: True while a file is loaded to get at its flow: then nothing in it runs.
_loading = False


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """`Pipeline.run` does nothing meanwhile."""
    global _loading
    _loading = True
    try:
        yield
    finally:
        _loading = False


class Pipeline:
    """A flow. Its stages are added by `stage`, in the order in which messages pass them."""

    def __init__(
        self,
        name: str,
        url: str | None = None,
        *,
        token: str | None = None,
        version: str | None = None,
        retain: float = 0,
        grace: float = GRACE,
    ) -> None:
        """`url` is where the broker's HTTP is (``$BROKER_URL``), `token` who we are there (``$BROKER_TOKEN``).

        `version` is that of the code (``$BROKER_FLOW_VERSION``), else a checksum of the file that the first stage is
        written in. `retain`: for how many seconds the flow's channels keep what passed them, so that its lineage can
        be asked for and it can be replayed. `grace`: seconds to finish in when a worker is to end.
        """
        if not name or "/" in name:
            raise ValueError("a flow has a name, without a slash")
        self.name = name
        self.url = url or os.environ.get("BROKER_URL") or DEFAULT_URL
        self.retain = retain
        self.stages: dict[str, Stage] = {}
        self._token = os.environ.get("BROKER_TOKEN", "") if token is None else token
        self._version = version or os.environ.get("BROKER_FLOW_VERSION")
        self._grace = grace
        self._local: local.Local | None = None
        #: Connections to publish by: one for each thread, of this process and not of one that it was forked from.
        self._links = threading.local()
        self._selftest: Callable[[], Any] | None = None

    @property
    def version(self) -> str:
        """The version of the code."""
        if self._version is None:
            functions = [stage.function for stage in self.stages.values()]
            self._version = _checksum(functions[0]) if functions else ""
        return self._version

    @property
    def who(self) -> Who:
        """This worker."""
        return Who(f"{socket.gethostname()}/{os.getpid()}", self.version)

    def stage(
        self,
        source: str | Sequence[str],
        to: str | None = None,
        *,
        name: str | None = None,
        concurrency: int = 1,
        batch: int = 1,
        lease: int = 30,
        retries: int = 5,
        backoff: Sequence[float] = BACKOFF,
        dead: str | None = None,
        match: str | None = None,
        mode: Mode | None = None,
        timeout: float = 0,
    ) -> Callable[[F], F]:
        """Make a function the stage that reads `source`: a channel, several, or topics (``topic:NAME``).

        It is called with an `Event`; with ``batch=N`` with a list of up to N. It returns, or yields, nothing, values,
        or events made by `Event.child`, which go to `to`; those and the ack of the input become true in one commit.
        `retries` is how often a failed input is tried again, after so many seconds as `backoff` says; then it goes to
        `dead` (default: the channel's name with ``.dead`` behind it; empty: dropped). `match` is a filter. `mode` is
        ``thread``, ``process`` or ``async`` (default: async for a coroutine function, else thread). `timeout`: seconds
        an input may take.
        """

        def add(function: F) -> F:
            asynchronous = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
            how: Mode = mode or ("async" if asynchronous else "thread")
            sources = checked(source, concurrency, batch, lease, retries, how, timeout)
            called = name or str(getattr(function, "__name__", "stage"))
            if called in self.stages:
                raise ValueError(f"there is a stage {called!r} already: say name=")
            self.stages[called] = Stage(
                name=called,
                flow=self.name,
                sources=sources,
                function=function,
                to=to or "",
                concurrency=concurrency,
                batch=batch,
                lease=lease,
                retries=retries,
                backoff=tuple(backoff),
                dead=dead,
                match=match or "",
                mode=how,
                timeout=timeout,
            )
            return function

        return add

    def connect(self) -> Link:
        """A new connection to the broker."""
        return Link(self.url, self._token)

    def publish(self, channel: str, data: Any, **attributes: Any) -> str:
        """Put something in; its id. When this returns it is on disk. After `in_memory` it stays there. For any thread.

        `attributes` are those of the event: ``id``, ``type``, ``subject``, ``priority``, ``delay``, …. Raises
        `Refused` (its `status` is 507 while the channel is full) and `Unreachable`.
        """
        event = root(channel, data, flow=self.name, **attributes)
        if self._local is not None:
            self._local.publish(event)
            return event.id
        wishes = {"priority": event.priority, "delay": event.delay, "group": event.group}
        query = urlencode({name: value for name, value in wishes.items() if value})
        self._publishing().request(
            "POST",
            f"{path_of(channel)}?{query}",
            msgspec.json.encode(structured(event)),
            fields={"Content-Type": "application/cloudevents+json"},
        )
        return event.id

    def _publishing(self) -> Link:
        if getattr(self._links, "owner", 0) != os.getpid():
            self._links.owner, self._links.link = os.getpid(), self.connect()
        link: Link = self._links.link
        return link

    def run(self, *stages: str, announced: bool = True, whole: bool = True) -> None:
        """Run these stages, or all, until SIGTERM or SIGINT; then what was taken is finished or given back.

        The flow's definition is put into topic ``flow/NAME`` unless `announced` is false; without `whole` other stages
        stay in it.
        """
        if _loading:
            return
        chosen = self._shared(self.chosen(stages))
        log_to_stderr()
        link = self.connect()
        bind(link, chosen)
        if announced:
            announce(link, self.name, list(self.stages.values()), self.version, self.retain, whole=whole)
        link.close()
        Supervisor(chosen, self.connect, self.who, self._grace).run()

    def _shared(self, stages: list[Stage]) -> list[Stage]:
        """The stages with the part of their workers that this generation may have: ``$BROKER_FLOW_SHARE`` per cent."""
        share = int(os.environ.get("BROKER_FLOW_SHARE") or 100)
        return [attrs.evolve(stage, concurrency=max(stage.concurrency * share // 100, 1)) for stage in stages]

    def selftest(self, function: F) -> F:
        """Make a function the flow's self-test: a new version runs only if it raises nothing.

        It is called without arguments, and what it publishes goes into queues in memory; it may `drain` and look.
        """
        self._selftest = function
        return function

    def test(self) -> None:
        """Run the self-test, if there is one."""
        self.chosen(())
        self.in_memory()
        if self._selftest is not None:
            self._selftest()
        self._local = None

    # -- without a server

    def drain(self, *stages: str) -> None:
        """Run until nothing is left, in this thread, over queues in memory, without a server and without waiting."""
        drained = self._memory()
        local.drain(drained, self.chosen(stages), self.who)

    def waiting(self, channel: str) -> list[Event]:
        """What is in a channel in memory after `drain`."""
        return self._memory().waiting(channel)

    def in_memory(self) -> Pipeline:
        """From now on `publish` puts into queues in memory, for `drain`; what was there is forgotten."""
        self._local = None
        self._memory()
        return self

    def _memory(self) -> local.Local:
        if self._local is None:
            self._local = local.Local()
            for stage in self.stages.values():
                if stage.bound:
                    for source in stage.sources:
                        self._local.bind(stage.channels[0], source, local.matching(stage.match))
        return self._local

    def chosen(self, names: Sequence[str]) -> list[Stage]:
        """The stages of these names, all if there are none; `ValueError`."""
        unknown = [name for name in names if name not in self.stages]
        if unknown or not self.stages:
            raise ValueError(f"no stage {', '.join(unknown)}" if unknown else "the flow has no stages")
        return [stage for name, stage in self.stages.items() if not names or name in names]


def _checksum(function: Callable[..., Any]) -> str:
    """Names the code that a function is part of: eight digits of the checksum of its file."""
    try:
        file = inspect.getsourcefile(function)
        return hashlib.sha256(Path(file or "").read_bytes()).hexdigest()[:8]
    except (OSError, TypeError):
        return ""


def log_to_stderr() -> None:
    """Say on standard error what goes wrong, unless the program has seen to that."""
    log = logging.getLogger("broker.stages")
    if not log.hasHandlers():
        lines = logging.StreamHandler(sys.stderr)
        lines.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(lines)
        log.setLevel(logging.INFO)
