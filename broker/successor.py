"""``python -P -m broker.successor TWISTD ARGUMENTS``: the process that follows a running broker, as that one starts it.

It imports all the broker's code before anything else is done: what is broken is told to the old process, which goes on.
Nothing of Twisted is imported above, where a failure could not be told; and systemd's sockets are said to be this
process's first, as Twisted asks for them when it is imported.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
from typing import Any

import broker

#: Tells a process in its environment that it follows another, and what it has from it.
VARIABLE = "BROKER_SUCCESSION"
#: Not of the serving process: their libraries may be missing.
NOT_SERVED = ("broker.cli", "broker.stages", "broker.successor")
#: Signals that would end it before it has its own ways with them.
EARLY = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Prove that the code is whole, and be twistd."""
    for one in EARLY:
        if signal.getsignal(one) != signal.SIG_IGN:
            signal.signal(one, lambda *_: None)
    said = json.loads(os.environ.pop(VARIABLE))
    channel = socket.socket(fileno=said["channel"])
    os.dup2(said["errors"], 2)
    os.close(said["errors"])
    for of_whom, what in (("LISTEN_PID", "LISTEN_FDS"), ("WATCHDOG_PID", "WATCHDOG_PID")):
        if what in os.environ:
            os.environ[of_whom] = str(os.getpid())
    try:
        _import_all()
        _twistd(said, channel)
    except BaseException as error:
        if channel.fileno() < 0 or (isinstance(error, SystemExit) and not isinstance(error.code, str)):
            raise
        # The old process logs it; here it would be there twice.
        reason = str(error).removeprefix("broker: ") if isinstance(error, SystemExit) else _words(error)
        channel.send(f"failed {' '.join(reason.split())}\n".encode()[:2000])
        sys.exit(1)


def _import_all() -> None:
    for module in pkgutil.walk_packages(broker.__path__, "broker."):
        if module.name.startswith(NOT_SERVED):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            # An extra that is not installed; what is needed all the same is missed by the service, below.
            if (error.name or "broker").partition(".")[0] == "broker":
                raise


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _twistd(said: dict[str, Any], channel: socket.socket) -> None:
    from twisted.application import app
    from twisted.scripts._twistd_unix import ServerOptions, UnixApplicationRunner

    from broker import succession

    succession.leave(succession.of_json(said, channel))

    class Runner(UnixApplicationRunner):
        """twistd's, in the place of one that is there already: its process file is its own, and it is detached."""

        def preApplication(self) -> None:
            """Twisted's would see the old process, and refuse."""
            self.config["nodaemon"] = self.config["nodaemon"] or self.config["debug"]
            self.oldstdout, self.oldstderr = sys.stdout, sys.stderr

        def setupEnvironment(
            self, chroot: str | None, rundir: str, nodaemon: bool, umask: int | None, pidfile: str | None
        ) -> None:
            """Without the file: it names the old process, until this one serves."""
            super().setupEnvironment(chroot, rundir, nodaemon, umask, None)

        def daemonize(self, reactor: object) -> None:
            """Who started this process is in the background."""

    def run(config: ServerOptions) -> None:
        runner = Runner(config)
        runner.run()
        if runner._exitSignal is not None:
            app._exitWithSignal(runner._exitSignal)

    sys.argv = sys.argv[1:]
    app.run(run, ServerOptions)


if __name__ == "__main__":
    main()
