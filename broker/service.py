"""``twistd broker``: its options, its start, and the one page on which the broker is wired.

`makeService` checks all it can and ends the process with one line if something is wrong, in the foreground and before
going to the background alike. What it makes is opened afterwards, and closed, by `broker.running`, so that no database
handle crosses the daemon's fork.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import cast

from twisted.internet.base import ReactorBase
from twisted.internet.threads import deferToThread
from twisted.logger import FilteringLogObserver, ILogObserver, Logger
from twisted.python import usage
from twisted.scripts._twistd_unix import UnixAppLogger

from broker import busy
from broker.audit import Audit
from broker.auth.limits import Arrivals
from broker.auth.users import HashingThreads, Users
from broker.config import MEMORY, Config
from broker.core.broker import Broker
from broker.core.level import Level
from broker.core.store import IStore
from broker.debug import Levels, on_quit
from broker.errors import ConfigError
from broker.fronts import make_front
from broker.gate import Gate, Wrapped
from broker.listen import Described, InUse, Way
from broker.listeners import NAMES, wishes
from broker.lock import Lock
from broker.logs import begin_anew, bounded, in_json
from broker.options import Options
from broker.proxy import Proxied
from broker.reactor import install
from broker.running import BrokerService, IBrokerReactor
from broker.settings import Settings
from broker.status import ServerStatus, StatusFile
from broker.storage.memory import MemoryStore
from broker.storage.sqlite import SQLiteStore
from broker.succession import Estate, take
from broker.tls import Secured
from broker.tracing import TracedBroker, Tracing, provider, wanted
from broker.upgrade import Generations

#: New objects until Python looks for garbage in cycles; its own 700 come with every second commit. Messages are in no
#: cycle, so that nearly nothing is found: 15 to 20 % of the processor time of memcache. Then, how often it looks at the
#: new ones until it looks at those that outlived it: while 10,000 queues come to be that is a pause of 15 to 37 ms,
#: with its own 10 one of 60 to 90. And how often at those until it looks at all there is: as rarely as by its own
#: numbers.
GARBAGE = (20_000, 3, 30)

_log = Logger()


def makeService(options: Options) -> Generations:
    """twistd's entry. Ends the process with a line on standard error and status 1 if the broker cannot start."""
    stock = install()
    if stock:
        _log.info("Twisted's own reactor: {why}", why=stock)
    from twisted.internet import reactor as installed

    reactor = cast(IBrokerReactor, installed)
    gc.set_threshold(*GARBAGE)
    before = take()

    def renew(config: Config, estate: Estate | None, is_quiet: bool) -> BrokerService:
        tell = _teller(options.parent, config) if estate is None else _told
        broker = build(
            config, reactor=reactor, tell=(lambda line: None) if is_quiet else tell, estate=estate, levels=levels
        )
        broker.on_failure = lambda: _end(reactor)
        if options["config"] is not None:
            broker.reloading.configure(config, options.config)
        return broker

    try:
        options.absolute()
        config = options.config()
        levels = Levels(config.log_level)
        generations = Generations(reactor, config, options.parent, renew, lambda: _end(reactor))
        if before is None:
            generations.begin(renew(config, None, False))
        else:
            generations.follow(before)
    except ConfigError as error:
        sys.exit(f"broker: {error.reason}")
    if options.parent is not None:
        _steady(installed)
        generations.log_observer = lambda: _observer(options.parent, config, reactor, levels)
        on_quit(reactor)
    # Their default actions would end the process. nohup's wish to ignore one stands.
    for number, asked in ((signal.SIGHUP, generations.reload), (signal.SIGUSR2, generations.signalled)):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_, asked=asked: reactor.callFromThread(asked))
    return generations


def _steady(reactor: object) -> None:
    """Let timers count what passes: Twisted's go by the wall clock, and stand still for an hour if that is set back."""
    if not isinstance(reactor, ReactorBase) or type(reactor).callLater is not ReactorBase.callLater:
        return
    if not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic


def _observer(of_twistd: usage.Options, config: Config, reactor: IBrokerReactor, levels: Levels) -> ILogObserver:
    """twistd's own log as `config` wants it; twistd itself would write everything, and as text."""
    # The one private name of Twisted here: it knows --logfile and --syslog.
    observer = bounded(UnixAppLogger(of_twistd)._getLogObserver())
    # Its own way would end the process without a log file, and lose lines where logrotate has moved it.
    if signal.getsignal(signal.SIGUSR1) != signal.SIG_IGN:
        signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(begin_anew, observer))
    return FilteringLogObserver(in_json(observer) if config.log_format == "json" else observer, [levels])


def _teller(of_twistd: usage.Options | None, config: Config) -> Callable[[str], None]:
    """How to tell whoever starts the broker something: print it, but not between the objects of a log in JSON."""
    if of_twistd is not None and config.log_format == "json":
        if of_twistd["syslog"]:
            raise ConfigError("log_format: syslog takes text only; log to a file or to standard output, or in text")
        if of_twistd["nodaemon"] and of_twistd["logfile"] in (None, "", "-"):
            return _told
    return _print


