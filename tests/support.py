"""What tests of every room share: reactor tests with a limit, and a broker with all its fronts on free ports."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent
from twisted.python.failure import Failure

AsyncTest = Callable[..., Coroutine[Deferred[Any], Any, None]]

#: What was logged as a failure or as critical during the running test; conftest.py empties it and looks at the end.
logged_errors: list[LogEvent] = []


def tx(timeout: float = 10) -> Callable[[AsyncTest], Callable[..., Any]]:
    """Run an ``async def`` test on the reactor; it fails with `TimeoutError` after `timeout` seconds.

    A test without such a limit that waits for ever would stop the whole run.
    """

    def decorate(test: AsyncTest) -> Callable[..., Any]:
        @functools.wraps(test)
        async def limited(*args: Any, **kwargs: Any) -> None:
            from twisted.internet import reactor

            await Deferred.fromCoroutine(test(*args, **kwargs)).addTimeout(timeout, reactor)

        return pytest_twisted.ensureDeferred(limited)

    return decorate


def flush_logged_errors(*types: type[BaseException]) -> list[Failure]:
    """Take back the logged failures of these types (of any, if none is named): the test meant them to happen."""
    flushed = []
    for event in list(logged_errors):
        failure = event.get("log_failure")
        if failure is not None and (not types or failure.check(*types)):
            logged_errors.remove(event)
            flushed.append(failure)
    return flushed
