"""Header blocks of SEND that come again and again: decoded once, and what they mean found once for each sender."""

from __future__ import annotations

from typing import Any


class Head:
    """A header block of SEND without its receipt, decoded; told from others by identity."""

    __slots__ = ("headers", "length", "plans")

    def __init__(self, headers: dict[str, str], length: int | None) -> None:
        self.headers = headers
        #: Octets of the body as announced; None: it ends at the first NUL.
        self.length = length
        #: What it means, by the name that is told of its sender.
        self.plans: dict[str, Any] = {}


class Heads:
    """Those of the connections that share them: of one factory, and in one version.

    A block is remembered when it comes a second time: one that is another in each message is known by its hash alone,
    100 bytes instead of 1,000. They are enough for 10,000 queues that are sent to in turn: taken apart each time, such
    a SEND takes 12 us more, and it is put in by itself, which takes another 20.
    """

    #: Bytes of a block that is remembered.
    LONGEST = 512

    __slots__ = ("_came", "_known", "_most", "get")

    def __init__(self, most: int = 16_384) -> None:
        #: Blocks that are remembered at most.
        self._most = most
        #: Hashes of blocks that came.
        self._came: set[int] = set()
        self._known: dict[bytes, Head] = {}
        #: The head of a block that came before; None: it did not, or was forgotten.
        self.get = self._known.get

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._known)

    def came(self, block: bytes, headers: dict[str, str], length: int | None) -> None:
        """A block that is not known; what it says, without its receipt."""
        if len(block) > self.LONGEST:
            return
        mark = hash(block)
        if mark not in self._came:
            if len(self._came) >= self._most:
                self._came.clear()
            self._came.add(mark)
            return
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[block] = Head({name: value for name, value in headers.items() if name != "receipt"}, length)
