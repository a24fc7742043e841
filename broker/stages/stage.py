"""What a stage is: the channels it reads, its function, where its outputs go, and its rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import attrs

Mode = Literal["thread", "process", "async"]
#: Seconds before an input is tried again: after its first failure, its second, ...; the last for all further ones.
BACKOFF = (1.0, 5.0, 30.0, 300.0)
#: Attempts after which an input runs alone, in a process of its own: it may be what killed the others.
ALONE_AFTER = 2


@attrs.frozen(kw_only=True)
class Stage:
    """One stage of a flow."""

    name: str
    flow: str
    #: What it reads: channels, or topics as ``topic:NAME``.
    sources: tuple[str, ...]
    function: Callable[..., Any]
    #: Where its outputs go; empty: they say so themselves, or there are none.
    to: str = ""
    #: Inputs, or batches, worked on at a time by one worker.
    concurrency: int = 1
    batch: int = 1
    #: Seconds a message is on loan; touched at half of it while the function runs.
    lease: int = 30
    #: Failures after which an input is dead; 0: the first one is the last.
    retries: int = 5
    backoff: tuple[float, ...] = BACKOFF
    #: Where dead inputs go; empty: they are dropped. None: to the channel they were in, with ``.dead`` behind its name.
    dead: str | None = None
    #: A filter: only inputs it is true of.
    match: str = ""
    mode: Mode = "thread"
    #: Seconds an input may take; 0: for ever.
    timeout: float = 0

    @property
    def apart(self) -> bool:
        """True if the function has a process of its own for each input, so that none can kill another."""
        return bool(getattr(self.function, "apart", False))

    def close(self) -> None:
        """Let the function end what it has started."""
        close = getattr(self.function, "close", None)
        if close is not None:
            close()

    @property
    def full_name(self) -> str:
        """Flow and stage."""
        return f"{self.flow}/{self.name}"

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels it takes messages of: its sources, or one of its own that is bound to them."""
        return (f"{self.flow}.{self.name}",) if self.bound else self.sources

    @property
    def bound(self) -> bool:
        """True if it reads by a channel of its own: topics, and what a filter is to be asked about."""
        return bool(self.match) or any(source.startswith("topic:") for source in self.sources)

    def dead_of(self, channel: str) -> str:
        """Where what dies of this channel goes; empty: it is dropped."""
        return f"{channel}.dead" if self.dead is None else self.dead

    def waits(self, attempt: int) -> float:
        """Seconds until it is tried again what failed at this attempt."""
        return self.backoff[min(attempt, len(self.backoff)) - 1] if self.backoff else 0

    def said(self) -> dict[str, Any]:
        """What the flow's definition says about it."""
        return {
            "name": self.name,
            "from": list(self.sources),
            "channels": list(self.channels),
            "to": self.to,
            "dead": [dead for channel in self.channels if (dead := self.dead_of(channel))],
            "match": self.match,
        }


def checked(
    sources: str | Sequence[str], concurrency: int, batch: int, lease: int, retries: int, mode: str, timeout: float
) -> tuple[str, ...]:
    """The sources of a stage; `ValueError` for what cannot be."""
    names = (sources,) if isinstance(sources, str) else tuple(sources)
    if not names or not all(names):
        raise ValueError("a stage reads one channel at least")
    if concurrency < 1 or not 1 <= batch <= 500 or lease < 1 or retries < 0 or timeout < 0:
        raise ValueError("concurrency and lease are 1 or more, batch 1 to 500, retries and timeout 0 or more")
    if mode not in ("thread", "process", "async"):
        raise ValueError(f"mode is thread, process or async, not {mode!r}")
    if timeout and mode == "thread":
        raise ValueError("timeout: a thread cannot be ended; say mode=process or async")
    return names
