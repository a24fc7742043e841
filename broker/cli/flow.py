"""``broker flow``: run the stages of a flow and keep their code current, see how it stands, deploy a version."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.cli.client import Client, path_of
from broker.cli.exits import Exit
from broker.cli.flow_status import Dead, Row, lines, row_of
from broker.cli.output import as_json, printed
from broker.cli.parsing import Commands, add, add_group, add_url, count

if TYPE_CHECKING:
    from broker.stages.definition import Ask

#: Seconds after which a worker that has asked for nothing is gone.
_SILENT = 60


def add_to(commands: Commands) -> None:
    """Add ``flow`` and what it can do."""
    verbs = add_group(
        commands,
        "flow",
        metavar="VERB",
        help="run, watch and deploy flows",
        description="Flows: stages connected by channels.",
    )
    run = add(
        verbs,
        "run",
        _run,
        offline=True,
        help="run stages of a flow here, and newer versions of them as they come",
        description="Run the stages of a flow that a Python file defines, until SIGTERM or Ctrl-C. When a version is "
        "deployed, or with --reload a file changes, new workers are tested and started, and the old ones finish.",
    )
    run.add_argument("place", metavar="FILE[:NAME]", help="the file, and the variable if it has several flows")
    run.add_argument("stages", metavar="STAGE", nargs="*", help="only these stages")
    run.add_argument("--reload", action="store_true", help="when a .py file beside FILE changes, start it anew")
    run.add_argument(
        "--watch", metavar="PATH", action="append", default=[], help="another file or folder to reload for"
    )
    run.add_argument(
        "--update",
        metavar="COMMAND",
        default="",
        help="what fetches a version that is deployed: 'git checkout {version}', 'pip install x=={version}'",
    )
    run.add_argument("--code-version", metavar="V", default="", help="the version that is here now")
    add_url(run)

    status = add(verbs, "status", _status, help="show the stages of a flow", description="Show a flow.")
    status.add_argument("flow", metavar="FLOW")
    status.add_argument("--interval", metavar="S", type=float, default=1, help="seconds that rates are of (default: 1)")

    deploy = add(
        verbs,
        "deploy",
        _deploy,
        help="have all machines run a version",
        description="Say which version of a flow is wanted. Every `broker flow run` of it fetches that version by its "
        "update command, tests it and replaces its workers.",
    )
    deploy.add_argument("flow", metavar="FLOW")
    deploy.add_argument("version", metavar="VERSION")
    deploy.add_argument(
        "--canary",
        metavar="P%",
        type=_percent,
        help="first beside the old version, with so many per cent of the workers; stopped if more of its inputs fail",
    )
    deploy.add_argument(
        "--canary-inputs", metavar="N", type=count, default=50, help="inputs after which it is judged (default: 50)"
    )


def _percent(text: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]?)%?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1% to 99%")
    return int(found[1])


def _run(options: argparse.Namespace) -> int:
    from broker.stages.generations import Generations
    from broker.stages.link import Link
    from broker.stages.loading import NoFlow, load
    from broker.stages.pipeline import log_to_stderr

    file = Path(options.place.partition(":")[0]).resolve()
    watched = [file.parent] if options.reload else []
    watched += [Path(place).resolve() for place in options.watch]
    os.environ["BROKER_URL"] = options.url
    log_to_stderr()
    try:
        flow = load(options.place)
        flow.chosen(options.stages)
        return Generations(
            options.place,
            options.stages,
            flow.name,
            Link(options.url, os.environ.get("BROKER_TOKEN", "")),
            version=options.code_version,
            update=options.update,
            watched=watched,
        ).run()
    except (NoFlow, ValueError) as error:
        print(f"broker: {error}", file=sys.stderr)
        return Exit.USAGE
    except Exception as error:  # whatever is wrong in the file
        print(f"broker: {options.place}: {type(error).__name__}: {error}", file=sys.stderr)
        return Exit.USAGE


def definition(client: Client, flow: str) -> dict[str, Any]:
    """What is known of a flow; empty: nothing."""
    from broker.stages.definition import read

    known = read(_ask(client), flow)
    return known if _is_one(known) else {}


def _is_one(known: dict[str, Any]) -> bool:
    return isinstance(known.get("stages"), list)


def _ask(client: Client) -> Ask:
    return lambda method, path, said: client.json(method, path, None if said is None else json.dumps(said).encode())


def _unknown(flow: str) -> int:
    print(f"broker: nothing is known of a flow {flow}: nobody has run it yet", file=sys.stderr)
    return Exit.NOTHING


def _status(client: Client, options: argparse.Namespace) -> int:
    said = definition(client, options.flow)
    if not said:
        return _unknown(options.flow)
    rows = _rows(client, said)
    if options.interval > 0:
        time.sleep(options.interval)  # rates are of the time between two looks
        rows = _rows(client, said)
    dead = [one for stage in said["stages"] for name in stage["dead"] if (one := _dead(client, name)) is not None]
    more = f"canary: {said['canary']} %" if said.get("canary") else ""
    for version, why in (said.get("refused") or {}).items():
        more = f"{version} was stopped: {why}"
    if options.json:
        return printed(as_json({**row._asdict(), "versions": dict(row.versions)}) for row in rows)
    return printed(lines(options.flow, str(said.get("wanted") or ""), rows, dead, more, _replays(client)))


def _rows(client: Client, said: dict[str, Any]) -> list[Row]:
    found = []
    for stage in said["stages"]:
        for channel in stage["channels"]:
            path = path_of(channel)
            stats = client.json("GET", f"{path}/stats?full=1")
            config = client.json("GET", f"{path}/config")["config"]
            workers = client.json("GET", f"{path}/consumers")["consumers"]
            here = [worker for worker in workers if _is_here(worker)]
            found.append(row_of(stage, channel, stats, int(config.get("max_messages") or 0), here))
    return found


def _is_here(worker: dict[str, Any]) -> bool:
    """Whether a worker has something, or has asked lately: one that waits asks every 20 seconds."""
    try:
        seen = datetime.fromisoformat(worker.get("last_seen") or "")
    except ValueError:
        return False
    return bool(worker.get("unsettled")) or (datetime.now(UTC) - seen).total_seconds() < _SILENT


def _replays(client: Client) -> list[dict[str, Any]]:
    """Those that are not over."""
    found = client.json("GET", "/replays")["replays"]
    return [one for one in found if one["state"] in ("running", "paused")]


def _dead(client: Client, channel: str) -> Dead | None:
    path = path_of(channel)
    count = client.json("GET", f"{path}/stats?full=1")["ready"]
    if not count:
        return None
    (first, *_) = client.json("GET", f"{path}/messages?limit=1")["messages"] or [{}]
    event = first.get("event", {})
    return Dead(channel, count, str(event.get("deadreason") or "")[:80])


def _deploy(client: Client, options: argparse.Namespace) -> int:
    from broker.stages.definition import amend

    before = ""
    found = True

    def change(said: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal before, found
        found = _is_one(said)
        if not found:
            return None
        before = said.get("wanted") or ""
        if before != options.version:
            said["before"] = before
        said |= {"wanted": options.version, "deployed": datetime.now(UTC).isoformat()}
        said.pop("refused", None)
        said.pop("canary", None)
        if options.canary is not None:
            said |= {"canary": options.canary, "canary_inputs": options.canary_inputs}
        return said

    amend(_ask(client), options.flow, change)
    if not found:
        return _unknown(options.flow)
    print(as_json({"wanted": options.version, "before": before}) if options.json else f"{before} -> {options.version}")
    return Exit.DONE
