"""The command ``script/soak``; what it finds is test_kill.py's matter."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.crash import soak
from tests.crash.support import ROOT


def test_a_soak_reports_what_it_did() -> None:
    command = [sys.executable, "-m", soak.__name__, "--kills", "2", "--seed", "5"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = dict(re.findall(r"^([a-z ]+): +(.*)$", ended.stdout, re.MULTILINE))
    assert (told["kills"], told["lost"], told["came back"], told["seed"]) == ("2", "0", "0", "5")
    assert int(told["confirmed"]) > 0
    assert int(told["acked"]) > 0
    assert float(told["longest restart"].removesuffix(" s")) > 0
    assert "duplicates" in told


def test_a_soak_may_be_bounded_by_time() -> None:
    command = [sys.executable, "-m", soak.__name__, "--minutes", "0.001", "--quiet"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^kills: +[01]$", ended.stdout, re.MULTILINE)


def test_no_kills_are_no_soak(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        soak.arguments(["--kills", "0"])
    assert "at least 1 is needed" in capsys.readouterr().err


def test_the_script_runs_the_command() -> None:
    assert "python -m tests.crash.soak" in (ROOT / "script" / "soak").read_text()
