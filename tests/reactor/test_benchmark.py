"""What ``benchmarks/reactors.py`` measures, at a small size: not rates, which depend on the machine."""

from __future__ import annotations

from benchmarks import reactors


def test_every_request_is_answered_on_both_reactors() -> None:
    for stock in (True, False):
        runs = reactors.run("memory", stock, 0.05)
        assert len(runs) == len(reactors.CASES["memory"])
        assert all(one.answered > 0 for one in runs)


def test_a_reactor_that_is_no_better_is_found() -> None:
    row = {"server": "bare", "request": "memcache set", "connections": 10, "us stock": 10.0}
    assert reactors.missed([row | {"us lean": 6.9}, row | {"server": "file", "us lean": 11.0}]) == []
    assert len(reactors.missed([row | {"us lean": 7.1}, row | {"server": "file", "us lean": 11.1}])) == 2
