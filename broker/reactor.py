"""Which reactor the broker runs on: the lean one of `broker.lean` wherever nobody has chosen another."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Mapping

from twisted.internet.main import installReactor

import twisted

#: Versions of Twisted the lean reactor was tested with. It overrides what another may have changed.
TESTED = ("26.10.0",)
#: Set to anything but 0 in the environment, it keeps Twisted's own reactor.
STOCK = "BROKER_STOCK_REACTOR"


def install(environment: Mapping[str, str] = os.environ) -> str:
    """Install the lean reactor if nothing is against it; return why Twisted's own is used, empty if it is not."""
    why = _why_not(environment)
    if not why:
        from broker.lean import LeanReactor

        installReactor(LeanReactor())
    return why


def _why_not(environment: Mapping[str, str]) -> str:
    if "twisted.internet.reactor" in sys.modules:
        if any(one.__name__ == "LeanReactor" for one in type(sys.modules["twisted.internet.reactor"]).__mro__):
            return ""
        return "it was there already, by --reactor for one"
    if environment.get(STOCK, "0") not in ("", "0"):
        return f"{STOCK} is set"
    if not hasattr(select, "epoll"):
        return "the lean one needs epoll, which is Linux's"
    if twisted.__version__ not in TESTED:
        return f"the lean one was tested with Twisted {' and '.join(TESTED)}, this is {twisted.__version__}"
    return ""
