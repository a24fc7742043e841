"""What stages cost, at a small size: that each case moves everything, not how fast."""

from __future__ import annotations

from pathlib import Path

from benchmarks import stages


def test_the_benchmark_moves_what_it_says(tmp_path: Path) -> None:
    command = stages.script(tmp_path, stages.CASES["batch 50"])
    row = stages.measure("batch 50", command, 300)
    assert row["messages"] == 300


def test_a_missed_goal_is_said() -> None:
    rows = [{"stage": case, "messages/s": least - (case == "batch 50")} for case, least in stages.LEAST.items()]
    assert stages.missed(rows) == ["batch 50: 1999 messages/s, not 2000"]