def _told(line: str) -> None:
    _log.info("{line}", line=line.removeprefix("broker: "))


def _print(line: str) -> None:
    print(line, flush=True)


def _end(reactor: IBrokerReactor) -> None:
    """Stop the reactor and see to it that the process ends with status 1, for which twistd has no other way."""

    def exit_late() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    atexit.register(exit_late)
    reactor.callWhenRunning(reactor.stop)


def build(
    config: Config,
    *,
    reactor: IBrokerReactor,
    store: IStore | None = None,
    tell: Callable[[str], None] = _print,
    estate: Estate | None = None,
    levels: Levels | None = None,
) -> BrokerService:
    """Check the surroundings, take what the broker needs of them, and wire it. Raises `ConfigError`.

    With `store` the configuration's data file is not looked at. `tell` is given lines for whoever starts the broker.
    `estate` is what an earlier broker has left. `levels` say what is logged.
    """
    estate = estate or Estate([])
    wished = wishes(config, reactor)
    hashing = HashingThreads(reactor)
    users = None
    if config.users is not None:
        users = Users(
            config.users,
            run=hashing.run,
            now=reactor.seconds,
            allow_anonymous=config.allow_anonymous,
            bounds=config.limits,
        )
    arrivals = Arrivals(config.limits, reactor.seconds)
    audit = None if config.audit is None else Audit(config.audit, wall=time.time, later=reactor.callFromThread)
    with contextlib.ExitStack() as taken:  # given back if anything below fails
        lock = None
        if store is None and config.data == MEMORY:
            store = MemoryStore(clock=reactor)
        elif store is None:
            _check_data(config.data)
            lock = estate.locked(config.data) or Lock(config.data)
            taken.callback(lock.release)
            store = SQLiteStore(config.data, sync=config.sync)
        settings = Settings(f"{config.data}.settings" if lock is not None else None)
        make = partial(TracedBroker, Tracing(provider)) if wanted() else Broker
        broker = make(store, reactor, policy=config.policies, configured=settings.load())
        result = BrokerService(broker, reactor, lock, users, hashing, audit)
        result.settings = settings
        result.reloading.bounded.append(arrivals.change)
        result.levels = levels or Levels(config.log_level)
        result.status = _status(config, reactor, broker, kept=lock is not None)
        broker.stats.fronts = result.front_stats
        for wish in wished:
            way: Way
            try:
                way = bound = estate.bound(wish.front, wish.place) or wish.place.bind()
            except InUse as error:
                if wish.named:
                    raise
                tell(f"broker: warning: {NAMES[wish.front]} is off, {error.reason}")
                continue
            taken.callback(way.close)
            result.bound.append((wish.front, wish.place, bound))
            if wish.trusted is not None:
                # Wherever it listens, those who come to the proxy come in.
                way = Wrapped(way, partial(Proxied, wish.trusted, reactor), local=False)
            if not (way.local or users is not None or config.allow_anonymous):
                raise ConfigError(
                    f"{NAMES[wish.front]} on {way.name} is open to anybody on the network; name --users (users = FILE) "
                    "or, if that is meant, say --allow-anonymous (allow_anonymous = true)"
                )
            named = isinstance(wish.place, Described) or way.name.startswith("unix:")
            scheme = "http://" if wish.front == "http" and not named else ""
            words = busy.words(wish.front, wish.said) if wish.certificates is None else None
            way = Wrapped(way, partial(Gate, NAMES[wish.front], arrivals, reactor, words), way.local)
            if wish.certificates is not None:
                result.reloading.certificates.append(wish.certificates)
                secure, scheme = "https" if wish.front == "http" else "tls", ""
                way = Secured(way, wish.certificates, reactor, secure, result.door.at(NAMES[wish.front]).admits)
            result.fronts.append(make_front(wish, way, config, result))
            tell(f"broker: {NAMES[wish.front]} on {scheme}{way.name}")
        if not result.fronts:
            raise ConfigError("it would listen nowhere: every front is off or its port is in use")
        taken.pop_all()
    if config.users is not None:
        tell(f"broker: users in {config.users}")
    if lock is not None:
        tell(f"broker: data in {config.data} (sync {config.sync})")
    elif config.data == MEMORY:
        tell("broker: data in memory only, forgotten when the broker ends")
    return result


def _status(config: Config, reactor: IBrokerReactor, broker: Broker, *, kept: bool) -> ServerStatus:
    """What the broker does for clients, as it was when it ended."""
    grace = config.status_grace / 1000
    if not kept:
        return ServerStatus(reactor, grace, enforce=broker.status.become)
    file = StatusFile(f"{config.data}.status")
    level = file.read()
    if level is not Level.UP:
        _log.warn("the server's status is {status}, as it was when the broker ended", status=level.name)
    return ServerStatus(
        reactor, grace, level, lambda level: deferToThread(file.write, level), enforce=broker.status.become
    )


def _check_data(path: str) -> None:
    """Raise `ConfigError` if the data file could not be opened or made."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise ConfigError(f"the data directory {directory} does not exist")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(f"the data directory {directory} is not writable")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(f"the data file {path} is not a file")
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError(f"the data file {path} is not readable and writable")
