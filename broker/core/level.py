"""How much a broker does at the moment, as its operator says."""

from __future__ import annotations

from enum import Enum


class Level(Enum):
    """What an operator says of the broker; the stricter the higher."""

    UP = 1
    #: A hint for clients; nothing is refused.
    WRITEAVOID = 2
    #: Nothing is put in; what is there is worked off.
    DRAINING = 3
    #: Nothing is deleted by the whole queue either.
    READONLY = 4
    #: Nothing is taken either; what is on loan may be settled.
    QUIESCENT = 5
