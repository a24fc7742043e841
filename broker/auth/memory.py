"""What is remembered of logins, in bounded memory: who was verified, and who failed how often. Pure."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Callable

#: Verified credentials that are remembered. 100 bytes each; the one that was longest not used goes first.
MAX_VERIFIED = 4096
#: Names, and addresses, whose failures are remembered; the one that failed longest ago goes first.
MAX_KEYS = 10_000


class Verified:
    """Credentials that were verified, so that who connects again does not cost a hash.

    Only an HMAC is kept, under a key of this process: a dump of our memory helps to guess a password no more than any
    other process that has seen it. The stored hash is part of it, so a changed password is another credential.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def digest(self, name: str, password: bytes, stored: str) -> bytes:
        """What stands for these credentials."""
        said = name.encode(), password, stored.encode()
        # With lengths, or two credentials could be one string.
        return hmac.digest(self._key, b"".join(b"%d:%b" % (len(part), part) for part in said), "sha256")

    def __contains__(self, digest: bytes) -> bool:
        if digest not in self._seen:
            return False
        self._seen.move_to_end(digest)
        return True

    def add(self, digest: bytes) -> None:
        """They are right."""
        self._seen[digest] = None
        self._seen.move_to_end(digest)
        if len(self._seen) > MAX_VERIFIED:
            self._seen.popitem(last=False)

    def __len__(self) -> int:
        return len(self._seen)


class Failures:
    """Failed logins by some key: `burst` of them at once, then one every `period` seconds.

    `now` gives seconds. Nothing is remembered of a key whose failures are that long ago.
    """

    def __init__(self, now: Callable[[], float], *, burst: int, period: float) -> None:
        self._now = now
        self._burst = burst
        self._period = period
        #: When the failures of a key will all be forgiven; the one that failed last is last.
        self._until: OrderedDict[str, float] = OrderedDict()

    def spent(self, key: str) -> bool:
        """True while no further try is given."""
        return self._until.get(key, 0.0) - self._now() > (self._burst - 1) * self._period

    def count(self, key: str) -> bool:
        """It failed once more; True if that was the last try for now."""
        now = self._now()
        self._until[key] = max(self._until.get(key, 0.0), now) + self._period
        self._until.move_to_end(key)
        if len(self._until) > MAX_KEYS:
            self._until.popitem(last=False)
        return self.spent(key)

    def __len__(self) -> int:
        return len(self._until)


def network(address: str) -> str:
    """What counts as one client: an IPv4 address, the 64 bits of an IPv6 address that one household has, or a word."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((found, 64), strict=False))
    return str(found)
