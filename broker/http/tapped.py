"""One connection's requests and answers, for whoever looks for the cause of something."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from broker.http.channel import Channel
from broker.tap import Tell, watched

Fields = Iterable[tuple[bytes, bytes]]


def watch(channel: Channel, tell: Tell) -> Callable[[], None]:
    """Tell what comes and goes, until what is given is called. Its methods are replaced meanwhile."""
    line, raw, send = channel.lineReceived, channel.rawDataReceived, channel.send
    heads, write, write_all = channel.writeHeaders, channel.write, channel.writeSequence
    head: list[bytes] = []

    def line_came(data: bytes) -> None:
        if data:
            head.append(data)
        elif head:
            fields = dict(_field(one) for one in head[1:])
            tell("in", request=head[0].decode("latin-1"), headers=fields)
            head.clear()
        line(data)

    def raw_came(data: bytes) -> None:
        tell("in", size=len(data), body=data)
        raw(data)

    def heads_went(version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        heads(version, code, reason, headers)
        pairs = headers.getAllRawHeaders() if hasattr(headers, "getAllRawHeaders") else headers
        tell("out", status=int(code), reason=reason.decode("latin-1"), headers=dict(_pair(*pair) for pair in pairs))

    def went(data: bytes) -> None:
        write(data)
        if data:
            tell("out", size=len(data), body=data)

    def all_went(parts: list[bytes]) -> None:
        write_all(parts)
        tell("out", size=sum(map(len, parts)), body=b"".join(parts))

    def whole_went(version: bytes, status: int, reason: bytes, fields: Fields, body: bytes) -> None:
        said = list(fields)
        send(version, status, reason, said, body)
        tell("out", status=status, reason=reason.decode("latin-1"), headers=dict(_pair(*pair) for pair in said))
        if body:
            tell("out", size=len(body), body=body)

    instead = {
        "short_way": False,
        "send": whole_went,
        "lineReceived": line_came,
        "rawDataReceived": raw_came,
        "writeHeaders": heads_went,
        "write": went,
        "writeSequence": all_went,
    }
    return watched(channel, tell, instead)


def _field(line: bytes) -> tuple[str, str]:
    name, _, value = line.partition(b":")
    return name.decode("latin-1").lower(), value.strip().decode("latin-1")


def _pair(name: bytes, value: Any) -> tuple[str, str]:
    values = [value] if isinstance(value, bytes) else value
    return name.decode("latin-1").lower(), b", ".join(values).decode("latin-1")
