"""``broker flow status`` as lines: each stage with a bar, its numbers, and which one holds up the others. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from broker.cli.output import aligned

#: Characters of a bar.
WIDTH = 20
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


class Row(NamedTuple):
    """One channel that a stage reads."""

    stage: str
    channel: str
    to: str
    on_loan: int
    ready: int
    oldest_ms: int
    in_rate: float | None
    out_rate: float | None
    eta: float | None
    #: Messages it may hold; 0: any number.
    limit: int
    #: Its workers, by the version of their code.
    versions: Mapping[str, int]

    @property
    def waits(self) -> int:
        """Everything that is not done."""
        return self.ready + self.on_loan

    @property
    def full(self) -> bool:
        """True if it takes no more."""
        return bool(self.limit) and self.waits >= self.limit


class Dead(NamedTuple):
    """A channel of dead letters that is not empty."""

    channel: str
    letters: int
    reason: str


def row_of(stage: Mapping[str, Any], channel: str, stats: Mapping[str, Any], limit: int, workers: Iterable[Any]) -> Row:
    """What the broker says about a channel."""
    versions = Counter(str(worker.get("code", "")) for worker in workers if worker.get("kind") == "worker")
    return Row(
        stage["name"],
        channel,
        stage["to"],
        stats["on_loan"],
        stats["ready"],
        stats["oldest_ms"],
        stats.get("in_rate"),
        stats.get("out_rate"),
        stats.get("drain_eta"),
        limit,
        versions,
    )


def bottleneck(rows: Sequence[Row]) -> Row | None:
    """What holds up the flow: the last stage whose channel is full, else the one that needs longest for what waits."""
    full = [row for row in rows if row.full]
    if full:
        return full[-1]
    waiting = [row for row in rows if row.ready]
    if not waiting:
        return None
    return max(waiting, key=lambda row: row.ready / row.out_rate if row.out_rate else float(row.ready) * 1e6)


def lines(
    flow: str,
    wanted: str,
    rows: Sequence[Row],
    dead: Sequence[Dead],
    said: str = "",
    replays: Iterable[Mapping[str, Any]] = (),
) -> Iterator[str]:
    """The whole; `said` is what else is to be said of a deployment, `replays` are those that are not over."""
    versions = Counter[str]()
    for row in rows:
        versions.update(row.versions)
    total, others = sum(versions.values()), {name: count for name, count in versions.items() if name != wanted}
    workers = f"{total} workers" + "".join(f", {count} {name or 'of no version'}" for name, count in others.items())
    yield f"{flow}  {wanted or 'no version'}  ({workers})" + (f"  {said}" if said else "")
    slow, most = bottleneck(rows), max((row.waits for row in rows), default=0)
    cells: list[tuple[str, ...]] = [("", "", "", "on loan", "ready", "oldest", "in/s", "out/s", "eta", "version", "")]
    cells += [_cells(row, most, row is slow) for row in rows]
    yield from aligned(cells, right=range(3, 9))
    for replay in replays:
        target = replay["target"]
        if isinstance(target, Mapping) and target.get("channel") in [row.channel for row in rows]:
            yield _replay(replay, target["channel"])
    for one in dead:
        reason = f"  ({one.reason})" if one.reason else ""
        yield f"{one.channel}  {one.letters} dead{reason}  broker browse {one.channel}"


def _cells(row: Row, most: int, slow: bool) -> tuple[str, ...]:
    share = row.waits / (row.limit or most) if row.limit or most else 0.0
    state = f"FULL ({row.limit:,})" if row.full else f"of {row.limit:,}" if row.limit else ""
    return (
        row.channel,
        f"-> {row.stage}",
        f"{bar(share, row.waits)} {state}".rstrip(),
        f"{row.on_loan:,}",
        f"{row.ready:,}",
        span(row.oldest_ms / 1000) if row.waits else "-",
        _rate(row.in_rate),
        _rate(row.out_rate),
        "-" if row.eta is None or not row.waits else span(row.eta),
        ", ".join(name or "-" for name in row.versions) or "no worker",
        "<- bottleneck" if slow else "",
    )


def _replay(replay: Mapping[str, Any], channel: str) -> str:
    total, done = replay["total"], replay["examined"]
    share = min(done / total, 1.0) if total else 1.0
    state = "" if replay["state"] == "running" else f"  {replay['state']}"
    left = f"  eta {span(replay['eta'])}" if replay.get("eta") else ""
    many = f"{done:,} of {total:,}, {replay['copied']:,} put in"
    return f"run {replay['run']} -> {channel}  {bar(share, done)} {share:.0%}  {many}{state}{left}"


def bar(share: float, many: int) -> str:
    """A part of a whole, drawn; anything at all is one sign at least."""
    filled = min(WIDTH, round(share * WIDTH) or bool(many))
    return f"[{'#' * filled}{'.' * (WIDTH - filled)}]"


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}"


def span(seconds: float) -> str:
    """A time in its two longest units: ``2m24s``."""
    left = int(seconds)
    said: list[str] = []
    for unit, length in _UNITS:
        if left >= length and len(said) < 2:
            said.append(f"{left // length}{unit}")
            left %= length
        elif said:
            break
    return "".join(said) or "0s"
