"""Stages on two hosts, one of which loses its network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_work_of_a_host_that_loses_its_network_moves_to_the_other(tmp_path: Path) -> None:
    """In network namespaces; where they are refused, a worker behind a cable shows the same (test_worker)."""
    allowed = shutil.which("ip") and shutil.which("nsenter")
    if not allowed or subprocess.run(["unshare", "-Urn", "true"], check=False, capture_output=True).returncode:
        pytest.skip("network namespaces are refused here, or there is no ip (iproute2) or nsenter (util-linux)")
    command = ["unshare", "-Urn", "--kill-child", sys.executable, "-m", "tests.stages.hosts", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, end="")
