"""The servers that are measured: the broker, and those a user would otherwise pick, each with its durability stated.

Each is a process (with its children) on loopback, with its data in a folder of its own. Those of Debian are installed
with apt-get, those of the Python Package Index into environments under ``build/peers``; what cannot be had is left out,
and the report says so.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from benchmarks.measuring import ROOT
from broker import __version__

#: Where peers of the Python Package Index are installed.
ENVIRONMENTS = ROOT / "build" / "peers"
#: Seconds a server has to start; RabbitMQ takes ten on a busy machine.
PATIENCE = 60
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_ACTIVEMQ = Path("/usr/share/activemq")


class NotThere(Exception):
    """A peer that cannot be had, or does not start; with the reason."""


class Server:
    """One running server. A context manager; left, it and all its children are killed."""

    #: What it is called in the report.
    name: ClassVar[str]
    #: Packages of Debian, and of the Python Package Index.
    debian: ClassVar[Sequence[str]] = ()
    pypi: ClassVar[Sequence[str]] = ()
    #: What is said of its durability with the options it is given here.
    durability: ClassVar[str]
    #: Its protocols, as the generator calls them; a port for each.
    protocols: ClassVar[Sequence[str]]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {protocol: free_port() for protocol in self.protocols}
        self.log = (folder / "output").open("wb")
        self.process = self.run(self.command(), self.environment())
        try:
            self._wait()
        except BaseException:
            self.end()
            raise

    # -- what differs

    def command(self) -> Sequence[str]:
        """Its command line."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """What is added to the environment."""
        return {}

    @classmethod
    def version(cls) -> str:
        """As it says itself; raises `NotThere`."""
        raise NotImplementedError

    # -- its life

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a process of its own session, so that it ends with all its children."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | dict(environment),
            stdout=self.log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        for port in self.ports.values():
            while not self.answers(port):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    said = (self.folder / "output").read_text(errors="replace")[-500:]
                    raise NotThere(f"{self.name} does not start: {said.strip()}")
                time.sleep(0.01)

    def answers(self, port: int) -> bool:
        """True once it accepts connections there."""
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            return False
        return True

    def end(self, how: int = signal.SIGKILL) -> None:
        """Stop it."""
        try:
            os.killpg(self.process.pid, how)
        except ProcessLookupError:
            pass
        self.process.wait(PATIENCE)
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end()

    # -- what it takes

    def processes(self) -> list[int]:
        """It and its children."""
        found = [self.process.pid]
        for one in found:
            for task in Path(f"/proc/{one}/task").glob("*/children"):
                found += map(int, _read(task).split())
        return found

    def _said(self, file: str) -> list[str]:
        """What the kernel says of each of them in this file."""
        return [said for one in self.processes() if (said := _read(Path(f"/proc/{one}/{file}")))]

    def cpu(self) -> float:
        """Seconds of processor time, of all its processes."""
        return sum(self.cpu_parts())

    def cpu_parts(self) -> tuple[float, float]:
        """The same in two parts: in its own code, and in the kernel's."""
        own = kernel = 0
        for said in self._said("stat"):
            fields = said.rpartition(")")[2].split()
            own, kernel = own + int(fields[11]), kernel + int(fields[12])
        second = os.sysconf("SC_CLK_TCK")
        return own / second, kernel / second

    def rss(self) -> int:
        """Resident memory in bytes, of all its processes."""
        size = 0
        for said in self._said("status"):
            found = re.search(r"VmRSS:\s+(\d+)", said)
            size += int(found[1]) * 1024 if found else 0
        return size


class Broker(Server):
    """This broker, with all its fronts on."""

    name = "twisted-broker"
    protocols = ("memcache", "stomp", "http")
    durability = "every reply after fdatasync (sync = full)"
    options: ClassVar[Sequence[str]] = ()

    def command(self) -> Sequence[str]:
        fronts = [f"--{name}={port}" for name, port in self.ports.items()]
        twistd = str(Path(sys.executable).parent / "twistd")
        return [twistd, "-n", "--pidfile=", "--logfile=-", "broker", "--log-level=warn", *fronts, *self.options]

    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(ROOT)}

    @classmethod
    def version(cls) -> str:
        return __version__


