"""What a flow is, as a retained message: whoever asks the broker gets to know its stages and the version it wants.

Topic ``flow/NAME`` holds it; the last message counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from broker.stages.link import Link, Refused, Unreachable, channel_path
from broker.stages.stage import Stage

log = logging.getLogger("broker.stages")

#: Bytes of a flow's past that are kept.
KEPT = 256 * 1024


def topic_path(flow: str, rest: str = "") -> str:
    """The path of a flow's topic."""
    return f"/topics/{quote(f'flow/{flow}', safe='')}{rest}"


def bind(link: Link, stages: Sequence[Stage], patience: float = 60) -> None:
    """Bind the channels that stages read to their sources; waits so many seconds for a broker that does not answer."""
    deadline = time.monotonic() + patience
    for stage in stages:
        for source in stage.sources if stage.bound else ():
            one = source if source.startswith("topic:") else f"queue:{source}"
            query = f"?{urlencode({'match': stage.match})}" if stage.match else ""
            path = channel_path(stage.channels[0], f"/sources/{quote(one, safe='')}{query}")
            while True:
                try:
                    link.request("PUT", path)
                    break
                except Unreachable:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)


def read(link: Link, flow: str) -> dict[str, Any] | None:
    """The definition that holds; None: nobody has said anything. Raises `Unreachable`, `Refused`."""
    last, after = None, 0
    while True:
        page = link.request("GET", topic_path(flow, f"/messages?limit=1000&after={after}")).json()
        for message in page["messages"]:
            last = message["event"].get("data")
        if page.get("after") is None:
            return last if isinstance(last, dict) else None
        after = page["after"]


def write(link: Link, flow: str, definition: dict[str, Any]) -> None:
    """Let this definition hold. Raises `Unreachable`, `Refused`."""
    link.request("PATCH", topic_path(flow, "/config"), {"retain_bytes": KEPT})
    link.request("POST", topic_path(flow), definition)


def announce(
    link: Link, flow: str, stages: Sequence[Stage], version: str, retain: float, *, whole: bool = True
) -> None:
    """Say what the flow is, unless that is known; without the right to, only a warning.

    If these are the `whole` flow, other stages are forgotten, but for programs that run beside it.
    """
    said = [{**stage.said(), "beside": not whole} for stage in stages]
    try:
        known = read(link, flow) or {}
        said = merged(known.get("stages", []), said, whole)
        if known.get("stages") != said:
            write(link, flow, {**known, "flow": flow, "stages": said, "wanted": known.get("wanted") or version})
        if retain:
            for channel in channels_of({"stages": said}):
                link.request("PATCH", channel_path(channel, "/config"), {"retain": int(retain * 1000)})
    except (Refused, Unreachable) as error:
        log.warning("flow %s: its definition could not be stored: %s", flow, error)


def merged(known: list[dict[str, Any]], said: list[dict[str, Any]], whole: bool) -> list[dict[str, Any]]:
    """The stages of a flow, when somebody says what his are."""
    ours = {one["name"]: one for one in said}
    if whole:
        return said + [one for one in known if one.get("beside") and one["name"] not in ours]
    kept = [ours.pop(one["name"], one) for one in known]
    return kept + list(ours.values())


def channels_of(definition: dict[str, Any]) -> list[str]:
    """All channels of a flow, in the order in which messages pass them, the dead last."""
    stages = definition.get("stages", [])
    names = [name for stage in stages for name in (*stage["channels"], stage["to"])]
    names += [name for stage in stages for name in stage["dead"]]
    return [name for name in dict.fromkeys(names) if name and not name.startswith("topic:")]
