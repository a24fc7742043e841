"""``broker replay`` and ``broker redrive``: the past, or what waits or died, put in again by a running broker.

The work is the broker's: a command that is interrupted only stops showing how far it is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from broker.cli.client import Client
from broker.cli.exits import Exit
from broker.cli.output import as_json, printed, short, table
from broker.cli.parsing import Commands, add, add_group, count

#: Seconds between two looks at a replay: at first, and later on.
_FIRST, _LOOK = 0.1, 0.5
#: Characters of the bar.
_BAR = 24

Run = Callable[[Client, argparse.Namespace], int]


def add_to(commands: Commands) -> None:
    """Add the commands."""
    actions = add_group(
        commands,
        "replay",
        metavar="ACTION",
        help="put messages of the past in again",
        description="Put messages of the past, or what waits in a queue, in again; look at replays and change them.",
    )
    begin = add(actions, "run", _run, help="begin a replay, and show how far it is")
    begin.add_argument(
        "source",
        metavar="SOURCE",
        help="topic:NAME or history:QUEUE: what was published there, as far as it is kept; queue:NAME: what waits",
    )
    begin.add_argument("target", metavar="TARGET", help="queue:NAME or topic:NAME")
    begin.add_argument("--move", action="store_true", help="settle in the source what is put in; only of what waits")
    _add_bounds(begin)
    add(actions, "list", _list, help="show the replays that are not over, and the last that are")
    _add_id(add(actions, "show", _show, help="show how far a replay is, until it is over"))
    _add_id(add(actions, "pause", _patch(state="paused"), help="put nothing in until it is resumed"))
    resume = add(actions, "resume", _patch(state="running"), help="go on with a replay")
    _add_id(resume)
    resume.add_argument("--rate", metavar="N", type=count, help="from now on, so many messages a second")
    cancel = add(actions, "cancel", _cancel, help="end a replay")
    _add_id(cancel)
    cancel.add_argument("--undo", action="store_true", help="settle what it put in and nobody has got, or move it back")

    redrive = add(
        commands,
        "redrive",
        _redrive,
        help="send dead letters home",
        description="Move the dead letters that wait in a queue back to where each of them died, or to another queue. "
        "What has died redrive_max times there stays. A bound is asked for: --since, --max or --all.",
    )
    redrive.add_argument("queue", metavar="QUEUE", help="the queue that holds them")
    redrive.add_argument("--to", metavar="TARGET", default="origin", help="queue:NAME, and not where each died")
    redrive.add_argument("--all", action="store_true", help="all of them")
    _add_bounds(redrive)


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", metavar="TIME", help="from this time on: RFC 3339, a stamp, or -7d")
    parser.add_argument("--until", metavar="TIME", help="before this time (default: now)")
    parser.add_argument("--match", metavar="FILTER", help="only messages that a filter is true of")
    parser.add_argument("--max", metavar="N", type=count, help="so many at most")
    parser.add_argument("--rate", metavar="N", type=count, help="so many a second")
    parser.add_argument("--priority", metavar="N", type=int, help="the messages' priority, lower first (default: 10)")
    parser.add_argument("--dry-run", action="store_true", help="only say how many it would be, and show five")
    parser.add_argument("--detach", action="store_true", help="begin, print the replay's number, and end")


def _add_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", type=int, help="the replay's number")


# -- beginning


def _run(client: Client, options: argparse.Namespace) -> int:
    kind, colon, name = options.source.partition(":")
    if kind == "history" and colon:
        source: dict[str, Any] = {"channel": name, "history": True}
    else:
        source = _place(options.source)
    plan = {"source": source, "target": _place(options.target), "mode": "move" if options.move else "copy"}
    return _begin(client, options, plan)


def _redrive(client: Client, options: argparse.Namespace) -> int:
    target = "origin" if options.to == "origin" else _place(options.to)
    plan = {"source": {"channel": options.queue}, "target": target, "mode": "move", "all": options.all}
    return _begin(client, options, plan)


def _place(text: str) -> dict[str, Any]:
    """A destination as the broker's HTTP names it; a bare name is a queue's."""
    kind, colon, name = text.partition(":")
    if colon and kind in ("topic", "queue"):
        return {"topic" if kind == "topic" else "channel": name}
    return {"channel": text}


def _begin(client: Client, options: argparse.Namespace, plan: dict[str, Any]) -> int:
    for name in ("since", "until", "match", "max", "rate", "priority"):
        if (value := getattr(options, name)) is not None:
            plan[name] = value
    asked = json.dumps(plan).encode()
    if options.dry_run:
        return _preview(client.json("POST", "/replays?dry_run=1", asked), options)
    said = client.json("POST", "/replays", asked)
    if options.detach:
        return printed([as_json(said) if options.json else str(said["id"])])
    return _follow(client, options, said)


def _preview(said: dict[str, Any], options: argparse.Namespace) -> int:
    if options.json:
        return printed([as_json(said)])
    lines = [f"{said['matched']:,} of {said['examined']:,} messages"]
    if said["samples"]:
        rows = ((one["event"]["time"], str(one["size"]), _body(one["event"])) for one in said["samples"])
        lines += table(("TIME", "BYTES", "BODY"), rows, right=(1,))
    return printed(lines, bool(said["matched"]))


def _body(event: dict[str, Any]) -> str:
    data = event.get("data", event.get("data_base64", ""))
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return short(text)


# -- watching


def _show(client: Client, options: argparse.Namespace) -> int:
    return _follow(client, options, client.json("GET", f"/replays/{options.id}"))


def _follow(client: Client, options: argparse.Namespace, said: dict[str, Any]) -> int:
    """Show a replay until it is over, or stands still because somebody paused it."""
    drawn, last, pause = sys.stderr.isatty() and not options.json, "", _FIRST
    try:
        while True:
            if options.json and (line := as_json(said)) != last:
                if status := printed([line]):
                    return status
                last = line
            elif drawn:
                line = bar(said)
                print("\r" + line.ljust(len(last)), end="", file=sys.stderr, flush=True)
                last = line
            if said["state"] != "running":
                break
            time.sleep(pause)
            pause = min(2 * pause, _LOOK)
            said = client.json("GET", f"/replays/{said['id']}")
    except KeyboardInterrupt:
        if drawn:
            print(file=sys.stderr)
        print(f"broker: replay {said['id']} goes on; end it with: broker replay cancel {said['id']}", file=sys.stderr)
        raise
    if drawn:
        print(file=sys.stderr)
    status = Exit.DONE if options.json else printed([ending(said)])
    if said["state"] == "failed":
        print(f"broker: refused: {said['reason']}", file=sys.stderr)
        return Exit.REFUSED
    return status or (Exit.DONE if said["copied"] else Exit.NOTHING)


def bar(said: dict[str, Any]) -> str:
    """How far a replay is, in a line."""
    total, examined = said["total"], said["examined"]
    share = 1.0 if said["state"] == "done" else min(examined / total, 1.0) if total else 0.0
    filled = round(share * _BAR)
    parts = [f"replay {said['id']} [{'#' * filled}{'.' * (_BAR - filled)}] {share:4.0%}", f"{said['copied']:,} put in"]
    if said.get("per_second"):
        parts.append(f"{said['per_second']:,.0f} looked at/s")
    if said.get("eta") is not None:
        parts.append(f"{_span(said['eta'])} left")
    if said.get("waits_for"):
        parts.append(f"waits: {said['waits_for']}")
    return ", ".join(parts)


def ending(said: dict[str, Any]) -> str:
    """What a replay has done, in a line."""
    parts = [f"replay {said['id']} is {said['state']}: {said['copied']:,} of {said['examined']:,} messages put in"]
    parts += [f"{said[what]:,} {what}" for what in ("left", "parked", "undone") if said[what]]
    return ", ".join(parts)


def _span(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _list(client: Client, options: argparse.Namespace) -> int:
    found = client.json("GET", "/replays")["replays"]
    if options.json:
        return printed(map(as_json, found), bool(found))
    headings = ("ID", "STATE", "FROM", "TO", "LOOKED AT", "OF", "PUT IN", "WHY")
    return printed(table(headings, map(_row, found), right=(0, 4, 5, 6)), bool(found))


def _row(said: dict[str, Any]) -> tuple[str, ...]:
    numbers = (str(said[key]) for key in ("examined", "total", "copied"))
    why = said.get("reason") or said.get("waits_for") or ""
    return (str(said["id"]), said["state"], _named(said["source"]), _named(said["target"]), *numbers, why)


def _named(place: str | dict[str, Any]) -> str:
    if isinstance(place, str):
        return place
    if "topic" in place:
        return f"topic:{place['topic']}"
    return f"{'history' if place.get('history') else 'queue'}:{place['channel']}"


# -- changing


def _patch(**what: str) -> Run:
    def run(client: Client, options: argparse.Namespace) -> int:
        rate = getattr(options, "rate", None)
        wanted = {**what, **({"rate": rate} if rate is not None else {})}
        said = client.json("PATCH", f"/replays/{options.id}", json.dumps(wanted).encode())
        return printed([as_json(said) if options.json else ending(said)])

    return run


def _cancel(client: Client, options: argparse.Namespace) -> int:
    said = client.json("DELETE", f"/replays/{options.id}{'?undo=1' if options.undo else ''}")
    said = said or client.json("GET", f"/replays/{options.id}")
    return printed([as_json(said) if options.json else ending(said)])
