"""A small machine: what a broker with all its fronts takes of memory, idle and with more in its queues than fits."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.support import Twistd

MIB = 1024 * 1024
#: Resident memory of an idle broker; 59 MiB were seen.
MOST_IDLE = 80 * MIB
#: The most it ever had with work to do; 80 MiB were seen. The smallest machine it is to run on has 256 MiB, for the
#: system too.
MOST_BUSY = 128 * MIB
#: Messages that wait, and their bytes.
COUNT, SIZE = 2_000, 100_000

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")


def memory(broker: Twistd, field: str) -> int:
    """A field of what the kernel says of a process, in bytes."""
    found = re.search(rf"{field}:\s+(\d+)", Path(f"/proc/{broker.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_an_idle_broker_and_one_with_much_in_its_queues_fit_into_a_small_machine(tmp_path: Path) -> None:
    with Twistd(tmp_path, "--sync=normal") as broker:
        ports = broker.ports()
        assert memory(broker, "VmRSS") <= MOST_IDLE
        body = b"x" * SIZE
        with (
            socket.create_connection(("127.0.0.1", ports["memcache"]), timeout=30) as client,
            client.makefile("rb") as file,
        ):
            for first in range(0, COUNT, 100):
                for number in range(first, first + 100):
                    client.sendall(b"set q%d 0 0 %d\r\n%b\r\n" % (number % 50, SIZE, body))
                assert file.read(800) == b"STORED\r\n" * 100
            for number in range(COUNT // 10):
                client.sendall(b"get q%d\r\n" % (number % 50))
                assert file.readline() == b"VALUE q%d 0 %d\r\n" % (number % 50, SIZE)
                assert len(file.read(SIZE + 7)) == SIZE + 7
        assert memory(broker, "VmHWM") <= MOST_BUSY
        print(f"{memory(broker, 'VmHWM') / MIB:.0f} MiB at most")
