"""A short abuse of a whole broker, and what the run itself would notice. ``script/abuse`` goes on for longer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.abuse.attacks import ATTACKS
from tests.abuse.run import run, times


def test_a_broker_that_is_abused_serves_a_client_beside_it_and_lets_go_of_all_that_left(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing (second layer: .ci/run installs it)")
    said, wrong = run(tmp_path, seconds=4, seed=0)
    print(*said, sep="\n")
    assert not wrong
    # Every protocol was asked for something while it lasted.
    assert {line.partition(":")[0] for line in said} >= {"memcache", "STOMP send", "HTTP take", "a new connection"}


def test_every_attack_has_a_sentence() -> None:
    assert all(attack.__doc__ for attack in ATTACKS)


def test_the_times_are_those_of_the_ranks() -> None:
    assert times([0.001 * number for number in range(1, 101)]) == "100 times, p50 50.0 ms, p99 99.0 ms, max 100.0 ms"
    assert times([0.5]) == "1 times, p50 500.0 ms, p99 500.0 ms, max 500.0 ms"
