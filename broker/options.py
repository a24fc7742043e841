"""The options of ``twistd broker``."""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec
from twisted.python import usage

from broker import __version__
from broker.config import MEMORY, Config, from_dict, load


class Options(usage.Options):
    """The command line. It has the last word on what a configuration file says."""

    synopsis = "[options]"
    longdesc = (
        "A queue and pub/sub server for memcache, STOMP and HTTP clients. WHERE is a port (on 127.0.0.1), host:port, "
        'a Twisted endpoint string, or "off"; port 0 is any free port, which is printed. --memcache, --stomp and '
        "--http may be given several times; one that is not given listens on its default port."
    )
    optParameters = [
        ["config", None, None, "A TOML file with these options as its keys."],
        ["data", None, None, "The data file, relative to the run directory, or :memory:. [default: broker.sqlite]"],
        ["sync", None, None, "What a confirmed message survives: full = power loss, normal = a crash. [default: full]"],
        ["users", None, None, "The file of those who may log in; see `broker user`. [default: nobody is asked]"],
        ["log-level", None, None, "The least that is logged: debug, info, warn or error. [default: info]"],
        ["log-format", None, None, "How it is logged: text, or json, one object a line. [default: text]"],
    ]
    optFlags = [
        [
            "allow-anonymous",
            None,
            "Let in who names no user: beyond loopback too, or with --users as `anonymous`.",
        ],
    ]

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, Any] = {}

    def _where(self, front: str, where: str) -> None:
        self.said.setdefault(front, []).append(where)

    def opt_memcache(self, where: str) -> None:
        """Where memcache clients connect. [default: 22122]"""
        self._where("memcache", where)

    def opt_stomp(self, where: str) -> None:
        """Where STOMP clients connect. [default: 61613]"""
        self._where("stomp", where)

    def opt_http(self, where: str) -> None:
        """Where HTTP clients connect. [default: 8989]"""
        self._where("http", where)

    def opt_http_host(self, name: str) -> None:
        """A further name under which HTTP may be spoken to, and from whose pages; * for any."""
        self.said.setdefault("http_host", []).append(name)

    def opt_version(self) -> None:
        """Print the broker's version and exit."""
        print(f"twisted-broker {__version__}")
        sys.exit(0)

    def absolute(self) -> None:
        """Make the configuration's path hold after twistd has changed its directory: it is read again on SIGHUP."""
        if self["config"] is not None:
            self["config"] = os.path.abspath(self["config"])

    def config(self) -> Config:
        """The file's configuration with the command line's words over it; raises `ConfigError`."""
        said = dict(self.said)
        for option in ("data", "sync", "log-level", "log-format", "users"):
            if self[option] is not None:
                said[option.replace("-", "_")] = self[option]
        if self["allow-anonymous"]:
            said["allow_anonymous"] = True
        of_file = load(self["config"]) if self["config"] is not None else Config()
        of_line = from_dict(said)
        config = msgspec.structs.replace(of_file, **{key: getattr(of_line, key) for key in said})
        if config.users is not None:
            config = msgspec.structs.replace(config, users=os.path.abspath(config.users))
        if config.audit is not None:
            config = msgspec.structs.replace(config, audit=os.path.abspath(config.audit))
        if config.data == MEMORY:
            return config
        # twistd changes to its run directory later, when it goes to the background.
        run_directory = self.parent["rundir"] if self.parent else "."
        return msgspec.structs.replace(config, data=os.path.abspath(os.path.join(run_directory, config.data)))
