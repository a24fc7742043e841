"""Log events as JSON, one object a line, for programs that read logs; and log files that such programs move away."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime
from typing import Any

from twisted.logger import FileLogObserver, ILogObserver, LogEvent, formatEvent
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from twisted.python.reflect import safe_str

#: Old log files that are kept, a megabyte each. A flood of connections must not fill the disk.
FILES = 100

#: What an event of Twisted's older log has beside its text, said here in other words.
_LEGACY = frozenset({"message", "time", "system", "isError", "format", "failure", "why"})


def in_json(observer: FileLogObserver) -> FileLogObserver:
    """The same observer, with the same file and the same way to rotate it, writing JSON from now on."""
    observer.formatEvent = as_json
    return observer


def as_json(event: LogEvent) -> str:
    """One event: ``time``, ``level``, ``namespace``, ``message``, then its own fields; a failure as ``failure``.

    A field that has one of these names gets an underscore behind it. ASCII, so that no name in it can end the line or
    hide in it.
    """
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(event.get("log_time", 0), UTC).isoformat(timespec="microseconds"),
        "level": event["log_level"].name if "log_level" in event else "info",
        "namespace": event.get("log_namespace", ""),
        "message": formatEvent(event),
    }
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        line["failure"] = {
            "type": f"{failure.type.__module__}.{failure.type.__qualname__}" if failure.type is not None else "",
            "message": failure.getErrorMessage(),
            "traceback": failure.getTraceback(),
        }
    legacy = _LEGACY if "isError" in event else frozenset()
    for name, value in event.items():
        if not name.startswith("log_") and name not in legacy:
            line[f"{name}_" if name in line else name] = _plain(value)
    return json.dumps(line) + "\n"


def _plain(value: object) -> str | int | float | bool | None:
    """A value as JSON has it; whatever is no plain value, as its text."""
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else safe_str(value)


def bounded(observer: Any) -> Any:
    """The same observer, with no more than `FILES` old files kept: whoever connects again and again writes lines."""
    if isinstance(file := _file(observer), LogFile):
        file.maxRotatedFiles = FILES
    return observer


def begin_anew(observer: ILogObserver) -> None:
    """Write to a new file from now on, if it is a file; if logrotate has moved the old one, nothing else is moved."""
    file = _file(observer)
    if not isinstance(file, LogFile):
        return
    try:
        here = os.path.samestat(os.stat(file.path), os.fstat(file._file.fileno()))
    except FileNotFoundError:
        here = False
    if here:
        file.rotate()
    else:
        file.reopen()


def _file(observer: object) -> object:
    """What it writes to; no public name has it."""
    return getattr(observer, "_outFile", None)
