"""How a generation of workers fares, told to whoever has started it: a line of JSON, a few times a second."""

from __future__ import annotations

import contextlib
import json
import os
import time

#: Where to: a file descriptor, in the environment.
VARIABLE = "BROKER_FLOW_REPORT"
#: And a pipe that is at its end when he is gone.
LEASH = "BROKER_FLOW_LEASH"
#: Seconds between two lines.
EVERY = 0.25


class Report:
    """Counts inputs that are done and that have failed."""

    def __init__(self) -> None:
        self._done = self._failed = 0
        #: When the next line is to be written; 0: there is nothing new, or nobody to tell.
        self.due = 0.0
        said = os.environ.get(VARIABLE, "")
        self._fd = int(said) if said.isdigit() else -1

    def ready(self) -> None:
        """The workers begin."""
        self.due = time.monotonic() if self._fd >= 0 else 0.0
        self.write(self.due)

    def count(self, done: int, failed: int) -> None:
        """So many more."""
        self._done += done
        self._failed += failed
        if self._fd >= 0 and (done or failed):
            self.due = self.due or time.monotonic() + EVERY

    def write(self, now: float) -> None:
        """Write a line if one is due."""
        if self.due and now >= self.due:
            self.due = 0.0
            line = json.dumps({"done": self._done, "failed": self._failed}) + "\n"
            with contextlib.suppress(OSError):
                os.write(self._fd, line.encode())
