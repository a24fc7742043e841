"""Who may talk to us through a browser: the check of ``Host`` and ``Origin``.

A page from anywhere can post to a server on the visitor's own machine, and one whose name is rebound to 127.0.0.1 can
read from it. Both give themselves away: the first by a foreign ``Origin``, the second by a foreign ``Host``. Programs
that are no browsers send no ``Origin``, and the ``Host`` they were told to connect to.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from broker.http.problem import Problem

#: ``name``, ``name:port``, ``[address]:port``.
_authority = re.compile(r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+)\]|(?P<name>[^\s:/\\@\[\]]+))(?::[0-9]*)?")
_origin = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://(?P<authority>.*)")


def check(host: str | None, origin: str | None, bound: str, hosts: Collection[str] = ()) -> None:
    """Raise `Problem` 403 if the request is for, or from, somebody else.

    Ours are the loopback names and addresses, `bound` (the address the connection came in at), and `hosts`: names in
    lower case, without ports; ``*`` among them allows all.
    """
    if "*" in hosts:
        return
    if host is not None and not _ours(host, bound, hosts):
        raise Problem(403, "forbidden", "This Host is not allowed.")
    if origin is not None:
        found = _origin.fullmatch(origin)
        if found is None or not _ours(found["authority"], bound, hosts):
            raise Problem(403, "forbidden", "This Origin is not allowed.")


def _ours(authority: str, bound: str, hosts: Collection[str]) -> bool:
    found = _authority.fullmatch(authority)
    if found is None:
        return False
    name = (found["ipv6"] or found["name"]).lower().removesuffix(".")
    if name in hosts or name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and (address.is_loopback or address == _address(bound))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # what a socket for both families calls an IPv4 address
    return (address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address
