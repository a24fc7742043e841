"""The ``broker`` command: another process, which knows the broker's HTTP interface and nothing of its inside.

``broker subscribe`` speaks STOMP, ``broker bench`` any of the three. ``broker user`` works on the users file instead,
``broker config`` on a configuration file, and ``check``, ``dump``, ``load`` and ``backup`` on a data file. Exit status:
0 done; 1 nothing there; 2 wrong usage; 3 refused by the broker, or for what is in the file; 4 the broker cannot be
reached; 5 the output could not be written (the message stays in the queue).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from broker import __version__
from broker.auth.secret import BadSecret
from broker.cli import bench, channels, config, debug, flow, queues, replay, stage, store, subscribe, upgrade, users
from broker.cli.client import BadUrl, Client, Refused, Unreachable
from broker.cli.exits import Exit
from broker.cli.output import as_json, unwritten, write
from broker.cli.parsing import add, count
from broker.errors import ConfigError

#: Some time ago, as the value of an option: ``--since -7d``.
_ago = re.compile(r"-[0-9]{1,9}(ms|s|m|h|d)")


def _joined(arguments: Sequence[str]) -> list[str]:
    """The same, with times like ``-7d`` joined to their option, which argparse would take for options themselves."""
    joined: list[str] = []
    for argument in arguments:
        if _ago.fullmatch(argument) and joined and joined[-1] in ("--since", "--until"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = _parser()
    options = parser.parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    if options.offline:
        return _offline(parser, options)
    try:
        with Client(options.url, os.environ.get("BROKER_TOKEN", "")) as client:
            return int(options.run(client, options))
    except BadUrl as error:
        parser.error(str(error))
    except Refused as error:
        print(f"broker: refused: {error}", file=sys.stderr)
        return Exit.REFUSED
    except Unreachable as error:
        print(f"broker: cannot reach {options.url}: {error}", file=sys.stderr)
        return Exit.UNREACHABLE
    except KeyboardInterrupt:
        return 130


def _offline(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    try:
        return int(options.run(options))
    except BadSecret as error:
        parser.error(str(error))
    except ConfigError as error:
        print(f"broker: refused: {error.reason}", file=sys.stderr)
        return Exit.REFUSED
    except OSError as error:
        print(f"broker: cannot write {options.users}: {error.strerror}", file=sys.stderr)
        return Exit.UNWRITTEN
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="broker",
        description="Talk to a running broker over HTTP, as the user whose token is in $BROKER_TOKEN; or work on "
        "the users file, a configuration file or a data file.",
        epilog="Exit status: 0 done; 1 nothing there; 2 wrong usage; 3 refused by the broker; 4 the broker cannot be "
        "reached; 5 the output could not be written, the message stays in the queue.",
    )
    parser.add_argument("--version", action="version", version=f"twisted-broker {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    publish = add(commands, "publish", _publish, help="put a message into a queue")
    publish.add_argument("queue", metavar="QUEUE")
    publish.add_argument(
        "body", metavar="BODY", nargs="?", default="-", help="the message; - or nothing: standard input"
    )
    publish.add_argument(
        "--content-type",
        metavar="TYPE",
        help="what the body is (default: text/plain; charset=utf-8, application/octet-stream from standard input)",
    )

    get = add(
        commands,
        "get",
        _get,
        help="take messages out of a queue",
        description="Take messages out of a queue and print them. Each is removed once it is written out. The bytes "
        "are printed as they are; a newline follows on a terminal, and with --count.",
    )
    get.add_argument("queue", metavar="QUEUE")
    get.add_argument("--wait", metavar="S", type=_seconds, default=0, help="wait so long for each message (default: 0)")
    get.add_argument("--count", metavar="N", type=count, help="take so many at most (default: 1)")

    for room in (subscribe, bench, queues, stage, flow, channels, replay, debug, upgrade, users, config, store):
        room.add_to(commands)
    return parser


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of whole seconds")
    return int(text)


def _publish(client: Client, options: argparse.Namespace) -> int:
    if options.body == "-":
        body, content_type = sys.stdin.buffer.read(), "application/octet-stream"
    else:
        # what the shell gave us, even if it is not UTF-8
        body, content_type = os.fsencode(options.body), "text/plain; charset=utf-8"
    message = client.publish(options.queue, body, options.content_type or content_type)
    print(as_json({"id": message}) if options.json else message)
    return Exit.DONE


def _get(client: Client, options: argparse.Namespace) -> int:
    newline = options.count is not None or sys.stdout.isatty()
    for taken in range(options.count or 1):
        message = client.take(options.queue, options.wait)
        if message is None:
            return Exit.DONE if taken else Exit.NOTHING
        try:
            fields = {"id": message.id, "content_type": message.content_type, "delivered": message.delivered}
            write(fields, message.body, in_json=options.json, newline=newline)
        except OSError as error:
            return unwritten(error)
        client.settle(message.id)
    return Exit.DONE
