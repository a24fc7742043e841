"""New code without stopping: the broker of this process is handed on to a new process, and taken back if that fails.

The old process starts the new one with its own arguments and the code that is on disk now. The new one imports
everything, reads the configuration, the users and the certificates and finds its sockets, while the old one serves as
ever. Only then the old one stops accepting, ends its connections as when it stops, and closes the store; the new one
opens it and accepts. Clients that connect meanwhile wait. See `broker.succession` for what they say to each other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from socket import socketpair
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from twisted.application import service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized

from broker import inherited, successor
from broker.config import MEMORY, Config
from broker.errors import BrokerError, ConfigError, NotUpgraded
from broker.listen import Described
from broker.storage import migrate
from broker.succession import FAILED, GO, PREPARED, READY, Channel, Estate, Succession, to_json

if TYPE_CHECKING:
    from broker.running import BrokerService, IBrokerReactor

#: Seconds the new process has to prove itself; a slow machine takes three.
PROOF = 60.0
#: Seconds it has to end when it has failed, or is stopped.
END = 30.0

_log = Logger()


class Next(NamedTuple):
    """The process that is to follow this one."""

    process: subprocess.Popen[bytes]
    channel: Channel
    #: What it says before it can say it on the channel.
    errors: IO[bytes]


class Start(NamedTuple):
    """How this process was started; taken before it changes its directory and goes to the background."""

    arguments: list[str]
    directory: str
    #: The sockets of systemd's.
    systemd: list[int]

    @classmethod
    def now(cls) -> Start:
        """As it is now."""
        arguments = [shutil.which(sys.argv[0]) or os.path.abspath(sys.argv[0]), *sys.argv[1:]]
        return cls(arguments, os.getcwd(), inherited.descriptors())

    @property
    def interpreter(self) -> str:
        """What runs twistd's script at the next start: another than now, if that is another by now."""
        try:
            with open(self.arguments[0], "rb") as script:
                first = script.readline(1000)
        except OSError:
            return sys.executable
        named = os.fsdecode(first.removeprefix(b"#!").strip())
        is_python = first.startswith(b"#!") and Path(named).name.startswith("python") and os.access(named, os.X_OK)
        return named if is_python else sys.executable


