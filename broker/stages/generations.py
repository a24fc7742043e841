"""Code that changes while it runs: generations of a flow's workers on one machine.

A new version is fetched by the update command, tested by itself, and started; then the old generation takes nothing
more and finishes what it has. If one of these fails the old one stays. A canary runs beside the old generation for a
while, with a part of its workers, and is stopped if more of its inputs fail.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from broker.stages.definition import amend, read
from broker.stages.link import Link, Refused, Unreachable
from broker.stages.report import LEASH, VARIABLE

log = logging.getLogger("broker.stages")

#: Seconds between two looks at the files, and at what is wanted.
LOOK_AT_FILES, LOOK_AT_BROKER = 0.25, 1.0
#: Seconds an update command, and a self-test, may take.
UPDATE, TEST = 600, 120
#: Inputs that a canary works on before it is judged, if nobody says how many.
JUDGED = 50
#: By how much more of them may fail than of the old generation's.
WORSE = 0.02


@attrs.define(eq=False)
class Generation:
    """The workers of one version."""

    version: str
    process: subprocess.Popen[bytes]
    started: float
    #: Inputs done and failed so far.
    done: int = 0
    failed: int = 0
    #: Set once it works: it is loaded, and its self-test has succeeded.
    ready: threading.Event = attrs.field(factory=threading.Event)

    def read(self, pipe: Any, held: int) -> None:
        """Take down what it reports, until it ends; `held` is closed then."""
        with pipe:
            for line in pipe:
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    self.done, self.failed = said["done"], said["failed"]
                    self.ready.set()
        os.close(held)

    @property
    def worked(self) -> int:
        """Inputs it has worked on."""
        return self.done + self.failed

    @property
    def failing(self) -> float:
        """The part of them that failed."""
        return self.failed / self.worked if self.worked else 0.0


class Generations:
    """All of one flow on this machine: mostly one, two while one replaces the other."""

    def __init__(
        self,
        place: str,
        stages: list[str],
        flow: str,
        link: Link,
        *,
        version: str = "",
        update: str = "",
        watched: list[Path] | None = None,
    ) -> None:
        """`place` is the flow's file; `update` a shell command, in which ``{version}`` is the one that is wanted.

        `watched`: folders and files; when something in them changes, a new generation is started.
        """
        self._place = place
        self._stages = stages
        self._flow = flow
        self._link = link
        self._version = version
        self._update = update
        self._watched = watched or []
        self._now: Generation | None = None
        self._canary: Generation | None = None
        self._judged = JUDGED
        self._leaving: list[Generation] = []
        self._stop = threading.Event()
        #: Somebody has asked for a new generation of what is there.
        self._asked = threading.Event()
        #: Which deployment was begun last, and those that failed here.
        self._deployed = ""
        self._refused: set[str] = set()
        self._environment = dict(os.environ)
        if self._watched:  # what changes twice in a second is not seen by what Python keeps of it
            self._environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def run(self) -> int:
        """Until SIGTERM or SIGINT; SIGHUP starts a new generation. The exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        signal.signal(signal.SIGHUP, lambda *_: self._asked.set())
        self._now = self._start(self._version)
        if self._now is None:
            return 1
        seen, looked = dict(self._files()), 0.0
        while not self._stop.wait(LOOK_AT_FILES):
            files = dict(self._files())
            if files != seen or self._asked.is_set():
                log.info("files have changed" if files != seen else "somebody asks for new workers")
                self._asked.clear()
                seen = files
                if new := self._start(self._version):
                    self._swap(new)
                else:
                    log.error("the old generation stays")
            if time.monotonic() >= looked + LOOK_AT_BROKER:
                looked = time.monotonic()
                self._look_at_what_is_wanted()
            self._judge()
            self._revive()
        for one in self._all():
            self._end(one)
        for one in [*self._all(), *self._leaving]:
            one.process.wait()
        return 0

    # -- what is wanted

    def _look_at_what_is_wanted(self) -> None:
        """Begin what somebody has deployed."""
        try:
            said = read(self._link.ask, self._flow)
        except (Unreachable, Refused):
            return
        wanted, share = str(said.get("wanted") or ""), said.get("canary")
        canary = self._canary
        if canary is not None and (wanted != canary.version or not share):
            self._canary = None
            self._end(canary)
            if wanted == canary.version:
                log.info("version %s is wanted everywhere now", wanted)
        running = self._now.version if self._now is not None else ""
        deployed = str(said.get("deployed") or "")
        if not wanted or not deployed or wanted == running or deployed in self._refused or self._canary is not None:
            return
        self._deployed = deployed
        inputs = said.get("canary_inputs")
        self._judged = inputs if isinstance(inputs, int) else JUDGED
        new = self._start(wanted, share if isinstance(share, int) else 100) if self._updated(wanted) else None
        if new is None:
            self._refuse(wanted)
        elif isinstance(share, int):
            log.info("version %s runs as a canary, with %d %% of the workers", wanted, share)
            self._canary = new
        else:
            self._swap(new)

    def _refuse(self, version: str) -> None:
        self._refused.add(self._deployed)
        log.error("version %s is not run here; %s stays", version, self._now.version if self._now else "nothing")
        if self._update and self._now is not None and self._now.version:
            self._updated(self._now.version)

    def _updated(self, version: str) -> bool:
        """Have the update command fetch a version; whether it did."""
        if not self._update:
            return True
        command = self._update.replace("{version}", shlex.quote(version))
        log.info("update: %s", command)
        try:
            # A shell, as the command is the operator's own; the version that is put into it is quoted.
            done = subprocess.run(  # nosec B602
                command, shell=True, timeout=UPDATE, capture_output=True, text=True, errors="replace"
            )
        except subprocess.TimeoutExpired:
            log.error("the update took longer than %d s", UPDATE)
            return False
        if done.returncode:
            log.error("the update failed, with status %d: %s", done.returncode, (done.stdout + done.stderr).strip())
        return not done.returncode

    # -- canaries

    def _judge(self) -> None:
        """Stop a canary that is worse than what runs, let one that is not take over; once it has done enough."""
        canary, now = self._canary, self._now
        if canary is None or now is None or canary.worked < self._judged:
            return
        self._canary = None
        worse = canary.failing > now.failing + WORSE
        words = f"{canary.failed} of its {canary.worked} inputs failed, {now.failed} of {now.worked} of {now.version}'s"
        if worse:
            log.error("canary %s is stopped: %s", canary.version, words)
            self._end(canary)
            self._refuse(canary.version)
            self._say(canary.version, words)
        else:
            log.info("canary %s is good: %s", canary.version, words)
            new = self._start(canary.version)
            self._end(canary)
            if new is not None:
                self._swap(new)
                self._say(canary.version, "")

    def _say(self, version: str, why: str) -> None:
        """Let everybody know what became of a canary: stopped, and why; or it is wanted everywhere."""

        def change(said: dict[str, Any]) -> dict[str, Any] | None:
            if said.get("wanted") != version:
                return None
            said.pop("canary", None)
            if why:
                said["refused"] = {version: why}
                said["wanted"] = said.get("before") or ""
            return said

        try:
            amend(self._link.ask, self._flow, change)
        except (Unreachable, Refused) as error:
            log.error("what became of version %s could not be said: %s", version, error)

    # -- processes

    def _all(self) -> list[Generation]:
        return [one for one in (self._now, self._canary) if one is not None]

    def _start(self, version: str, share: int = 100) -> Generation | None:
        """A new generation of what is there now; None if it does not load, or its self-test fails."""
        ours, theirs = os.pipe()
        leash, held = os.pipe()  # `held` is open as long as we live
        environment = {**self._environment, VARIABLE: str(theirs), LEASH: str(leash), "BROKER_FLOW_SHARE": str(share)}
        if version:
            environment["BROKER_FLOW_VERSION"] = version
        command = [sys.executable, "-m", "broker.stages", self._place, *self._stages]
        # a group of its own: Ctrl-C is ours to pass on
        process = subprocess.Popen(command, env=environment, pass_fds=[theirs, leash], process_group=0)
        os.close(theirs)
        os.close(leash)
        new = Generation(version, process, time.monotonic())
        threading.Thread(target=new.read, args=(os.fdopen(ours, "rb"), held), daemon=True).start()
        while not new.ready.wait(0.05) and process.poll() is None and not self._stop.is_set():
            if time.monotonic() > new.started + TEST:
                log.error("the self-test took longer than %d s", TEST)
                process.kill()
                process.wait()
        if process.poll() is not None:
            log.error("%s does not run: status %d", f"version {version}" if version else "the flow", process.returncode)
            return None
        log.info("started %s as process %d", f"version {version}" if version else "the flow", process.pid)
        return new

    def _swap(self, new: Generation) -> None:
        old, self._now = self._now, new
        self._version = new.version
        if old is not None:
            self._end(old)

    def _end(self, generation: Generation) -> None:
        """It takes nothing more, and ends when it has finished."""
        with contextlib.suppress(ProcessLookupError):
            generation.process.terminate()
        self._leaving.append(generation)

    def _revive(self) -> None:
        self._leaving = [one for one in self._leaving if one.process.poll() is None]
        now = self._now
        if now is not None and now.process.poll() is not None and time.monotonic() > now.started + 1:
            log.error("the workers ended by themselves, with status %s; they are started again", now.process.returncode)
            now.started = time.monotonic()
            self._now = self._start(now.version) or now

    def _files(self) -> Iterator[tuple[str, int]]:
        """Everything that is watched, with when it was changed."""
        for place in self._watched:
            for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
                with contextlib.suppress(OSError):
                    yield str(path), path.stat().st_mtime_ns
