"""``broker queues``, run as a process against a broker."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.queues import _age
from broker.core.stats import QueueStats
from tests.support import Twistd
from tests.test_cli import run

CONFIG = """
[queue."waits"]
paused = true
[queue."work"]
max_attempts = 1
dead_letter = "waits"
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "broker.toml").write_text(CONFIG)
    with Twistd(folder, "--data=:memory:", "--config=broker.toml") as twistd:
        yield f"http://127.0.0.1:{twistd.ports()['HTTP']}"


def test_the_table_has_a_line_for_each_queue_sorted_by_name(url: str) -> None:
    for name in ("t.long-name", "t.b", "t.a", "t.b", "waits"):
        run(url, "publish", name, "x")
    run(url, "get", "t.a")
    shown = run(url, "queues", "t.*").stdout.decode()
    # as if all had come just now, however long that took, in columns that are as wide
    said = re.sub(r" +\d+[sm]$", lambda age: "0s".rjust(len(age[0])), shown, flags=re.MULTILINE)
    assert said == (
        "QUEUE        READY  ON LOAN  CONSUMERS  AGE  STATE\n"
        "t.a              0        0          0   0s\n"
        "t.b              2        0          0   0s\n"
        "t.long-name      1        0          0   0s\n"
    )
    lines = run(url, "queues").stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["QUEUE", "t.a", "t.b", "t.long-name", "waits"]
    assert lines[-1].endswith("  paused")


def test_json_is_an_object_for_each_queue_with_all_its_numbers(url: str) -> None:
    for name in ("j.1", "j.grün"):
        run(url, "publish", name, "x")
    first, second = map(json.loads, run(url, "queues", "j.*", "--json").stdout.splitlines())
    assert (first["name"], first["ready"], second["name"]) == ("j.1", 1, "j.grün")
    assert list(first) == ["name", *QueueStats.__struct_fields__]


def test_a_thousand_and_more_come_in_pages(url: str) -> None:
    from broker.cli.client import Client

    with Client(url) as client:
        for number in range(1005):
            client.publish(f"many.{number:04}", b"x", "text/plain")
        found = client.queues("many.*")
    assert [queue["name"] for queue in found] == [f"many.{number:04}" for number in range(1005)]


def test_no_such_queue_is_status_1(url: str) -> None:
    done = run(url, "queues", "nothing*", status=1)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert run(url, "queues", "nothing*", "--json", status=1).stdout == b""


def test_a_full_disk_behind_standard_output_is_status_5(url: str) -> None:
    run(url, "publish", "full", "x")
    with open("/dev/full", "wb") as full:
        assert b"cannot write: No space left on device" in run(url, "queues", status=5, stdout=full.fileno()).stderr


def test_who_may_look_into_nothing_is_refused(tmp_path: Path) -> None:
    from tests.auth.support import entry, write

    users = write(tmp_path / "users.toml", {"anonymous": entry(password="", publish="*", create="*")})
    with Twistd(tmp_path, "--data=:memory:", f"--users={users}", "--allow-anonymous") as twistd:
        url = f"http://127.0.0.1:{twistd.ports()['HTTP']}"
        assert b"refused: 403" in run(url, "queues", status=3).stderr


def test_no_broker_is_status_4() -> None:
    run("http://127.0.0.1:1", "queues", status=4)


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (0, "0s"),
        (999, "0s"),
        (1000, "1s"),
        (59_999, "59s"),
        (60_000, "1m"),
        (3_600_000 * 5, "5h"),
        (86_400_000 * 9, "9d"),
    ],
)
def test_an_age_is_rounded_down_to_the_longest_unit(milliseconds: int, shown: str) -> None:
    assert _age(milliseconds) == shown
