"""``broker subscribe``: messages of queues and topics as they come, over STOMP."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from broker.cli.exits import Exit
from broker.cli.output import unwritten, write
from broker.cli.parsing import Commands, add, add_json, count, host_port

DEFAULT_STOMP = "127.0.0.1:61613"


def add_to(commands: Commands) -> None:
    """Add ``subscribe``."""
    subscribe = add(
        commands,
        "subscribe",
        _run,
        offline=True,
        help="print the messages of a queue or topic as they come",
        description="Print the messages of QUEUE, or of a destination as STOMP names it (/topic/prices.*), as they "
        "come, until interrupted. Each is removed from a queue once it is written out. The bytes are printed as they "
        "are, with a newline. The user is $BROKER_LOGIN with the password $BROKER_PASSCODE.",
    )
    subscribe.add_argument("destination", metavar="TOPIC|QUEUE")
    subscribe.add_argument(
        "--stomp",
        metavar="HOST:PORT",
        default=os.environ.get("BROKER_STOMP", DEFAULT_STOMP),
        help=f"where the broker's STOMP is (default: $BROKER_STOMP, else {DEFAULT_STOMP})",
    )
    subscribe.add_argument("--count", metavar="N", type=count, help="end after so many")
    subscribe.add_argument("--selector", metavar="TEXT", help="only messages of which this is true: colour = 'red'")
    add_json(subscribe)


def _run(options: argparse.Namespace) -> int:
    if (place := host_port(options.stomp)) is None:
        return Exit.USAGE
    from twisted.internet import reactor  # other commands need no reactor
    from twisted.internet.defer import Deferred

    status = [130]  # interrupted, unless it ends by itself

    def done(result: object) -> None:
        if isinstance(result, int):
            status[0] = result
        elif (error := getattr(result, "value", None)) is not None:
            print(f"broker: {error}", file=sys.stderr)
        if reactor.running:
            reactor.stop()

    def begin() -> None:
        _ = Deferred.fromCoroutine(_print(reactor, *place, options)).addBoth(done)

    reactor.callWhenRunning(begin)
    reactor.run()
    return status[0]


async def _print(reactor: Any, host: str, port: int, options: argparse.Namespace) -> int:
    from twisted.internet.endpoints import HostnameEndpoint

    from broker.stomp.client import Lost, StompClient, StompError

    login = {"login": os.environ.get("BROKER_LOGIN", ""), "passcode": os.environ.get("BROKER_PASSCODE", "")}
    client = StompClient(HostnameEndpoint(reactor, host, port), reactor, headers=login if login["login"] else {})
    client.start()
    headers = {"prefetch-count": "100", **({"selector": options.selector} if options.selector else {})}
    try:
        await client.connected(attempts=1)
        left = options.count
        async for message in client.subscribe(_destination(options.destination), headers=headers):
            try:
                fields = {"destination": message.headers.get("destination"), "headers": dict(message.headers)}
                write(fields, message.body, in_json=options.json, newline=True)
            except OSError as error:
                return unwritten(error)
            try:
                await message.ack()
            except Lost:
                continue  # it comes again
            left = None if left is None else left - 1
            if left == 0:
                break
    except StompError as error:
        print(f"broker: refused: {error}: {error.detail}", file=sys.stderr)
        return Exit.REFUSED
    except Exception as error:
        print(f"broker: cannot reach {options.stomp}: {error}", file=sys.stderr)
        return Exit.UNREACHABLE
    await client.stop()
    return Exit.DONE


def _destination(text: str) -> str:
    return text if text.startswith("/") else f"/queue/{text}"
