"""``broker replay`` and ``broker redrive``, run against a broker; and how they draw what they show."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

import pytest

from broker.cli.replay import bar, ending
from tests.support import Twistd
from tests.test_cli import run

#: So many messages, at one a second, take longer than any of these tests: what is looked at is under way.
MANY = 500

CONFIG = """
[topic]
"*" = { retain = 3600000 }
[queue]
"work" = { dead_letter = "work.dead", max_attempts = 1 }
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "broker.toml").write_text(CONFIG)
    with Twistd(folder, "--data=:memory:", "--config=broker.toml") as twistd:
        yield f"http://127.0.0.1:{twistd.ports()['HTTP']}"


def said(url: str, *words: str, status: int = 0) -> str:
    return run(url, *words, status=status).stdout.decode()


def ask(url: str, method: str, path: str, body: bytes | None = None) -> Any:
    request = Request(url + path, body, {"Content-Type": "application/json"}, method=method)
    with urlopen(request) as response:
        answer = response.read()
        return json.loads(answer) if answer else None


def put(url: str, queue: str, *bodies: str) -> None:
    for body in bodies:
        ask(url, "POST", f"/channels/{queue}", body.encode())


def put_many(url: str, queue: str) -> None:
    ask(url, "POST", f"/channels/{queue}/messages", json.dumps(list(range(MANY))).encode())


def die(url: str, *bodies: str) -> None:
    """Have messages die; returns once all wait among the dead, to where they move after the answer."""
    for body in bodies:
        put(url, "work", body)
        with urlopen(f"{url}/channels/work?nowait") as response:
            id = response.headers["X-Linger-Msg-Id"]
        ask(url, "POST", f"/messages/{id}/nack")
    give_up = time.monotonic() + Twistd.PATIENCE
    while ask(url, "GET", "/channels/work.dead/stats")["ready"] < len(bodies):
        assert time.monotonic() < give_up


def test_a_topics_past_is_put_in_again_and_undone(url: str) -> None:
    for n in range(5):
        ask(url, "POST", "/topics/news", b"%d" % n)
    dry = said(url, "replay", "run", "topic:news", "again", "--match=data > 1", "--dry-run")
    assert dry.splitlines()[0] == "3 of 5 messages"
    assert [line.split()[-1] for line in dry.splitlines()[2:]] == ["2", "3", "4"]
    assert said(url, "replay", "run", "topic:news", "again", "--match=data > 1") == (
        "replay 1 is done: 3 of 5 messages put in\n"
    )
    assert said(url, "get", "again", "--count=5") == "2\n3\n4\n"
    assert said(url, "replay", "run", "topic:news", "topic:other", "--since=+1h", "--json", status=1).count("\n") >= 1
    said(url, "replay", "run", "topic:news", "queue:again")
    undone = json.loads(said(url, "replay", "cancel", "3", "--undo", "--json"))
    assert undone["undone"] == 5
    said(url, "get", "again", status=1)


def test_a_replay_is_paused_shown_resumed_and_ended(url: str) -> None:
    put_many(url, "slow")
    id = said(url, "replay", "run", "queue:slow", "quick", "--rate=1", "--detach").strip()
    assert said(url, "replay", "pause", id).startswith(f"replay {id} is paused: ")
    head, *rows = said(url, "replay", "list").splitlines()
    assert head.split() == ["ID", "STATE", "FROM", "TO", "LOOKED", "AT", "OF", "PUT", "IN", "WHY"]
    assert [id, "paused", "queue:slow", "queue:quick"] in [row.split()[:4] for row in rows]
    assert json.loads(said(url, "replay", "resume", id, "--rate=2000", "--json"))["rate"] == 2000
    assert said(url, "replay", "show", id) == f"replay {id} is done: {MANY} of {MANY} messages put in\n"
    assert said(url, "replay", "list", "--json").count("\n") == int(id)
    said(url, "replay", "show", "99", status=3)
    said(url, "replay", "run", "queue:none", "quick", status=3)


def test_dead_letters_are_sent_home_within_a_bound(url: str) -> None:
    die(url, "a", "b", "c")
    said(url, "redrive", "work.dead", status=3)
    assert said(url, "redrive", "work.dead", "--max=1").endswith("1 messages put in\n")
    assert said(url, "redrive", "work.dead", "--all", "--to=queue:elsewhere", "--max=1").count("\n") == 1
    assert said(url, "redrive", "work.dead", "--all", "--dry-run").startswith("1 of 1 messages\n")
    said(url, "redrive", "work.dead", "--all")
    assert (said(url, "get", "work", "--count=9"), said(url, "get", "elsewhere")) == ("a\nc\n", "b")


def test_a_terminal_sees_a_bar_and_an_interrupt_leaves_the_replay_at_work(url: str) -> None:
    put_many(url, "seen")
    terminal, end = pty.openpty()
    main = "import sys; from broker.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", main, "replay", "run", "queue:seen", "shown", "--rate=1", f"--url={url}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end) as process:
        os.close(end)
        drawn = b""
        while b"put in" not in drawn:
            drawn += os.read(terminal, 1024)
        process.send_signal(2)
        assert process.wait(Twistd.PATIENCE) == 130
    os.close(terminal)
    assert b"[" in drawn
    assert [one["state"] for one in ask(url, "GET", "/replays")["replays"]][-1] == "running"


def shown(**what: Any) -> dict[str, Any]:
    return {"id": 7, "state": "running", "total": 200, "examined": 50, "copied": 20} | what


@pytest.mark.parametrize(
    ("replay", "line"),
    [
        (shown(), "replay 7 [######..................]  25%, 20 put in"),
        (shown(total=0, examined=0), "replay 7 [........................]   0%, 20 put in"),
        (shown(state="done", examined=9), "replay 7 [########################] 100%, 20 put in"),
        (
            shown(per_second=1234.5, eta=75, waits_for="q is full"),
            "replay 7 [######..................]  25%, 20 put in, 1,234 looked at/s, 1:15 left, waits: q is full",
        ),
        (shown(eta=3700), "replay 7 [######..................]  25%, 20 put in, 1:01:40 left"),
    ],
)
def test_the_bar_says_how_far_it_is(replay: dict[str, Any], line: str) -> None:
    assert bar(replay) == line


def test_the_end_says_what_was_not_put_in() -> None:
    done = shown(state="done", left=1, parked=2, undone=0)
    assert ending(done) == "replay 7 is done: 20 of 50 messages put in, 1 left, 2 parked"


def test_some_time_ago_is_said_as_it_is_written_everywhere(url: str) -> None:
    """To argparse ``-1h`` looks like an option."""
    ask(url, "POST", "/topics/lately", b"x")
    begun = ("replay", "run", "topic:lately", "queue:ago", "--since", "-1h", "--until", "-0s", "--dry-run")
    assert "1 message" in said(url, *begun)
    said(url, "browse", "ago", "--since", "-1h", status=1)  # there is nothing, which is not wrong usage
