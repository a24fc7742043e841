"""A program that is started for each input: its standard input is the body, its standard output what comes of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import IO

from broker.stages.event import BYTES, JSON, TEXT, Event, attributes_of
from broker.stages.verdict import LeaseLost, Reject, Retry

#: What a program's exit status means: as in <sysexits.h>.
TEMPFAIL, DATAERR = 75, 65
#: Bytes of standard output that are outputs, and of the end of standard error that is the reason.
MAX_OUTPUT, MAX_ERROR = 8 * 1024 * 1024, 2_048
#: Characters of one variable: the system takes 128 KiB at most.
_MAX_VARIABLE = 32 * 1024
#: Seconds between two looks at whether the work still counts.
_GLANCE = 0.25
_CHUNK = 64 * 1024

_odd = re.compile(r"[^A-Z0-9]")


class OneShot:
    """The function of a stage: runs `command`, and has its output as one, or with `lines` each line as one."""

    #: One input cannot kill another.
    apart = True

    def __init__(
        self,
        command: Sequence[str],
        *,
        lines: bool = False,
        timeout: float = 0,
        content_type: str | None = None,
        successes: Sequence[int] = (),
    ) -> None:
        """`successes` are further statuses that mean that all is well: grep's 1, say."""
        self._command = list(command)
        self._lines = lines
        self._timeout = timeout
        self._content_type = content_type
        self._successes = {0, *successes}

    def __call__(self, event: Event) -> Iterator[Event]:
        status, output, error = self._run(event)
        if status not in self._successes:
            raise _verdict(status, error)
        for one in output.split(b"\n") if self._lines else [output]:
            one = one.removesuffix(b"\r") if self._lines else one
            if one:
                yield event.child(one, content_type=self._content_type or type_of(one))

    def _run(self, event: Event) -> tuple[int, bytes, bytes]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment(event)},
            start_new_session=True,
        )
        talk = _Talk(process, event.raw)
        deadline = time.monotonic() + self._timeout if self._timeout else 0.0
        try:
            while talk.go_on(_GLANCE):
                if event.lost:
                    raise LeaseLost
                if deadline and time.monotonic() > deadline:
                    raise Retry(f"it took longer than {self._timeout:g} s{_tail(bytes(talk.error))}")
                if len(talk.output) > MAX_OUTPUT:
                    raise Reject(f"it printed more than {MAX_OUTPUT} bytes")
        finally:
            talk.end()
        return process.returncode, bytes(talk.output), bytes(talk.error)


class _Talk:
    """What goes to a process and comes from it, as fast as either goes."""

    def __init__(self, process: subprocess.Popen[bytes], given: bytes) -> None:
        self._process = process
        self._given = memoryview(given)
        self.output, self.error = bytearray(), bytearray()
        self._selector = selectors.DefaultSelector()
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._files: list[IO[bytes]] = [process.stdin, process.stdout, process.stderr]
        for file in self._files:
            os.set_blocking(file.fileno(), False)
        self._selector.register(process.stdin, selectors.EVENT_WRITE)
        self._selector.register(process.stdout, selectors.EVENT_READ, self.output)
        self._selector.register(process.stderr, selectors.EVENT_READ, self.error)

    def go_on(self, pause: float) -> bool:
        """Move what can be moved; False once the process has ended and said all."""
        ended = self._process.poll() is not None  # asked before the look: what it printed until then is found there
        ready = self._selector.select(0 if ended else pause)
        for key, _ in ready:
            if key.data is None:
                self._write()
            else:
                self._read(key.fileobj, key.data)  # type: ignore[arg-type]
        if not any(key.data is not None for key in self._selector.get_map().values()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(pause)
                return False
            return True
        # a child of its own may hold its pipes open for ever; that is not waited for
        return bool(ready) or not ended

    def _write(self) -> None:
        stdin = self._files[0]
        try:
            self._given = self._given[os.write(stdin.fileno(), self._given[:_CHUNK]) :] if self._given else self._given
        except BlockingIOError:
            return
        except OSError:
            self._given = memoryview(b"")  # it does not want the rest
        if not self._given:
            self._selector.unregister(stdin)
            with contextlib.suppress(OSError):
                stdin.close()

    def _read(self, file: IO[bytes], kept: bytearray) -> None:
        said = os.read(file.fileno(), _CHUNK)
        if not said:
            self._selector.unregister(file)
            return
        kept += said
        if kept is self.error and len(kept) > 2 * MAX_ERROR:
            del kept[:-MAX_ERROR]

    def end(self) -> None:
        """Let nothing of it be left: what it has started goes with it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()


def environment(event: Event) -> dict[str, str]:
    """What a program finds in its environment: the attributes of the event as ``CE_ID``, ``CE_TYPE``, ..."""
    found = {f"CE_{_odd.sub('_', name.upper())}": value for name, value in attributes_of(event).items()}
    found |= {"ATTEMPT": str(event.attempt), "CHANNEL": event.channel, "CONTENT_TYPE": event.content_type}
    return {name: value.replace("\0", "")[:_MAX_VARIABLE] for name, value in found.items()}


def type_of(output: bytes) -> str:
    """What an output is if nobody says: JSON if it is an object or a list, else text if it can be."""
    try:
        if output.lstrip()[:1] in (b"{", b"["):
            json.loads(output)
            return JSON
    except (ValueError, RecursionError):
        pass
    try:
        output.decode()
        return TEXT
    except UnicodeDecodeError:
        return BYTES


def _verdict(status: int, error: bytes) -> Exception:
    tail = _tail(error)
    if status == DATAERR:
        return Reject(tail.removeprefix(": ") or f"exit status {status}")
    if status == TEMPFAIL:
        return Retry(tail.removeprefix(": ") or f"exit status {status}")
    return Retry((f"killed by signal {-status}" if status < 0 else f"exit status {status}") + tail)


def _tail(error: bytes) -> str:
    said = error[-MAX_ERROR:].decode(errors="replace").strip()
    return f": {said}" if said else ""
