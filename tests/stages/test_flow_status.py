"""What ``broker flow status`` prints, from numbers."""

from __future__ import annotations

from broker.cli.flow_status import Dead, Row, bottleneck, lines, row_of, span


def row(
    stage: str, channel: str, ready: int = 0, *, on_loan: int = 0, limit: int = 0, rate: float | None = None
) -> Row:
    stats = {"on_loan": on_loan, "ready": ready, "oldest_ms": 240_000, "out_rate": rate, "in_rate": rate}
    stats["drain_eta"] = 144.0 if ready else None
    workers = [{"kind": "worker", "code": "v43"}, {"kind": "waiting request"}, {"kind": "worker", "code": "v42"}]
    return row_of({"name": stage, "to": "x"}, channel, stats, limit, workers)


def test_a_flow_is_shown_with_bars_and_its_bottleneck() -> None:
    rows = [
        row("parse", "raw", 30_210, on_loan=12, rate=210),
        row("split", "docs", on_loan=4, rate=2.5),
        row("index", "words", 49_936, on_loan=64, limit=50_000, rate=640),
    ]
    said = list(lines("indexer", "v43", rows, [Dead("words.dead", 3, "ValueError: no word")], "canary: 10 %"))
    assert [" ".join(line.split()) for line in said] == [
        "indexer v43 (6 workers, 3 v42) canary: 10 %",
        "on loan ready oldest in/s out/s eta version",
        "raw -> parse [############........] 12 30,210 4m 210 210 2m24s v43, v42",
        "docs -> split [#...................] 4 0 4m 2.5 2.5 - v43, v42",
        "words -> index [####################] FULL (50,000) 64 49,936 4m 640 640 2m24s v43, v42 <- bottleneck",
        "words.dead 3 dead (ValueError: no word) broker browse words.dead",
    ]
    assert len({line.rindex("v43, v42") for line in said[2:5]}) == 1


def test_replays_into_the_flow_are_shown() -> None:
    replay = {"run": "7", "state": "paused", "total": 30_000, "examined": 21_000, "copied": 9, "eta": 144}
    replays = [{**replay, "target": target} for target in ({"channel": "raw"}, {"channel": "x"}, "origin")]
    said = list(lines("indexer", "v43", [row("parse", "raw")], [], replays=replays))
    assert said[3:] == [
        "run 7 -> raw  [##############......] 70%  21,000 of 30,000, 9 put in  paused  eta 2m24s",
    ]


def test_the_bottleneck_is_the_last_full_channel_else_who_needs_longest() -> None:
    idle, slow, quick = row("a", "a"), row("b", "b", 10, rate=1), row("c", "c", 100, rate=100)
    first, last = row("d", "d", 5, limit=5), row("e", "e", 5, limit=5)
    assert bottleneck([idle]) is None
    assert bottleneck([quick, slow, idle]) is slow
    assert bottleneck([slow, row("f", "f", 1)]) is not slow
    assert bottleneck([first, last, slow]) is last


def test_spans_have_two_units() -> None:
    assert [span(seconds) for seconds in (0, 59.9, 60, 144, 3_600, 90_061)] == [
        "0s",
        "59s",
        "1m",
        "2m24s",
        "1h",
        "1d1h",
    ]
