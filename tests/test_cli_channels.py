"""``broker browse``, ``pause``, ``resume``, ``purge``, ``stats`` and ``definitions``, run against a broker."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Twistd
from tests.test_cli import run


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Twistd(tmp_path_factory.mktemp("data"), "--data=:memory:") as twistd:
        yield f"http://127.0.0.1:{twistd.ports()['HTTP']}"


def said(url: str, *words: str) -> str:
    done = run(url, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_messages_are_browsed_and_stay(url: str) -> None:
    for body in ("one", "two\nlines", "\u20ac" * 70):
        run(url, "publish", "b", body)
    head, *rows = said(url, "browse", "b").splitlines()
    assert head.split() == ["ID", "STATE", "FAILED", "TIME", "BODY"]
    assert [row.split(None, 4)[4] for row in rows] == ["one", "two lines", "\u20ac" * 57 + "..."]
    assert [json.loads(line)["state"] for line in said(url, "browse", "b", "--json", "--count=2").splitlines()] == [
        "ready"
    ] * 2
    assert said(url, "browse", "b", "--match", 'body = "one"').count("\n") == 2
    run(url, "browse", "b", "--state=hidden", status=1)
    run(url, "browse", "b", "--state=odd", status=3)
    assert said(url, "get", "b") == "one"


def test_a_queue_is_paused_resumed_and_purged(url: str) -> None:
    run(url, "publish", "p", "x")
    assert said(url, "pause", "p") == ""
    run(url, "get", "p", status=1)
    assert json.loads(said(url, "resume", "p", "--json"))["config"]["paused"] is False
    assert said(url, "get", "p") == "x"
    run(url, "publish", "p", "y")
    assert said(url, "purge", "p", "--state=hidden") == ""
    assert said(url, "stats", "p").splitlines()[1].split() == ["ready", "1"]
    said(url, "purge", "p")
    assert json.loads(said(url, "stats", "p", "--json"))["ready"] == 0
    assert "published" in json.loads(said(url, "stats", "--json"))


def test_definitions_are_shown_and_applied(url: str, tmp_path: Path) -> None:
    file = tmp_path / "definitions.json"
    wanted = {"channels": {"d": {"ttl": 5000}}, "bindings": [{"channel": "d", "source": "topic:news"}]}
    file.write_text(json.dumps(wanted))
    changes = said(url, "definitions", f"--apply={file}", "--dry-run").splitlines()
    assert [json.loads(line)["what"] for line in changes] == ["config", "bind"]
    assert json.loads(said(url, "definitions"))["channels"].get("d") is None
    said(url, "definitions", f"--apply={file}")
    assert json.loads(said(url, "definitions"))["channels"]["d"] == {"ttl": 5000}
    assert said(url, "definitions", f"--apply={file}") == ""
    run(url, "definitions", "--apply=/nowhere", status=2)


def test_on_a_terminal_a_table_is_drawn(url: str) -> None:
    run(url, "publish", "t", "x")
    ours, theirs = pty.openpty()
    start = "import sys; from broker.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", start, "browse", "t", f"--url={url}"],
        stdout=theirs,
        timeout=Twistd.PATIENCE,
        check=False,
    )
    os.close(theirs)
    output = b""
    with contextlib.suppress(OSError):  # EIO, once all that was written has been read: one read need not bring all
        while read := os.read(ours, 65536):
            output += read
    drawn = output.decode()
    os.close(ours)
    assert done.returncode == 0
    assert "BODY" in drawn
    assert drawn.splitlines()[1].split()[-1] == "x"
