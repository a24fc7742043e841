"""Passwords and tokens as they are kept: never themselves. Pure, and known to the ``broker`` command.

A password is kept as ``scrypt$LOG2N$R$P$SALT$HASH`` (base64): 16 MiB of memory and about 50 ms for every guess. A token
is 256 random bits, which nobody guesses, so its SHA-256 (hexadecimal) is enough, and is found without such a wait.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import unicodedata

#: scrypt's cost: 2**14 rounds of 8 blocks, 16 MiB and 56 ms.
LOG2N, R, P = 14, 8, 1
#: The most a hash in a file may ask for: 64 MiB, 0.25 s.
MAX_LOG2N = 16
#: What OpenSSL is allowed to take (bytes); it needs a little more than 128 * n * r.
_MAX_MEMORY = 128 * 2**MAX_LOG2N * R + 2**20
_SALT_BYTES, _HASH_BYTES = 16, 32
#: Bytes of a password: what memcache's login and a STOMP header take without a thought.
MAX_PASSWORD = 512

_stored = re.compile(r"scrypt\$(?P<log2n>\d{2})\$8\$1\$(?P<salt>[A-Za-z0-9+/=]+)\$(?P<hash>[A-Za-z0-9+/=]+)")
_token = re.compile(r"[0-9a-f]{64}")


class BadSecret(ValueError):
    """Not a password one can have, or not one as it is kept."""


def encode(password: str) -> bytes:
    """The bytes of a password, the same for every way of writing its characters; raises `BadSecret`."""
    try:
        # RFC 8265, OpaqueString: e with an accent is one character or two, as the keyboard likes.
        octets = unicodedata.normalize("NFC", password).encode()
    except UnicodeEncodeError:
        raise BadSecret("the password is not UTF-8") from None
    if not octets:
        raise BadSecret("the password is empty")
    if len(octets) > MAX_PASSWORD:
        raise BadSecret(f"the password is {len(octets)} bytes long, at most {MAX_PASSWORD} are allowed")
    if re.search(rb"[\x00-\x1f\x7f]", octets):
        raise BadSecret("the password holds control characters")
    return octets


def hash_password(password: str) -> str:
    """A password as it is kept. Takes its time (56 ms)."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = _scrypt(encode(password), salt, LOG2N)
    return "$".join(["scrypt", str(LOG2N), str(R), str(P), _text(salt), _text(digest)])


def check_stored(stored: str) -> None:
    """Raise `BadSecret` if `stored` is no password as it is kept."""
    _parts(stored)


def check_stored_token(stored: str) -> None:
    """Raise `BadSecret` if `stored` is no token as it is kept."""
    if not _token.fullmatch(stored):
        raise BadSecret("not a SHA-256 as `broker user token` writes it: 64 hexadecimal digits")


def verify(password: bytes, stored: str) -> bool:
    """True if `stored` is that password (see `encode`). Takes its time (56 ms)."""
    log2n, salt, digest = _parts(stored)
    return hmac.compare_digest(_scrypt(password, salt, log2n), digest)


def unknown() -> str:
    """Kept instead of the password of somebody who has none: no password is that one, and to see it takes as long."""
    return "$".join(
        ["scrypt", str(LOG2N), str(R), str(P), *(_text(secrets.token_bytes(n)) for n in (_SALT_BYTES, _HASH_BYTES))]
    )


def new_token() -> str:
    """A token, to be shown once."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """A token as it is kept."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def _scrypt(password: bytes, salt: bytes, log2n: int) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=2**log2n, r=R, p=P, maxmem=_MAX_MEMORY, dklen=_HASH_BYTES)


def _parts(stored: str) -> tuple[int, bytes, bytes]:
    found = _stored.fullmatch(stored)
    if found is None:
        raise BadSecret("not a hash as `broker user passwd` writes it: scrypt$14$8$1$SALT$HASH")
    log2n = int(found["log2n"])
    if not LOG2N <= log2n <= MAX_LOG2N:
        raise BadSecret(f"its cost is 2**{log2n}, it must be 2**{LOG2N} to 2**{MAX_LOG2N}")
    try:
        salt, digest = (base64.b64decode(found[name], validate=True) for name in ("salt", "hash"))
    except binascii.Error:
        raise BadSecret("its salt or hash is not base64") from None
    if len(salt) < _SALT_BYTES or len(digest) != _HASH_BYTES:
        raise BadSecret(f"its salt has less than {_SALT_BYTES} bytes, or its hash not {_HASH_BYTES}")
    return log2n, salt, digest


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