class MemoryBroker(Broker):
    """Its memory store."""

    name = "twisted-broker in memory"
    durability = "none (--data=:memory:)"
    options = ("--data=:memory:",)


class NormalBroker(Broker):
    """It survives its own end, and not that of the machine."""

    name = "twisted-broker, sync = normal"
    durability = "every reply after the write, no sync"
    options = ("--sync=normal",)


class Memcached(Server):
    name = "memcached"
    debian = ("memcached",)
    protocols = ("memcache",)
    durability = "none: a cache in memory; -t1"

    def command(self) -> Sequence[str]:
        user = ["-u", "root"] if os.getuid() == 0 else []
        return [
            there("memcached"),
            "-l",
            "127.0.0.1",
            "-p",
            str(self.ports["memcache"]),
            "-t1",
            "-m256",
            "-c4096",
            *user,
        ]

    @classmethod
    def version(cls) -> str:
        return said(there("memcached"), "-V")


class Bare(Server):
    """What any server in Python on this reactor costs: it answers, and does nothing else."""

    name = "the reactor alone"
    protocols = ("memcache",)
    durability = "none: it keeps nothing"

    def command(self) -> Sequence[str]:
        serve = f"from benchmarks.reactors import answer; answer({self.ports['memcache']})"
        return [sys.executable, "-c", serve]

    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(ROOT)}

    @classmethod
    def version(cls) -> str:
        return ""


class Beanstalkd(Server):
    name = "beanstalkd"
    debian = ("beanstalkd",)
    protocols = ("beanstalk",)
    durability = "a write-ahead log, fsync at every write (-b -f0)"

    def command(self) -> Sequence[str]:
        port = str(self.ports["beanstalk"])
        return [there("beanstalkd"), "-l", "127.0.0.1", "-p", port, "-b", str(self.folder), "-f0", "-z2000000"]

    @classmethod
    def version(cls) -> str:
        return said(there("beanstalkd"), "-v")


class Redis(Server):
    name = "redis"
    debian = ("redis-server",)
    protocols = ("redis",)
    durability = "an append-only file, fsync before replies (appendfsync always)"

    def command(self) -> Sequence[str]:
        options = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir", str(self.folder)]
        return [there("redis-server"), "--bind", "127.0.0.1", "--port", str(self.ports["redis"]), *options]

    @classmethod
    def version(cls) -> str:
        return said(there("redis-server"), "--version")


class RabbitMQ(Server):
    name = "RabbitMQ"
    debian = ("rabbitmq-server",)
    protocols = ("stomp",)
    durability = "durable queue, persistent messages; a receipt follows fsync"

    def command(self) -> Sequence[str]:
        if not RABBITMQ.exists():
            raise NotThere("rabbitmq-server is not installed")
        self.epmd = free_port()
        (self.folder / "plugins").write_text("[rabbitmq_stomp].\n")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{free_port()}\n"
            f"stomp.listeners.tcp.1 = 127.0.0.1:{self.ports['stomp']}\n"
            "stomp.default_user = guest\nstomp.default_pass = guest\n"
            "vm_memory_high_watermark.absolute = 4GB\ndisk_free_limit.absolute = 100MB\n"
        )
        self.naming = self.run([there("epmd"), "-port", str(self.epmd), "-address", "127.0.0.1"], {})
        return [str(RABBITMQ)]

    def environment(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self.epmd),
            "RABBITMQ_NODENAME": f"bench{self.ports['stomp']}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
        }

    def end(self, how: int = signal.SIGKILL) -> None:
        super().end(how)
        self.naming.kill()
        self.naming.wait()

    @classmethod
    def version(cls) -> str:
        found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
        if not found:
            raise NotThere("rabbitmq-server is not installed")
        return found[-1].name.partition("-")[2]