class Generations(service.MultiService):
    """The broker of this process: the first one, the one after another process's, or the one that was taken back.

    `renew` makes a broker of a configuration and of what an earlier one has left; quietly, if it is only tried. It
    raises `ConfigError`. `of_twistd` are twistd's options.
    """

    def __init__(
        self,
        reactor: IBrokerReactor,
        config: Config,
        of_twistd: usage.Options | None,
        renew: Callable[[Config, Estate | None, bool], BrokerService],
        on_failure: Callable[[], None],
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._config = config
        self._twistd = of_twistd
        self._renew = renew
        self._on_failure = on_failure
        self._start = Start.now()
        #: The broker that serves, or did last.
        self.current: BrokerService | None = None
        #: What twistd logs to, if it is not told otherwise; None: its own choice.
        self.log_observer: Callable[[], ILogObserver] | None = None
        self._before: Succession | None = None
        self._to_before: Channel | None = None
        self._pidfile = ""
        self._next: Next | None = None
        #: What is going on, as whoever asks for it again is told; empty: nothing.
        self._under_way = ""
        self._ending: Deferred[None] = succeed(None)
        self._is_stopping = False

    def setServiceParent(self, parent: service.IServiceCollection) -> None:
        """Become part of twistd's application, which asks its components where to log."""
        super().setServiceParent(parent)
        if self.log_observer is not None:
            cast(Componentized, parent).setComponent(ILogObserver, self.log_observer())

    # -- beginning

    def begin(self, broker: BrokerService) -> None:
        """Let this broker be the one."""
        self.current = broker
        broker.upgrade = self.upgrade
        broker.setServiceParent(self)

    def follow(self, before: Succession) -> None:
        """Be the one after another process's: prove that it can be, and wait for it. Raises `ConfigError`."""
        if self._config.data != MEMORY:
            migrate.check(self._config.data)
        self._renew(self._config, before.estate.anew(), True).let_go()
        self._before = before
        if self._twistd is not None:
            self._pidfile, self._twistd["pidfile"] = self._twistd["pidfile"], ""

    def startService(self) -> None:
        """Take the store into use, or wait until another process lets it go."""
        super().startService()
        if self._before is not None:
            self._ending = Deferred.fromCoroutine(self._follow(self._before))

    async def _follow(self, before: Succession) -> None:
        self._to_before = channel = Channel(self._reactor, before.channel)
        channel.say(PREPARED)
        await channel.hear()
        if self._is_stopping:
            channel.close()
            return
        reason = ""
        try:
            broker = self._renew(self._config, before.estate, False)
            before.estate.close()
            self.begin(broker)
            await broker.opening
            reason = broker.failure
        except ConfigError as error:
            reason = error.reason
            _log.critical("cannot start: {reason}", reason=reason)
            self._on_failure()
        except Exception:
            reason = "see the log"
            _log.failure("cannot start")
            self._on_failure()
        if reason or self._is_stopping:
            channel.say(f"{FAILED} {reason or 'it was stopped'}")
            return
        self._name_process()
        channel.say(READY)
        await channel.hear()  # the end of the old one: from now on systemd listens to us
        channel.close()
        if broker.ready:
            broker.notifier.ready()

    def _name_process(self) -> None:
        """Have the file name this process, whole at any moment."""
        if self._twistd is None or not self._pidfile:
            return
        self._twistd["pidfile"] = self._pidfile
        text = str(os.getpid())
        try:
            with open(f"{self._pidfile}.new", "w") as file:
                file.write(text)
            os.replace(f"{self._pidfile}.new", self._pidfile)
        except OSError as error:
            _log.warn("cannot write {path}: {reason}", path=self._pidfile, reason=error.strerror)

    # -- while it runs

    def reload(self) -> None:
        """SIGHUP: read users and policies again; whoever follows has just read them."""
        if self.current is None or self.current.handing_on:
            _log.info("SIGHUP: not now, an upgrade is under way")
        else:
            self.current.reload()

    def signalled(self) -> None:
        """SIGUSR2: an upgrade; what there is to say is in the log."""
        _ = Deferred.fromCoroutine(self._signalled())

    async def _signalled(self) -> None:
        try:
            await self.upgrade("SIGUSR2")
        except NotUpgraded:
            pass
        except Exception:
            _log.failure("SIGUSR2: could not upgrade")

    async def upgrade(self, asked: str) -> int:
        """Have a new process prove itself, and begin to hand on to it; its id.

        Raises `NotUpgraded`: everything is as it was. The log's lines begin with who `asked`.
        """
        try:
            if why := self._hindrance():
                raise NotUpgraded(why)
            assert self.current is not None
            self._under_way = "an upgrade is under way already"
            self._ending = proving = Deferred[None]()
            try:
                estate = self.current.estate()
                following = await self._prove(asked, estate)
            except BaseException:
                self._under_way = ""
                raise
            finally:
                proving.callback(None)
        except NotUpgraded as error:
            _log.error("{asked}: no upgrade, this process goes on: {reason}", asked=asked, reason=error.reason)
            raise
        self._ending = Deferred.fromCoroutine(self._hand_on(self.current, estate, following))
        return following.process.pid

    def _hindrance(self) -> str:
        """Why there can be no upgrade now; empty: there can."""
        if self._under_way or self.current is None:
            return self._under_way or "the broker is starting"
        if not self.current.ready:
            return self.current.unready()
        if self._twistd is None or "pidfile" not in self._twistd:
            return "it was not started by twistd"
        if self._twistd["chroot"]:
            return "--chroot leaves no way to the new code"
        if os.getpid() == 1:
            return "this is process 1, with which its container ends: start a new one instead"
        if self._config.data == MEMORY:
            return "the data are in memory only, and would be forgotten: stop it, and start it again"
        own = [way.name for _, _, way in self.current.bound if isinstance(way, Described)]
        if own:
            return f"{own[0]} cannot be handed on: let it be a port, host:port, with a tls table for TLS, or systemd's"
        return ""

    async def _prove(self, asked: str, estate: Estate) -> Next:
        """Start the next process, and wait until it could serve."""
        _log.info("{asked}: upgrade: starting a new process", asked=asked)
        ours, theirs = socketpair()
        errors = tempfile.TemporaryFile()  # noqa: SIM115  # the process's
        try:
            process = await deferToThread(self._spawn, estate, theirs.fileno(), errors)
        except OSError as error:
            ours.close()
            errors.close()
            raise NotUpgraded(f"cannot start a process: {error.strerror}: {error.filename}") from None
        finally:
            theirs.close()
        self._next = following = Next(process, Channel(self._reactor, ours), errors)
        if self._is_stopping:
            process.terminate()
        late = self._reactor.callLater(PROOF, process.kill)
        word = await following.channel.hear()
        is_late = not late.active()
        if not is_late:
            late.cancel()
        if word == PREPARED and not self._is_stopping:
            return following
        self._next = None
        why = f"it was not done in {PROOF:g} seconds" if is_late else await self._why(following, word)
        raise NotUpgraded(f"the new process cannot serve: {why}")

    def _spawn(self, estate: Estate, channel: int, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        start = self._start
        stderr = os.dup(2)
        try:
            environment = dict(os.environ) | {successor.VARIABLE: to_json(estate, channel, stderr)}
            environment |= {"LISTEN_FDS": str(len(start.systemd))} if start.systemd else {}
            descriptors = [channel, stderr, *estate.descriptors, *start.systemd]
            command = [start.interpreter, "-P", "-m", successor.__name__, *start.arguments]
            return subprocess.Popen(
                command, cwd=start.directory, env=environment, pass_fds=descriptors, stderr=errors.fileno()
            )
        finally:
            os.close(stderr)

    async def _why(self, following: Next, word: str) -> str:
        """Why the new process has failed; when it is gone."""
        status = await deferToThread(_ended, following.process)
        following.channel.close()
        with following.errors:
            following.errors.seek(0)
            last = (following.errors.read().decode(errors="replace").strip().splitlines() or [""])[-1]
        told = word.removeprefix(FAILED).strip() if word.startswith(FAILED) else last
        return told or (f"signal {-status} ended it" if status < 0 else f"it ended with status {status}")

    # -- handing on

    async def _hand_on(self, current: BrokerService, estate: Estate, following: Next) -> None:
        pid = following.process.pid
        _log.info("upgrade: process {pid} could serve; handing on", pid=pid)
        current.handing_on = True
        await maybeDeferred(current.disownServiceParent)
        following.channel.say(GO)
        word = await following.channel.hear()
        if word == READY:
            _log.info("upgrade: process {pid} serves; this one ends", pid=pid)
            current.notifier.succeeded_by(pid)
            if self._twistd is not None:
                self._twistd["pidfile"] = ""  # it names the other one now
            self._next = None
            if self._is_stopping:
                await deferToThread(_ended, following.process)
            else:
                self._reactor.stop()
            return
        why = await self._why(following, word)
        self._next = None
        if self._is_stopping:
            current.let_go()
            return
        _log.error("upgrade: process {pid} failed, taking back: {reason}", pid=pid, reason=why)
        current.notifier.close()
        try:
            again = self._renew(current.reloading.config, estate, True)
        except BrokerError as error:
            _log.critical("cannot take back: {reason}", reason=error.reason)
            self._on_failure()
            return
        finally:
            current.let_go()
            self._under_way = ""
        self.begin(again)

    def stopService(self) -> Deferred[Any]:
        """End the broker, and the process that was to follow. Fires when the data are free."""
        self._is_stopping = True
        if self._next is not None:
            self._next.process.terminate()
        if self._to_before is not None:
            self._to_before.close()  # who waits for our end is not waited for
        return maybeDeferred(super().stopService).addCallback(lambda _: self._ending)


def _ended(process: subprocess.Popen[bytes]) -> int:
    """How the process ended, which is made to."""
    try:
        return process.wait(END)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
