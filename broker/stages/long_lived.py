"""A program that runs on and gets one input after the other, several at a time, as lines or frames of JSON.

It says any number of outputs, then that it is done with the input, or that it failed. If it ends, or says what cannot
be understood, whatever it had is tried again, by a new one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

import attrs

from broker.stages.event import Event
from broker.stages.frames import FRAMES, Ack, BadFrame, Nack, Output, event_as_json, read
from broker.stages.one_shot import MAX_ERROR, type_of
from broker.stages.verdict import Later, LeaseLost, Reject, Retry

log = logging.getLogger("broker.stages")

#: Seconds between two looks at whether the work still counts; for which one that is to end may go on.
_GLANCE, _PATIENCE = 0.25, 10.0
#: Seconds in which one that has closed its output may end by itself, and say why.
_FAREWELL = 2.0
#: Seconds until a program that ended is started again.
_REST = 0.2
#: Outputs of one input.
_MOST = 10_000


@attrs.define(eq=False)
class _Input:
    event: Event
    outputs: list[Output] = attrs.field(factory=list)
    ended: threading.Event = attrs.field(factory=threading.Event)
    error: Exception | None = None

    def end(self, error: Exception | None = None) -> None:
        if not self.ended.is_set():
            self.error = error
            self.ended.set()


class LongLived:
    """The function of a stage. Any number of threads may call it; they share the program."""

    def __init__(
        self, command: Sequence[str], frame: str, *, timeout: float = 0, content_type: str | None = None
    ) -> None:
        self._command = list(command)
        self._frame = frame
        self._timeout = timeout
        self._content_type = content_type
        self._lock = threading.Lock()
        self._program: _Program | None = None
        self._owner = os.getpid()

    def __call__(self, event: Event) -> list[Event]:
        program, given = self._given(event)
        deadline = time.monotonic() + self._timeout if self._timeout else 0.0
        while not given.ended.wait(_GLANCE):
            if event.lost:
                program.forget(given)
                raise LeaseLost
            if deadline and time.monotonic() > deadline:
                given.end(Retry(f"no answer in {self._timeout:g} s"))
                program.end(Later())
        if given.error is not None:
            raise given.error
        return [self._child(event, output) for output in given.outputs]

    def _child(self, event: Event, output: Output) -> Event:
        said = dict(output.said)
        if self._content_type:
            said["content_type"] = self._content_type
        elif isinstance(output.data, bytes) and "content_type" not in said:
            said["content_type"] = type_of(output.data)
        return event.child(output.data, **said)

    def _given(self, event: Event) -> tuple[_Program, _Input]:
        """Hand an input to the program, to a new one if need be."""
        with self._lock:
            if self._owner != os.getpid():
                self._owner, self._program = os.getpid(), None  # it is that of the process we were
            if self._program is None or self._program.over:
                if self._program is not None:
                    time.sleep(_REST)
                self._program = _Program(self._command, self._frame)
            return self._program, self._program.give(event)

    def close(self) -> None:
        """End the program: no more inputs, and it should go."""
        with self._lock:
            program, self._program = self._program, None
        if program is not None and self._owner == os.getpid():
            program.close()


class _Program:
    """One process."""

    def __init__(self, command: list[str], frame: str) -> None:
        reader, self._framed = FRAMES[frame]
        self._reader = reader()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._lock = threading.Lock()
        #: What it has, by id, in the order in which it got them.
        self._given: dict[str, _Input] = {}
        #: Outputs that name no parent: the next verdict's.
        self._loose: list[Output] = []
        self._error = b""
        self.over = False
        self._to_say: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        errors = threading.Thread(target=self._read_errors, daemon=True)
        errors.start()
        threading.Thread(target=self._write, daemon=True).start()
        threading.Thread(target=self._read, args=(errors,), daemon=True).start()

    def give(self, event: Event) -> _Input:
        """Hand it an input."""
        given = _Input(event)
        with self._lock:
            over = self.over or event.id in self._given
            if not over:
                self._given[event.id] = given
        if over:
            given.end(Later())  # it has just ended; or it has one of this id, which comes first
        else:
            self._to_say.put(self._framed(event_as_json(event)))
        return given

    def forget(self, given: _Input) -> None:
        """What it says about this counts no more."""
        with self._lock:
            self._given.pop(given.event.id, None)

    def end(self, error: Exception) -> None:
        """Kill it; whatever it has ends so."""
        with self._lock:
            self.over = True
            given = list(self._given.values())
            self._given.clear()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for one in given:
            one.end(error)

    def close(self) -> None:
        """Say that nothing more comes, and wait for its end."""
        self._to_say.put(None)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            log.warning("%s did not end with its input; it is killed", self._process.args)
        self.end(Later())
        self._process.wait()

    # -- in threads of their own

    def _write(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):
            while (said := self._to_say.get()) is not None:
                stdin.write(said)
                stdin.flush()
        with contextlib.suppress(OSError):
            stdin.close()

    def _read_errors(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        while said := os.read(stderr.fileno(), 65536):
            self._error = (self._error + said)[-MAX_ERROR:]
        stderr.close()

    def _read(self, errors: threading.Thread) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        trouble = ""
        try:
            while said := os.read(stdout.fileno(), 65536):
                for frame in self._reader.feed(said):
                    self._said(read(frame))
        except BadFrame as error:
            trouble = f"the program said what cannot be understood: {error}"
        if not trouble and self._reader.rest.strip():
            trouble = f"the program ended within {self._reader.rest[:80]!r}"
        if trouble:
            self.end(Retry(trouble))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_FAREWELL)  # it has closed its output: it ends now, or is ended
        status = self._process.poll()
        errors.join(_FAREWELL)
        words = self._error.decode(errors="replace").strip()
        self.end(Retry(f"the program ended ({_ending(status)})" + (f": {words}" if words else "")))
        self._process.wait()
        self._to_say.put(None)
        stdout.close()

    def _said(self, said: Ack | Nack | Output) -> None:
        with self._lock:
            if isinstance(said, Output):
                kept = self._given[said.parent].outputs if said.parent in self._given else self._loose
                kept.append(said)
                if len(kept) > _MOST:
                    raise BadFrame(f"more than {_MOST} outputs without a verdict")
                return
            given = self._given.pop(said.id, None)
            loose, self._loose = self._loose, []
        if given is None:
            log.warning("%s spoke about %r, which it has not", self._process.args, said.id[:80])
            return
        if isinstance(said, Ack):
            given.outputs += loose
            given.end()
        elif said.dead:
            given.end(Reject(said.reason or "nack"))
        else:
            given.end(Retry(said.reason or "nack", said.after))


def _ending(status: int | None) -> Any:
    if status is None:
        return "it closed its output"
    return f"signal {-status}" if status < 0 else f"exit status {status}"
