"""A flow killed again and again: its workers, one process of them, the broker, or all at once, between any two steps.

    .venv/bin/python -m tests.stages.killing [KILLS [DOCUMENTS [SEED]]]

In the end each document has exactly the outputs that it should have, counted by their roots in what the broker has
kept, and the index outside the broker is complete.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.stages.support import Http, Worker
from tests.support import Twistd

#: Steps of the flow, as its workers print them, before something is killed: at most so many.
STEPS = 40
#: What is killed, one after the other.
KINDS = ("worker", "process", "broker", "process", "both")
#: Seconds in which something must happen.
LIMIT = 60.0
#: Where inputs wait, as the flow passes them.
CHANNELS = ("raw", "docs", "words")

PROGRAM = """
    import json, sqlite3, sys

    def step(name):
        os.write(1, f"{name} {os.getpid()}\\n".encode())

    flow = Pipeline("indexer", retain=86400)
    rules = {"lease": 1, "backoff": [0.05], "retries": 100}

    @flow.stage("raw", to="docs", concurrency=2, **rules)
    def parse(event):
        step("parse")
        return json.loads(event.raw)

    @flow.stage("docs", to="words", mode="process", **rules)
    def split(event):
        step("split")
        for word in event.data["text"].split():
            yield {"word": word, "doc": event.data["id"]}
        step("was split")

    @flow.stage("words", batch=20, **rules)
    def index(events):
        step("index")
        with sqlite3.connect("index.db") as db:
            rows = [(event.id, event.data["doc"], event.data["word"], event.attempt) for event in events]
            db.executemany("insert or ignore into found values (?, ?, ?, ?)", rows)
        step("was indexed")

    flow.run()
