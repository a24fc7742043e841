"""What ``benchmarks/reactors.py`` measures, at a small size: not rates, which depend on the machine."""

from __future__ import annotations

import pytest

from benchmarks import reactors

BARE = reactors.CASES["bare"][0]


def test_every_request_is_answered_on_both_reactors() -> None:
    for stock in (True, False):
        runs = reactors.run("memory", stock, 0.05)
        assert len(runs) == len(reactors.CASES["memory"])
        assert all(one.answered > 0 for one in runs)


def test_a_request_takes_half_the_system_calls() -> None:
    on_twisteds = reactors.system_calls("bare", BARE, True, 500)
    if on_twisteds is None:
        pytest.skip("there is no strace here, or it may not look at other processes")
    lean = reactors.system_calls("bare", BARE, False, 500)
    assert lean is not None
    # Receive and send; on Twisted's also what is asked of epoll before a send and taken back after it. And a tenth of a
    # wait, as ten connections are served in one pass; in two on Twisted's.
    assert 2 <= lean < 3
    assert 4 <= on_twisteds < 6


def test_a_reactor_that_is_no_better_is_found() -> None:
    row = {"server": "bare", "request": "memcache set", "connections": 10, "us stock": 10.0}
    assert reactors.missed([row | {"us lean": 6.9}, row | {"server": "file", "us lean": 11.0}]) == []
    assert len(reactors.missed([row | {"us lean": 7.1}, row | {"server": "file", "us lean": 11.1}])) == 2
