"""``broker stage``: programs as stages, against a broker."""

from __future__ import annotations

import os
import subprocess
import sys
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


class Stage:
    """``broker stage`` with these words."""

    def __init__(self, http: Http, *words: str) -> None:
        code = "import sys; from broker.cli import main; sys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "stage", "--url", http.url, *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Stage:
        return self

    def stop(self) -> str:
        """SIGTERM; what it said."""
        self.process.terminate()
        said = self.process.communicate(timeout=Twistd.PATIENCE)[1]
        assert self.process.returncode == 0, said
        return said

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_shell_command_works_on_messages_in_a_flow(http: Http) -> None:
    words = ["--from=docs", "--to=words", "--frame=lines", "--retries=0", "--concurrency=2"]
    words += ["--flow=indexer", "--name=split", "--code-version=v7"]
    script = 'read -r line; test "$line" != bad || { echo "no good" >&2; exit 65; }; for w in $line; do echo $w; done'
    with Stage(http, *words, "--", "sh", "-c", script) as stage:
        http.ask("POST", "/channels/docs", b"to be or", fields={"ce-id": "r1"})
        http.ask("POST", "/channels/docs", b"bad")
        events = http.events("words", 3)
        assert [event["data"] for event in events] == ["to", "be", "or"]
        assert events[0].items() >= {"rootid": "r1", "parentid": "r1", "stage": "split", "codeversion": "v7"}.items()
        (dead,) = http.events("docs.dead")
        assert (dead["data"], dead["deadreason"]) == ("bad", "no good")
        assert "Traceback" not in stage.stop()
    (definition,) = http.ask("GET", "/topics/flow%2Findexer/messages")["messages"]
    assert [stage["name"] for stage in definition["event"]["data"]["stages"]] == ["split"]


def test_a_program_that_runs_on_ends_with_its_input(http: Http, tmp_path: Path) -> None:
    script = tmp_path / "upper.py"
    script.write_text(
        "import json, sys, pathlib\n"
        "for line in sys.stdin:\n"
        "    event = json.loads(line)\n"
        "    print(json.dumps(event['data'].upper()))\n"
        "    print(json.dumps({'ack': event['id']}), flush=True)\n"
        f"pathlib.Path({str(tmp_path / 'ended')!r}).write_text('by itself')\n"
    )
    with Stage(
        http, "--from=in", "--to=out", "--frame=ndjson", "--concurrency=4", "--", sys.executable, str(script)
    ) as stage:
        for word in "abc":
            http.ask("POST", "/channels/in", word.encode())
        assert sorted(http.get("out", 3)) == ["A", "B", "C"]
        stage.stop()
    assert (tmp_path / "ended").read_text() == "by itself"


def test_a_filter_that_cannot_be_read_is_refused_with_its_place(http: Http, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage", "--url", http.url, "--from=docs", "--match=data.a = ", "--", "cat"]) == 3
    assert "refused: 400 bad filter at character 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from=a"], "say which program"),
        (["--from=a", "--", "no-such-program"], "there is no program 'no-such-program'"),
        (["--from=a", "--frame=http", "--", "true"], "needs --http"),
        (["--from=a", "--frame=lsp", "--http=http://x", "--", "true"], "exclude each other"),
        (["--from=a", "--frame=lsp", "--success=1", "--", "true"], "--success says nothing"),
        (["--from=a", "--http=ftp://x"], "not of the form"),
        (["--from=a", "--retries=-1", "--", "true"], "retries"),
        (["--from=a", "--url=x", "--", "true"], "not of the form http://host:port"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stage", *words]) == 2
    assert said in capsys.readouterr().err
