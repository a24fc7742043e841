"""Two memcache clients of Node, by text and binary, against one broker process."""

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
def test_clients_of_node_go_through_their_conversation(tmp_path: Path) -> None:
    with (HERE / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several runs may share the folder
        if not (HERE / "node_modules" / ".package-lock.json").exists():
            subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True, timeout=PATIENCE)
    with Twistd(tmp_path, "--data=:memory:") as broker:
        command = [str(NODE), "conversation.cjs", f"127.0.0.1:{broker.ports()['memcache']}"]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 8, done.stdout