class ActiveMQ(Server):
    name = "ActiveMQ"
    debian = ("activemq", "default-jre-headless")
    protocols = ("stomp",)
    durability = "persistent messages in KahaDB, which syncs before a receipt"

    def command(self) -> Sequence[str]:
        data = self.folder / "data"
        options = [
            f"-Dactivemq.{name}={value}" for name, value in (("home", _ACTIVEMQ), ("base", self.folder), ("data", data))
        ]
        where = f"broker:(stomp://127.0.0.1:{self.ports['stomp']})?persistent=true&useJmx=false&dataDirectory={data}"
        return [there("java"), "-Xmx1g", *options, "-jar", str(_ACTIVEMQ / "bin" / "activemq.jar"), "start", where]

    @classmethod
    def version(cls) -> str:
        if not (_ACTIVEMQ / "bin" / "activemq.jar").exists():
            raise NotThere("activemq is not installed")
        there("java")
        return said(there("dpkg-query"), "-W", "activemq")


class CoilMQ(Server):
    name = "CoilMQ"
    pypi = ("coilmq",)
    protocols = ("stomp",)
    durability = "none: its default store is in memory"

    def command(self) -> Sequence[str]:
        return [str(ENVIRONMENTS / "coilmq" / "bin" / "coilmq"), "-b", "127.0.0.1", "-p", str(self.ports["stomp"])]

    @classmethod
    def version(cls) -> str:
        return of_environment("coilmq")


class Linger(Server):
    name = "Linger"
    pypi = ("linger",)
    protocols = ("http",)
    durability = "SQLite in a file (--dbfile)"

    def command(self) -> Sequence[str]:
        options = [f"--port={self.ports['http']}", f"--dbfile={self.folder / 'linger.db'}", "--logging=error"]
        return [str(ENVIRONMENTS / "linger" / "bin" / "linger"), *options]

    @classmethod
    def version(cls) -> str:
        return of_environment("linger")


PEERS: Sequence[type[Server]] = (Memcached, Beanstalkd, Redis, RabbitMQ, ActiveMQ, CoilMQ, Linger)
#: What is worth a comparison and cannot be installed from a package: named in the report.
NOT_PACKAGED = ("siberite", "darner", "starling")


def _read(file: Path) -> str:
    """What it says; nothing of a process that has ended since it was listed."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def install(peer: type[Server]) -> None:
    """Install what is missing; raises `NotThere`."""
    try:
        peer.version()
        return
    except NotThere as error:
        print(f"installing {peer.name}: {error}", file=sys.stderr, flush=True)
    if peer.debian:
        if shutil.which("apt-get") is None or os.getuid() != 0:
            raise NotThere(f"{peer.name}: apt-get install {' '.join(peer.debian)}, as root, on Debian")
        _install(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *peer.debian])
    for package in peer.pypi:
        _install([sys.executable, "-m", "venv", str(ENVIRONMENTS / package)])
        _install([str(ENVIRONMENTS / package / "bin" / "pip"), "install", "--quiet", package])
    peer.version()


def _install(command: Sequence[str]) -> None:
    done = subprocess.run(
        command,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise NotThere(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-300:]}")


def there(program: str) -> str:
    """Where a program is; raises `NotThere`."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NotThere(f"{program} is not installed")
    return found


def said(*command: str) -> str:
    """The first number of the form 1.2.3 that a program says of itself."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def of_environment(package: str) -> str:
    """The version of a package that is installed in its own environment; raises `NotThere`."""
    found = list((ENVIRONMENTS / package).glob(f"lib/python*/site-packages/{package}-*.dist-info"))
    if not found:
        raise NotThere(f"{package} is not installed")
    return found[0].name.removesuffix(".dist-info").rpartition("-")[2]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
