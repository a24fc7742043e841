"""``broker stage``: any executable as a stage of a flow."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from broker.cli.exits import Exit
from broker.cli.parsing import Commands, add, add_url, count

FRAMES = ("exec", "lines", "ndjson", "lsp", "http")


def add_to(commands: Commands) -> None:
    """Add ``stage``."""
    stage = add(
        commands,
        "stage",
        _run,
        offline=True,
        help="have a program work on the messages of a channel",
        usage="broker stage --from CHANNEL [--to CHANNEL] [options] -- COMMAND [ARGUMENT ...]",
        description="Have a program work on the messages of a channel, until SIGTERM or Ctrl-C. What it prints goes to "
        "another channel, in the commit that settles its input.",
    )
    stage.add_argument(
        "--from", dest="sources", metavar="CHANNEL", action="append", required=True, help="a channel, or topic:NAME"
    )
    stage.add_argument("--to", metavar="CHANNEL", help="where outputs go (default: nowhere, there must be none)")
    stage.add_argument("--to-dead", metavar="CHANNEL", help="where what fails for good goes (default: CHANNEL.dead)")
    stage.add_argument("--concurrency", metavar="N", type=count, default=1, help="inputs at a time (default: 1)")
    stage.add_argument(
        "--frame",
        choices=FRAMES,
        default="exec",
        help="exec: one process for each input, its output is one message; lines: each line is one; ndjson, lsp: a "
        "process that runs on, with JSON in lines or behind Content-Length; http: a server",
    )
    stage.add_argument("--http", metavar="URL", help="where that server is (implies --frame http)")
    stage.add_argument("--lease", metavar="S", type=count, default=30, help="seconds on loan, renewed (default: 30)")
    stage.add_argument("--timeout", metavar="S", type=float, default=300, help="seconds for an input (default: 300)")
    stage.add_argument("--retries", metavar="N", type=int, default=5, help="failures before it is dead (default: 5)")
    stage.add_argument(
        "--backoff", metavar="S,S", type=_seconds, default=(1, 5, 30, 300), help="seconds between (default: 1,5,30,300)"
    )
    stage.add_argument(
        "--success", metavar="N", type=int, action="append", default=[], help="a status that is fine too"
    )
    stage.add_argument(
        "--content-type", metavar="TYPE", help="what outputs are (default: JSON, text or bytes, as found)"
    )
    stage.add_argument("--match", metavar="FILTER", help="only messages that a filter is true of")
    stage.add_argument("--flow", metavar="NAME", default="", help="the flow it is a stage of (default: none)")
    stage.add_argument("--name", help="the stage's name (default: the program's)")
    stage.add_argument("--code-version", metavar="V", help="the version of the program (default: a checksum)")
    stage.add_argument("--grace", metavar="S", type=float, default=25, help="seconds to end in (default: 25)")
    add_url(stage)
    stage.add_argument("command", metavar="COMMAND", nargs="*", help="the program and its arguments, behind --")


def _seconds(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        found = (-1,)
    if min(found) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers of seconds with commas between")
    return found


def _run(options: argparse.Namespace) -> int:
    from broker.stages.link import Refused, Unreachable
    from broker.stages.pipeline import Pipeline

    command: list[str] = options.command
    frame = "http" if options.http else options.frame
    if trouble := _trouble(options, frame):
        print(f"broker: {trouble}", file=sys.stderr)
        return Exit.USAGE
    name = options.name or Path(command[0] if command else options.http).name or "stage"
    version = options.code_version or os.environ.get("BROKER_FLOW_VERSION") or checksum(command)
    try:
        flow = Pipeline(options.flow or "program", options.url, version=version, grace=options.grace)
        flow.stage(
            options.sources,
            options.to,
            name=name,
            concurrency=options.concurrency,
            lease=options.lease,
            retries=options.retries,
            backoff=options.backoff,
            dead=options.to_dead,
            match=options.match,
        )(_function(options, frame))
        flow.run(announced=bool(options.flow), whole=False)
    except ValueError as error:
        print(f"broker: {error}", file=sys.stderr)
        return Exit.USAGE
    except Refused as error:
        print(f"broker: refused: {error}", file=sys.stderr)
        return Exit.REFUSED
    except Unreachable as error:
        print(f"broker: cannot reach {options.url}: {error}", file=sys.stderr)
        return Exit.UNREACHABLE
    return Exit.DONE


def _trouble(options: argparse.Namespace, frame: str) -> str:
    """What is wrong with the command line."""
    command: list[str] = options.command
    if not command and not options.http:
        return "stage: say which program, behind --"
    if command and shutil.which(command[0]) is None:
        return f"stage: there is no program {command[0]!r}, or it may not be executed"
    if frame == "http" and not options.http:
        return "stage: --frame http needs --http URL"
    if options.frame != "exec" and options.http and options.frame != "http":
        return f"stage: --http and --frame {options.frame} exclude each other"
    if options.success and frame not in ("exec", "lines"):
        return f"stage: --success says nothing of --frame {frame}"
    return ""


def _function(options: argparse.Namespace, frame: str) -> Callable[..., Any]:
    from broker.stages.long_lived import LongLived
    from broker.stages.one_shot import OneShot
    from broker.stages.posting import Posting

    said = {"timeout": options.timeout, "content_type": options.content_type}
    if frame == "http":
        return Posting(options.http, options.command, **said)
    if frame in ("ndjson", "lsp"):
        return LongLived(options.command, frame, **said)
    return OneShot(options.command, lines=frame == "lines", successes=options.success, **said)


def checksum(command: Sequence[str]) -> str:
    """Names what a command line runs: of its words, and of the files among them."""
    found = hashlib.sha256()
    for word in command:
        found.update(word.encode(errors="surrogateescape") + b"\0")
        path = Path(word)
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()[:8]
