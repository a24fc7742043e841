"""What a flow is, as a retained message: whoever asks the broker gets to know its stages and the version it wants.

Topic ``flow/NAME`` holds it; the last message counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode
from uuid import uuid4

from broker.stages.link import Link, Refused, Unreachable, channel_path
from broker.stages.stage import Stage

log = logging.getLogger("broker.stages")

#: Asks the broker: method, path, and what is sent as JSON; gives what it answers, and raises as its client does.
Ask: TypeAlias = Callable[[str, str, Any], Any]
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


def read(ask: Ask, flow: str) -> dict[str, Any]:
    """The definition that holds; empty: nobody has said anything."""
    past = _past(ask, flow)
    return past[-1] if past else {}


def amend(ask: Ask, flow: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Let what `change` makes of the definition hold; None: it stays.

    Somebody else's may come between the look and the word. His is not lost: the change is made once more, of that.
    """
    base, ours = read(ask, flow), set[str]()
    while True:
        new = change(dict(base))
        if new is None and not ours:
            return
        mark = uuid4().hex
        ours.add(mark)
        ask("POST", topic_path(flow), {**(base if new is None else new), "change": mark})
        past = _past(ask, flow)
        places = [place for place, one in enumerate(past) if one.get("change") == mark]
        others = [one for one in past[: max(places, default=0)] if one.get("change") not in ours]
        if not others or others[-1] == base:  # of what is too large only the last is kept
            return
        base = others[-1]


def _past(ask: Ask, flow: str) -> list[dict[str, Any]]:
    """All definitions that are kept, the last one last."""
    found, after = [], 0
    while True:
        page = ask("GET", topic_path(flow, f"/messages?limit=1000&after={after}"), None)
        found += [said for message in page["messages"] if isinstance(said := message["event"].get("data"), dict)]
        if page.get("after") is None:
            return found
        after = page["after"]


def announce(
    link: Link, flow: str, stages: Sequence[Stage], version: str, retain: float, *, whole: bool = True
) -> None:
    """Say what the flow is, unless that is known; without the right to, only a warning.

    If these are the `whole` flow, other stages are forgotten, but for programs that run beside it.
    """
    said = [{**stage.said(), "beside": not whole} for stage in stages]
    all_of_it: list[dict[str, Any]] = []

    def change(known: dict[str, Any]) -> dict[str, Any] | None:
        all_of_it[:] = merged(known.get("stages", []), said, whole)
        if known.get("stages") == all_of_it:
            return None
        link.request("PATCH", topic_path(flow, "/config"), {"retain_bytes": KEPT})
        return {**known, "flow": flow, "stages": all_of_it, "wanted": known.get("wanted") or version}

    try:
        amend(link.ask, flow, change)
        if retain:
            for channel in channels_of({"stages": all_of_it}):
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
