"""The benchmarks at a small size: what they say of memory, counts and order, which does not depend on the machine."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import cast

import pytest
from twisted.internet import task
from twisted.internet.base import ReactorBase

from benchmarks import busy_group, idle_connections, measuring, queue_sizes, slow_subscriber, turns
from broker.core import settlement
from broker.core.message import Message, pack
from tests.support import tx


def the_reactor() -> ReactorBase:
    from twisted.internet import reactor

    return cast(ReactorBase, reactor)


@tx(60)
async def test_a_busy_group_at_the_head_does_not_starve_the_next_one() -> None:
    wide, narrow = await busy_group.measure(the_reactor(), 20_000)
    assert busy_group.missed([wide, narrow]) == []
    assert "blocked" not in wide
    assert str(narrow["blocked"]) == "max_scan: 2000 messages of busy groups lie before what follows"


@pytest.mark.parametrize("case", turns.CASES)
@tx(60)
async def test_no_reactor_turn_handles_too_many_messages(case: str) -> None:
    _, counted = await turns.run(the_reactor(), case, 4_000, 10)
    assert counted.misses == []


@pytest.mark.parametrize("case", ["expire before a consumer", "expire to a queue", "dead-letter", "browse", "replay"])
@tx(60)
async def test_no_reactor_turn_handles_too_many_bytes(case: str) -> None:
    _, counted = await turns.run(the_reactor(), case, 500, 2_000)
    assert counted.misses == []


@tx()
async def test_a_turn_that_handles_too_much_is_found() -> None:
    packed = pack([Message(stamp=n + 1, body=bytes(400)) for n in range(600)])

    def unpack(data: bytes) -> None:
        vars(settlement)["unpack"](600, data)  # the name that is wrapped, as the broker calls it

    with turns.counting(the_reactor()) as counted:
        for _ in range(2):
            await task.deferLater(the_reactor(), 0)
            unpack(packed)
        await task.deferLater(the_reactor(), 0)
        assert counted.misses == []
        unpack(packed)
        unpack(packed)
        await task.deferLater(the_reactor(), 0)
    assert [miss.split(" were ")[0] for miss in counted.misses] == ["1,200 messages", f"{2 * len(packed):,} bytes"]


@pytest.mark.parametrize("overflow", ["drop_oldest", "disconnect"])
def test_a_subscriber_that_does_not_read_costs_its_buffer_and_no_more(overflow: str) -> None:
    row = slow_subscriber.measure(6 * measuring.MIB, measuring.MIB, overflow)
    assert slow_subscriber.missed(row, measuring.MIB) == []
    assert 0 < int(str(row["read in the end"])) < 6 * 256


def test_idle_connections_stay_open_and_cost_little() -> None:
    row = idle_connections.measure(300, 0.5, probes=20)
    assert [row["memcache left"], row["stomp left"], row["http left"]] == [100, 100, 100]
    assert float(str(row["KiB each"])) * 1024 < idle_connections.MOST_BYTES


@pytest.mark.parametrize("case", queue_sizes.CASES)
def test_a_backlog_costs_no_more_memory_than_its_windows(case: str) -> None:
    row = queue_sizes.measure(case, 0.001, restarted=case == "many queues")
    assert queue_sizes.missed(row) == []
    assert int(str(row["messages"])) >= 1_000


def test_what_is_written_of_a_run_names_neither_the_machine_nor_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "some.py"), "1000"])
    assert measuring.report("some", [{"case": "a", "rate": 1234}, {"case": "b", "other": 0.5}], []) == 0
    assert measuring.report("other", [], ["too much"]) == 1
    text = (tmp_path / "some.json").read_text()
    written = json.loads(text)
    assert written["command"] == "python -m benchmarks.some 1000"
    assert written["results"][0] == {"case": "a", "rate": 1234}
    assert {"twisted-broker", "python", "twisted", "sqlite"} <= written["versions"].keys()
    assert written["machine"]["processors"] >= 1
    for secret in (socket.gethostname(), str(measuring.ROOT), str(tmp_path), str(Path.home())):
        assert secret not in text
    said = capsys.readouterr()
    assert said.out.splitlines()[:3] == ["case   rate  other", "a     1,234", "b              0.5"]
    assert said.err == "missed: too much\n"
