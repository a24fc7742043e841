"""Running a stage's function on inputs, and reading what it gives back as their outputs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from broker.stages.event import Event, Place
from broker.stages.settle import Unit, Who, done, failed, too_much
from broker.stages.stage import Stage
from broker.stages.verdict import LeaseLost
from broker.stages.wire import Loan

#: Runs a coroutine to its end, for at most so many seconds (0: for ever).
Await = Callable[[Coroutine[Any, Any, Any], float], Any]


def in_this_thread(coroutine: Coroutine[Any, Any, Any], timeout: float) -> Any:
    """Run a coroutine in a loop of its own."""
    return asyncio.run(limited(coroutine, timeout))


async def limited(coroutine: Coroutine[Any, Any, Any], timeout: float) -> Any:
    """The same, for so many seconds at most (0: for ever)."""
    try:
        return await asyncio.wait_for(coroutine, timeout or None)
    except TimeoutError:
        raise TimeoutError(f"it took longer than {timeout:g} s") from None


def units(stage: Stage, loans: list[Loan], who: Who, wait: Await) -> list[Unit]:
    """What became of each input; one whose lease was lost meanwhile is left out.

    A batch of which the function fails is gone through one by one, to find whose fault it was.
    """
    try:
        made = _made(stage, loans, who, wait)
    except LeaseLost:
        return []
    except Exception as error:
        if len(loans) == 1:
            return [failed(stage, loans[0], error, who)]
        made = None
    if made is None:
        return [unit for loan in loans for unit in units(stage, [loan], who, wait)]
    return [_checked(stage, done(loan, outputs), who) for loan, outputs in made]


def _checked(stage: Stage, unit: Unit, who: Who) -> Unit:
    error = too_much(unit)
    return unit if error is None else failed(stage, unit.loan, error, who)


def _made(stage: Stage, loans: list[Loan], who: Who, wait: Await) -> list[tuple[Loan, list[Event]]]:
    for loan in loans:
        placed(stage, loan, who).children = 0
    events = [loan.event for loan in loans]
    outputs: dict[str, list[Event]] = {}
    for value in _values(stage.function(events if stage.batch > 1 else events[0]), stage.timeout, wait):
        if all(event.lost for event in events):
            raise LeaseLost
        output = _output(value, events)
        outputs.setdefault(output.parentid or "", []).append(output)
    ids = {event.id for event in events}
    if stray := outputs.keys() - ids:
        raise TypeError(f"an output's parent {next(iter(stray))!r} is none of the inputs")
    # of two inputs with one id the first has the children
    return [(loan, outputs.pop(loan.event.id, [])) for loan in loans if not loan.event.lost]


def placed(stage: Stage, loan: Loan, who: Who) -> Place:
    """Where the input is worked on; the same when it is run again."""
    if loan.event.place is None:
        loan.event = loan.event.at(Place(stage.full_name, stage.to, who.version))
    assert loan.event.place is not None
    return loan.event.place


def _values(result: Any, timeout: float, wait: Await) -> Iterable[Any]:
    if inspect.isasyncgen(result):
        result = _gathered(result)
    if inspect.iscoroutine(result):
        result = wait(result, timeout)
    if result is None:
        return ()
    if isinstance(result, list | tuple | Iterator):
        return result
    return (result,)


async def _gathered(results: Any) -> list[Any]:
    return [result async for result in results]


def _output(value: Any, events: list[Event]) -> Event:
    if isinstance(value, Event):
        if value.place is None:
            return value
        return value.child(value.raw, type=value.type, subject=value.subject, content_type=value.content_type)
    if len(events) > 1:
        raise TypeError("of a batch, an output says whose it is: event.child(value)")
    return events[0].child(value)
