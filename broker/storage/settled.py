"""The settled set of a reader, as the stores need it: chunk by chunk."""

from __future__ import annotations

from broker.core.bits import CHUNK, Bits


class Settled(Bits):
    """A settled set whose chunks can be written and loaded one by one."""

    __slots__ = ()

    def chunk(self, number: int) -> int:
        """The bits above the cursor of one chunk; 0: there is nothing to keep of it."""
        mask = self._chunks.get(number, 0) if self._chunks else 0
        passed = min(max(self.cursor - number * CHUNK, 0), CHUNK)
        return mask >> passed << passed

    def load(self, number: int, mask: int) -> None:
        """Take one chunk as `chunk` gave it."""
        passed = min(max(self.cursor - number * CHUNK, 0), CHUNK)
        mask = mask >> passed << passed
        if mask:
            if self._chunks is None:
                self._chunks = {}
            self._chunks[number] = mask
            self.count += mask.bit_count()

    def last_open(self, seq: int) -> int:
        """The last number before `seq` that is not settled; below the cursor if there is none."""
        while seq > self.cursor:
            number, width = (seq - 1) // CHUNK, (seq - 1) % CHUNK + 1
            free = ~self.chunk(number) & ((1 << width) - 1)
            if free:
                return number * CHUNK + free.bit_length() - 1
            seq -= width
        return self.cursor - 1
