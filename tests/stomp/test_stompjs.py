"""@stomp/stompjs in Node, over WebSocket and TCP, against one broker process (lines 77 to 79 and most before)."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import Twistd

HERE = Path(__file__).resolve().parent / "js"
NODE = shutil.which("node")
#: Seconds for everything.
PATIENCE = 120


@pytest.mark.skipif(NODE is None or shutil.which("npm") is None, reason="Node and npm are not installed")
def test_stompjs_goes_through_its_conversation(tmp_path: Path) -> None:
    with (HERE / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several runs may share the folder
        if not (HERE / "node_modules" / ".package-lock.json").exists():
            subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True, timeout=PATIENCE)
    with Twistd(tmp_path, "--data=:memory:") as broker:
        ports = broker.ports()
        url = f"ws://127.0.0.1:{ports['HTTP']}/ws"
        command = [str(NODE), "conversation.mjs", url, str(ports["STOMP"])]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 16, done.stdout
