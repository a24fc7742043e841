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
    installed = sys.modules.get("twisted.internet.reactor")
    if installed is not None:
        lean = sys.modules.get("broker.lean")  # not imported without need: there may be no epoll
        is_lean = lean is not None and isinstance(installed, lean.LeanReactor)
        return "" if is_lean else "it was there already, as with --reactor"
    if environment.get(STOCK, "0") not in ("", "0"):
        return f"{STOCK} is set"
    if not hasattr(select, "epoll"):
        return "the lean one needs Linux's epoll"
    if twisted.__version__ not in TESTED:
        return f"the lean one was tested with Twisted {' and '.join(TESTED)}, this is {twisted.__version__}"
    from broker.lean import LeanReactor

    installReactor(LeanReactor())
    return ""
