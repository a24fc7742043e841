"""What a stage costs: messages a second that one worker moves from a channel to the next, by functions and programs.

    .venv/bin/python -m benchmarks.stages [MESSAGES [RUNS_OF_A_PROGRAM]]

The messages are there before the worker starts; the clock runs from its first output to its last. Every output is
committed with the ack of its input. Goals: 2,000/s with batches of 50, 100/s with a process for each message.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import ROOT, Folder, Process, Row, report

MESSAGES, RUNS = 20_000, 500
#: Goals, in messages a second, by case.
LEAST = {"batch 50": 2_000, "a process each": 100}

FUNCTION = """
from broker.stages import Pipeline
flow = Pipeline("bench")
@flow.stage("in", to="out", batch={batch}, concurrency={concurrency}, mode={mode!r})
def copy(events):
    return [event.child(event.raw) for event in events] if {batch} > 1 else events.raw
flow.run()
"""
CASES = {
    "one by one": FUNCTION.format(batch=1, concurrency=1, mode="thread"),
    "8 threads": FUNCTION.format(batch=1, concurrency=8, mode="thread"),
    "batch 50": FUNCTION.format(batch=50, concurrency=4, mode="thread"),
}
PROGRAMS = {
    "a process each": ["--concurrency=4", "--", "cat"],
    "lines of JSON": [
        *("--frame=ndjson", "--concurrency=4", "--", sys.executable, "-u", "-c"),
        'import sys, json\nfor line in sys.stdin: print(1, json.dumps({"ack": json.loads(line)["id"]}), sep="\\n")',
    ],
}


def ask(port: int, method: str, path: str, said: object = None) -> bytes:
    """One request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = None if said is None else json.dumps(said).encode()
    connection.request(method, path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    assert response.status < 300, (response.status, answer)
    return answer


def ready(port: int) -> int:
    """How many outputs there are."""
    found = json.loads(ask(port, "GET", "/channels/out/stats"))
    return int(found["ready"])


def measure(case: str, command: list[str], count: int) -> Row:
    """One run over so many messages."""
    with Folder() as folder, Process(folder) as broker:
        port = broker.ports["http"]
        for place in range(0, count, 500):
            ask(port, "POST", "/channels/in/messages", [{"n": n} for n in range(place, min(place + 500, count))])
        environment = os.environ | {"BROKER_URL": f"http://127.0.0.1:{port}", "PYTHONPATH": str(ROOT)}
        worker = subprocess.Popen(command, cwd=folder, env=environment)
        try:
            first = 0
            while not first:
                time.sleep(0.005)
                first = ready(port)
            begun, cpu = time.monotonic(), broker.cpu()
            while (done := ready(port)) < count:
                time.sleep(0.1)
            took = time.monotonic() - begun
            busy = (broker.cpu() - cpu) / max(done - first, 1) * 1e6
        finally:
            worker.terminate()
            worker.wait(30)
    return {"stage": case, "messages": done, "messages/s": round((done - first) / took), "broker ms": round(busy)}


def script(folder: Path, text: str) -> list[str]:
    """The command that runs a flow."""
    (folder / "flow.py").write_text(text)
    return [sys.executable, str(folder / "flow.py")]


def program(words: list[str]) -> list[str]:
    """The command that makes a program a stage."""
    return [sys.executable, "-c", "from broker.cli import main; main()", "stage", "--from=in", "--to=out", *words]


def missed(rows: Sequence[Row]) -> list[str]:
    """The goals that were not reached."""
    rates = {str(row["stage"]): int(str(row["messages/s"])) for row in rows}
    return [f"{case}: {rates[case]} messages/s, not {least}" for case, least in LEAST.items() if rates[case] < least]


def main() -> int:
    """Run with what the command line says."""
    said = [int(word) for word in sys.argv[1:]]
    messages, runs = (*said, *(MESSAGES, RUNS)[len(said) :])
    with Folder() as folder:
        rows = [
            measure(case, script(folder, text), messages if "batch" in case else messages // 10)
            for case, text in CASES.items()
        ]
    rows += [measure(case, program(words), runs) for case, words in PROGRAMS.items()]
    return report("stages", rows, missed(rows))


if __name__ == "__main__":
    raise SystemExit(main())
