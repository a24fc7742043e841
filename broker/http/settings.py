"""What holds for a channel or a topic: read, set, paused and resumed; all of it exported, compared and applied."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from twisted.internet.defer import DeferredLock

from broker import config_check
from broker.core.broker import Broker
from broker.core.destination import Destination, Kind, queue, topic
from broker.core.level import Level
from broker.core.policy import BindingPolicy
from broker.errors import BadName, BadValue, ConfigError
from broker.http.call import Answer, Call, json
from broker.http.problem import Problem
from broker.http.publishing import source_of
from broker.settings import checked
from broker.status import ServerStatus

Said = dict[Destination, dict[str, Any]]
#: Keeps what was configured; done once it is on disk.
Save = Callable[[Mapping[Destination, Mapping[str, Any]]], Awaitable[None]]


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A binding as ``/definitions`` has it. Seconds."""

    channel: str
    source: str
    priority: int | None = None
    timeout: int | None = None
    linger: int | None = None
    deliver: int | None = None
    match: str = ""
    follows: bool = False


class Definitions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that was said over any front, but for messages."""

    channels: dict[str, dict[str, Any]] = {}
    topics: dict[str, dict[str, Any]] = {}
    bindings: list[Bound] = []


class Settings:
    """``/config``, ``/pause``, ``/resume``, ``/drain`` and ``/definitions``."""

    def __init__(self, broker: Broker, save: Save, status: ServerStatus) -> None:
        self._broker = broker
        self._status = status
        self._save = save
        self._turn = DeferredLock()

    # -- one channel or topic

    async def show(self, call: Call) -> Answer:
        """``GET .../config``: every key with the value that holds, and which were set here."""
        return self._shown(_destination(call), 200)

    async def put(self, call: Call) -> Answer:
        """``PUT .../config``: these keys are set, all others are as the configuration file says."""
        return await self._set(call, lambda old, said: said)

    async def patch(self, call: Call) -> Answer:
        """``PATCH .../config``: these keys are set, those that are null no longer (RFC 7396)."""

        def merged(old: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in (old | said).items() if value is not None}

        return await self._set(call, merged)

    async def pause(self, call: Call) -> Answer:
        """``POST /channels/C/pause``: nothing is delivered until it is resumed; publishes go on."""
        return await self._set_keys(_destination(call), lambda old: old | {"paused": True}, 200)

    async def resume(self, call: Call) -> Answer:
        """``POST /channels/C/resume``."""
        return await self._set_keys(_destination(call), lambda old: old | {"paused": False}, 200)

    async def _set(self, call: Call, made: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]) -> Answer:
        said = await call.document()
        if not isinstance(said, dict):
            raise Problem(400, "bad-parameter", "The body must be a JSON object.")
        destination, wanted = _destination(call), call.said.last("if-match")
        old = self._broker.configured.get(destination)
        return await self._set_keys(
            destination, lambda before: made(before, said), 200 if old is not None else 201, wanted
        )

    async def _set_keys(
        self,
        destination: Destination,
        made: Callable[[dict[str, Any]], dict[str, Any]],
        status: int,
        if_match: str | None = None,
    ) -> Answer:
        await self._turn.acquire()
        try:
            all_said: Said = {one: dict(keys) for one, keys in self._broker.configured.items()}
            if if_match is not None and if_match not in ("*", self._etag(destination)):
                raise Problem(412, "precondition-failed", "The configuration has changed since.")
            keys = _checked(destination, made(all_said.get(destination, {})))
            all_said.pop(destination, None)
            if keys:
                all_said[destination] = keys
            self._check(all_said)
            await self._save(all_said)
            await self._broker.configure(all_said)
        finally:
            self._turn.release()
        return self._shown(destination, status)

    def _check(self, said: Said) -> None:
        """That nothing contradicts anything else; `Problem` 422."""
        try:
            config_check.together(self._broker.policies_with(said), ())
        except ConfigError as error:
            raise Problem(422, "bad-configuration", error.reason) from None

    def _shown(self, destination: Destination, status: int) -> Answer:
        keys = msgspec.to_builtins(self._broker.rules_of(destination))
        said = {"config": keys, "set": sorted(self._broker.configured.get(destination, {}))}
        answer = json(status, said)
        etag = (b"ETag", self._etag(destination).encode())
        return msgspec.structs.replace(answer, fields=[*answer.fields, etag])

    def _etag(self, destination: Destination) -> str:
        said = self._broker.configured.get(destination, {})
        held = msgspec.json.encode([msgspec.to_builtins(self._broker.rules_of(destination)), sorted(said)])
        return f'"{zlib.crc32(held):08x}"'

    # -- the whole broker

    async def status(self, call: Call) -> Answer:
        """``GET /status``: what the broker does at the moment, and what of it holds already."""
        told, holds = self._status.level, self._status.holds
        return json(200, {"status": told.name.lower(), "holds": holds.name.lower()})

    async def set_status(self, call: Call) -> Answer:
        """``PUT /status``: it is another one from now on."""
        said = (call.parameters.text("status") or "").replace("-", "").upper()
        if said not in Level.__members__:
            raise BadValue(f"Invalid status: {', '.join(Level.__members__).lower()}.")
        await self._status.change(Level[said], f"{call.access.user.name} over HTTP")
        return await self.status(call)

    async def drain(self, call: Call) -> Answer:
        """``POST /drain``: no front takes messages any more, those that are there can be worked off."""
        await self._status.change(Level.DRAINING, f"{call.access.user.name} over HTTP", at_once=True)
        return json(202, {"draining": True})

    async def resume_all(self, call: Call) -> Answer:
        """``POST /resume``: messages are taken again."""
        await self._status.change(Level.UP, f"{call.access.user.name} over HTTP")
        return json(202, {"draining": False})

    async def export(self, call: Call) -> Answer:
        """``GET /definitions``: what was configured over HTTP, and all bindings."""
        return json(200, self._definitions())

    async def apply(self, call: Call) -> Answer:
        """``PUT /definitions``: bring this about; ``dry_run``: only say what would change; ``prune``: end the rest."""
        try:
            wanted = msgspec.convert(await call.document(), Definitions)
        except msgspec.ValidationError as error:
            raise Problem(400, "bad-parameter", f"Invalid definitions: {error}") from None
        prune, dry = call.parameters.flag("prune"), call.parameters.flag("dry_run")
        await self._turn.acquire()
        try:
            return json(200, {"applied": not dry, "changes": await self._applied(wanted, prune, dry)})
        finally:
            self._turn.release()

    def _definitions(self) -> Definitions:
        configured = self._broker.configured
        named: dict[Kind, dict[str, dict[str, Any]]] = {Kind.QUEUE: {}, Kind.TOPIC: {}}
        for destination in sorted(configured, key=str):
            named[destination.kind][destination.name] = dict(configured[destination])
        bindings = []
        for channel, source in self._broker.bindings():
            terms = self._broker.terms(channel, source)
            if terms is None:
                continue
            policy, match = terms
            bindings.append(
                Bound(
                    channel,
                    f"{source.kind.value}:{source.name}",
                    policy.priority,
                    policy.lease and policy.lease // 1000,
                    policy.ttl and policy.ttl // 1000,
                    policy.max_attempts,
                    match,
                    self._broker.follows(channel, source),
                )
            )
        return Definitions(named[Kind.QUEUE], named[Kind.TOPIC], bindings)

    async def _applied(self, wanted: Definitions, prune: bool, dry: bool) -> list[dict[str, Any]]:
        said: Said = {}
        for make, table in ((queue, wanted.channels), (topic, wanted.topics)):
            for name, keys in table.items():
                destination = make(name)
                said[destination] = _checked(destination, keys)
        old = self._broker.configured
        kept = {} if prune else {one: dict(keys) for one, keys in old.items()}
        new = {one: keys for one, keys in (kept | said).items() if keys}
        self._check(new)
        changes: list[dict[str, Any]] = [
            {"what": "config", "of": str(one), "from": old.get(one, {}), "to": new.get(one, {})}
            for one in sorted({*old, *new}, key=str)
            if old.get(one, {}) != new.get(one, {})
        ]
        there = {(one.channel, one.source): one for one in self._definitions().bindings}
        asked = {(one.channel, _source(one)): one for one in wanted.bindings}
        bind = [one for place, one in asked.items() if there.get(place) != one]
        unbind = [one for place, one in there.items() if prune and place not in asked]
        changes += [{"what": "bind", "channel": one.channel, "source": one.source} for one in bind]
        changes += [{"what": "unbind", "channel": one.channel, "source": one.source} for one in unbind]
        if not dry:
            if new != old:
                await self._save(new)
                await self._broker.configure(new)
            for one in bind:
                await self._broker.bind(
                    one.channel, source_of(one.source), _terms(one), match=one.match, follows=one.follows
                )
            for one in unbind:
                await self._broker.unbind(one.channel, source_of(one.source))
        return changes


def _destination(call: Call) -> Destination:
    names = call.match.names
    return queue(names["channel"]) if "channel" in names else topic(names["topic"])


def _checked(destination: Destination, keys: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return checked(destination, keys)
    except ConfigError as error:
        raise Problem(422, "bad-configuration", error.reason) from None


def _source(one: Bound) -> str:
    """The source's name as `Definitions` exports it; checks the rest too."""
    try:
        queue(one.channel)
        source = source_of(one.source)
        numbers = (one.timeout, one.linger, one.deliver)
        if any(number is not None and not 0 <= number < 2**31 for number in numbers):
            raise BadValue("timeout, linger and deliver are 0 or more, and below 2**31")
        if one.priority is not None and not -(2**63) <= one.priority < 2**63:
            raise BadValue("priority has more than 64 bits")
    except (BadName, BadValue) as error:
        raise BadValue(f"binding of {one.channel[:80]} to {one.source[:80]}: {error.reason}") from None
    return f"{source.kind.value}:{source.name}"


def _terms(one: Bound) -> BindingPolicy:
    def milliseconds(seconds: int | None) -> int | None:
        return None if seconds is None else seconds * 1000

    return BindingPolicy(one.priority, milliseconds(one.timeout), milliseconds(one.linger), one.deliver)
