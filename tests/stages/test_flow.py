"""``broker flow``: generations of workers that replace each other, what deploys them, and how it is seen."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli import main
from tests.stages.support import ROOT, Http
from tests.support import Twistd


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    with Twistd(tmp_path_factory.mktemp("data"), "--data=:memory:") as twistd:
        one = Http(f"http://127.0.0.1:{twistd.ports()['HTTP']}")
        yield one
        one.close()


PROGRAM = """
from broker.stages import Pipeline
f = Pipeline({name!r})
@f.stage("{name}.in", to="{name}.out", retries=0, concurrency=4)
def work(event):
    return {does}
@f.selftest
def test():
    f.publish("{name}.in", 1)
    f.drain()
    assert f.waiting("{name}.out"), "it makes nothing"
f.run()
"""


class Flow:
    """``broker flow run`` of a file in a folder; what it says is read line by line."""

    def __init__(self, http: Http, folder: Path, name: str, does: str, *words: str) -> None:
        self.name = name
        self.file = folder / "flow.py"
        self.write(does)
        code = "import sys; from broker.cli import main; sys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "flow", "run", "--url", http.url, *words, str(self.file)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.said = ""

    def write(self, does: str) -> None:
        """What its stage does from now on."""
        text = PROGRAM.format(name=self.name, does=does)
        (self.file.parent / "new").write_text(text)
        (self.file.parent / "new").rename(self.file)

    def until(self, pattern: str) -> str:
        """Read on until this is said."""
        assert self.process.stderr is not None
        watchdog = threading.Timer(Twistd.PATIENCE, self.process.kill)
        watchdog.start()
        for line in self.process.stderr:
            self.said += line
            if re.search(pattern, line):
                watchdog.cancel()
                return line
        watchdog.cancel()
        raise AssertionError(f"it never said {pattern!r} but\n{self.said}")

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.said += self.process.communicate(timeout=Twistd.PATIENCE)[1]
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, 9)
        assert self.process.returncode == 0, self.said


def broker(http: Http, *words: str) -> int:
    return main([*words, "--url", http.url])


def test_a_file_that_changes_is_run_anew_and_one_that_is_broken_is_not(http: Http, tmp_path: Path) -> None:
    with Flow(http, tmp_path, "reloaded", "'one'", "--reload") as flow:
        http.put("reloaded.in", 1)
        assert http.get("reloaded.out") == ["one"]
        flow.process.send_signal(signal.SIGHUP)
        flow.until("somebody asks for new workers")
        flow.until("started the flow")
        flow.write("None")
        flow.until("the old generation stays")
        assert "AssertionError: it makes nothing" in flow.said
        http.put("reloaded.in", 1)
        assert http.get("reloaded.out") == ["one"]
        flow.write("'three'")
        flow.until("started the flow")
        found: list[object] = []
        while found != ["three"]:
            http.put("reloaded.in", 1)  # the old one may still take what comes at this moment
            found = http.get("reloaded.out")


def test_a_version_is_deployed_and_one_that_cannot_be_fetched_is_not(
    http: Http, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    update = "test {version} != v3 && echo {version} >> updates"
    with Flow(http, tmp_path, "deployed", "event", "--code-version=v1", f"--update={update}") as flow:
        http.put("deployed.in", 1)
        assert http.events("deployed.out")[0]["codeversion"] == "v1"
        assert broker(http, "flow", "deploy", "deployed", "v2") == 0
        flow.until("started version v2")
        made = ""
        while made != "v2":
            http.put("deployed.in", 1)  # the old one may still take what comes at this moment
            made = http.events("deployed.out")[0]["codeversion"]
        assert broker(http, "flow", "deploy", "deployed", "v3") == 0
        flow.until("version v3 is not run here; v2 stays")
        made = ""
        while made != "v2":
            http.put("deployed.in", 1)  # what v1 takes, if it has not ended, says nothing
            made = http.events("deployed.out")[0]["codeversion"]
            assert made != "v3"
        capsys.readouterr()
        assert broker(http, "flow", "status", "deployed", "--interval=0") == 0
        head, _, row = capsys.readouterr().out.splitlines()[:3]
        assert head.startswith("deployed  v3  (")
        assert "v2" in head
        assert row.split()[:3] == ["deployed.in", "->", "work"]
    assert (tmp_path / "updates").read_text().split()[:1] == ["v2"]


def test_a_canary_takes_over_if_it_is_good_and_is_stopped_if_not(http: Http, tmp_path: Path) -> None:
    with Flow(http, tmp_path, "canary", "1 // (f.version != 'v2' or event.data == 1)", "--code-version=v1") as flow:
        http.put("canary.in", 1)
        http.get("canary.out")
        stopped = threading.Event()

        def feed() -> None:
            own = Http(http.url)
            while not stopped.is_set():
                own.ask("POST", "/channels/canary.in/messages", [{"n": n} for n in range(100)])
                own.ask("POST", "/channels/nothing/lease?wait=1")
            own.close()

        feeding = threading.Thread(target=feed)
        feeding.start()
        try:
            assert broker(http, "flow", "deploy", "canary", "v2", "--canary", "50%", "--canary-inputs=10") == 0
            flow.until("version v2 runs as a canary, with 50 % of the workers")
            flow.until(r"canary v2 is stopped: \d+ of its \d+ inputs failed, 0 of \d+ of v1's")
            flow.until("version v2 is not run here; v1 stays")
            dead = http.look("canary.in.dead")
            assert {message["event"]["deadversion"] for message in dead} == {"v2"}
            assert broker(http, "flow", "deploy", "canary", "v3", "--canary", "50%", "--canary-inputs=10") == 0
            flow.until("canary v3 is good")
            flow.until("started version v3")
        finally:
            stopped.set()
            feeding.join()


def test_what_cannot_be_run_or_is_not_known_is_said(
    http: Http, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("x = \n")
    (tmp_path / "two.py").write_text(
        "from broker.stages import Pipeline\na, b = Pipeline('a'), Pipeline('b')\na.stage('x', name='s')(len)\n"
    )
    for words, said in (
        ([str(tmp_path / "none.py")], "no Python file"),
        ([str(tmp_path / "empty.py")], "no flows in it"),
        ([str(tmp_path / "broken.py")], "SyntaxError"),
        ([str(tmp_path / "two.py")], "2 flows in it: say which"),
        ([f"{tmp_path / 'two.py'}:b"], "the flow has no stages"),
        ([f"{tmp_path / 'two.py'}:a", "t"], "no stage t"),
    ):
        assert broker(http, "flow", "run", *words) == 2
        assert said in capsys.readouterr().err
    for words in (["status", "unknown"], ["deploy", "unknown", "v1"]):
        assert broker(http, "flow", *words) == 1
        assert "nothing is known of a flow unknown" in capsys.readouterr().err