"""


class Found(NamedTuple):
    """What a run came to."""

    kills: Counter[str]
    documents: int
    words: int
    #: Roots whose outputs are not what they should be, and documents whose words in the index are not.
    wrong: list[str]
    #: Words that were tried more than once.
    again: int


class Run:
    """One data file and one index, from the first broker on them to the last."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._folder = folder
        self._data = folder / "data"
        self._data.mkdir()
        with sqlite3.connect(folder / "index.db") as db:
            db.execute("pragma journal_mode=wal")
            db.execute("create table found (id text primary key, doc integer, word text, attempt integer)")
        self._broker = Twistd(self._data)
        self._port = self._broker.ports()["HTTP"]
        self._http = Http(f"http://127.0.0.1:{self._port}")
        self._worker = self._work()
        self._texts: dict[int, str] = {}
        self._roots: dict[str, int] = {}

    def _work(self) -> Worker:
        return Worker(self._http.url, self._folder, PROGRAM, errors=self._folder / "errors.txt")

    def go(self, kills: int, documents: int) -> Found:
        """Kill so many times, with so many documents in all, let the rest be done, and look."""
        done: Counter[str] = Counter()
        for number in range(kills):
            self._publish(documents * (number + 1) // kills - len(self._texts))
            pid = self._follow(self._chance.randint(1, STEPS))
            what = KINDS[number % len(KINDS)]
            done[what] += 1
            self._kill(what, pid)
        self._finish()
        return self._look(done)

    def end(self) -> None:
        """Leave nothing running."""
        self._worker.kill()
        self._broker.kill()
        self._http.close()

    def _publish(self, count: int) -> None:
        batch = []
        for _ in range(count):
            number = len(self._texts)
            self._texts[number] = " ".join(f"w{word}" for word in range(self._chance.randint(1, 6)))
            self._roots[f"root-{number}"] = number
            body = {"id": number, "text": self._texts[number]}
            batch.append({"specversion": "1.0", "id": f"root-{number}", "source": "/s", "type": "t", "data": body})
        for place in range(0, len(batch), 500):
            kind = {"Content-Type": "application/cloudevents-batch+json"}
            self._http.ask("POST", "/channels/raw/messages", batch[place : place + 500], fields=kind)

    def _follow(self, steps: int) -> int:
        """Watch so many steps, if there are so many; the process that did the last."""
        pipe = self._worker.process.stdout
        assert pipe is not None
        pid = 0
        watchdog = threading.Timer(LIMIT, self._worker.kill)
        watchdog.start()
        try:
            for _ in range(steps):
                found = re.search(r"\d+", pipe.readline())
                if found is None:
                    raise AssertionError("the workers ended by themselves, or did nothing")
                pid = int(found[0])
        finally:
            watchdog.cancel()
        return pid

    def _kill(self, what: str, pid: int) -> None:
        if what == "process":
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it was one that ran something alone
            return
        if what in ("broker", "both"):
            self._broker.process.kill()
        if what in ("worker", "both"):
            self._worker.kill()
        if what in ("broker", "both"):
            self._broker.wait()
            again = (f"--http=tcp:{self._port}:interface=127.0.0.1", "--memcache=off", "--stomp=off")
            self._broker = Twistd(self._data, *again, free_ports=False)
            self._broker.until("ready")
        if what in ("worker", "both"):
            self._worker = self._work()

    def _finish(self) -> None:
        """Wait until nothing waits and nothing is on loan."""
        assert self._worker.process.stdout is not None
        reader = threading.Thread(target=self._worker.process.stdout.read, daemon=True)
        reader.start()
        before, deadline = None, 0.0
        # In the order of the flow: what moves meanwhile is seen at its new place. What has failed is not counted while
        # it waits for its next try, but can be looked at.
        while any(map(any, counts := [self._http.counts(channel) for channel in CHANNELS])) or any(
            self._http.look(channel) for channel in CHANNELS
        ):
            if counts != before:
                before, deadline = counts, time.monotonic() + LIMIT
            elif time.monotonic() > deadline:
                raise AssertionError(f"nothing happens: {self._http.ask('GET', '/channels?detail=1')}")
            time.sleep(0.05)
        self._worker.process.terminate()
        self._worker.process.wait(LIMIT)
        reader.join()

    def _look(self, kills: Counter[str]) -> Found:
        wrong = []
        made: dict[str, dict[int, list[str]]] = {}
        for channel in ("docs", "words"):
            made[channel] = {}
            for message in self._http.look(channel, "ready,hidden,delayed,done"):
                event = message["event"]
                made[channel].setdefault(self._roots[event["rootid"]], []).append(event["id"])
        with sqlite3.connect(self._folder / "index.db") as db:
            found: dict[int, list[str]] = {}
            for number, word in db.execute("select doc, word from found order by doc, word"):
                found.setdefault(number, []).append(word)
            ((again,),) = db.execute("select count(*) from found where attempt > 1")
        for number, text in self._texts.items():
            words = made["words"].get(number, [])
            if len(made["docs"].get(number, [])) != 1:
                wrong.append(f"document {number}: {made['docs'].get(number)} of parse")
            if len(words) != len(text.split()) or len(set(words)) != len(words):
                wrong.append(f"document {number}: {len(words)} words, not {len(text.split())}")
            if found.get(number) != text.split():
                wrong.append(f"document {number}: {found.get(number)} in the index, not {text!r}")
        dead = [channel for channel in self._http.ask("GET", "/channels")["channels"] if channel.endswith(".dead")]
        wrong += [f"something is in {channel}" for channel in dead]
        return Found(kills, len(self._texts), sum(len(text.split()) for text in self._texts.values()), wrong, again)


def main() -> int:
    """Run with what the command line says."""
    said = [int(word) for word in sys.argv[1:4]]
    kills, documents, seed = [*said, *(100, 10_000, random.randrange(10**6))[len(said) :]]
    print(f"{kills} kills, {documents:,} documents, seed {seed}", flush=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="killing-") as folder:
        run = Run(Path(folder), seed)
        try:
            found = run.go(kills, documents)
        finally:
            run.end()
    print(f"killed: {dict(found.kills)}; {time.monotonic() - begun:.0f} s")
    print(f"{found.words:,} words, {found.again:,} of them tried again")
    for line in found.wrong[:20]:
        print(f"wrong: {line}", file=sys.stderr)
    print("every document has exactly its outputs" if not found.wrong else f"{len(found.wrong)} are wrong")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
