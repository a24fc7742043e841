"""The page of the documentation that shows what was measured beside peers, made of ``results/peers.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.plots import plot

Row = Mapping[str, Any]
Report = Mapping[str, Any]

_BEGIN = """\
.. Written by script/benchmark; what is changed by hand is lost.

Beside others
=============

The broker with all its fronts on, beside servers one would otherwise pick, each with its durability stated and
verified: how often it asked the kernel to write to the disk was counted while messages were published one by one.
``script/benchmark`` installs those that can be had from packages, runs each case on loopback, the servers by turns, and
writes this page; ``script/benchmark --only CASE`` runs one, ``--list`` names them.

Ratios are the median over the turns of one run. Rates differ by a factor of two from run to run and from machine to
machine; **ratios, and processor time per message,** differ less. ``generator`` is the share of a processor that the
client took: where it is far below 1, the client was not the limit.
"""


def page(report: Report) -> str:
    """The page."""
    cases: Mapping[str, Report] = report["cases"]
    said = [_BEGIN, _where(report)]
    if syncs := report.get("syncs"):
        said += _section("What is on the disk when a reply comes")
        said.append(
            _table(
                ("server", "version", "durability", f"syncs for {syncs[0]['messages']} messages"),
                [
                    (row["server"], report["peers"].get(row["server"], ""), row["durability"], row["syncs"])
                    for row in syncs
                ],
            )
        )
    if left := report.get("left_out"):
        said.append("Left out: " + "; ".join(left) + ".\n")
    if any(case["kind"] == "Comparison" for case in cases.values()):
        said += _section("Goals")
        said.append("What is to be reached, and what is aimed at, as ratios to the peer.\n")
        said.append(_table(("case", "peer", "ratio", "must", "aim", ""), list(_goals(report))))
        said += _section("Beside peers")
        for name, case in cases.items():
            if case["kind"] == "Comparison":
                said += [f"**{name}**: {case['title']}\n", _table(_SERVERS, [_of_server(row) for row in case["rows"]])]
                said += [f"Broke off: {note}\n" for note in case["notes"]]
    said += _latency(cases)
    said += _growth(cases)
    said += _mixed(cases)
    return "\n".join(said)


def plots(report: Report) -> dict[str, str]:
    """The plots that the page shows, by the names of their files."""
    return {
        f"bench-{name}.svg": plot(
            case["title"],
            case["axis"],
            "messages/s",
            {
                "messages/s": [(row["x"], row["rate"]) for row in case["rows"]],
                "µs of processor each": [(row["x"], row["cpu_us"]) for row in case["rows"]],
            },
        )
        for name, case in report["cases"].items()
        if case["kind"] == "Sweep"
    }


_SERVERS = (
    "server",
    "messages/s",
    "ratio",
    "µs each",
    "in kernel",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "RSS MiB",
    "generator",
)


def _where(report: Report) -> str:
    on, of = report["machine"], report["versions"]
    programs = ", ".join(f"{name} {version}" for name, version in of.items())
    return (
        f"``{report['command']}`` on {on['system']}, {on['architecture']}, {on['processors']} processors, "
        f"{on['memory_gib']} GiB, {report['date']}; {programs}. "
        f"Runs of {report['seconds']:g} s, {report['rounds']} turns.\n{_anew(report['cases'])}"
    )


def _anew(cases: Mapping[str, Report]) -> str:
    """Which cases were run after the others, and how."""
    said: dict[str, list[str]] = {}
    for name, case in cases.items():
        if "command" in case:
            said.setdefault(f"``{case['command']}``, {case['date']}", []).append(name)
    return "".join(f"\nRun anew: {', '.join(names)}; {how}.\n" for how, names in said.items())


def _section(title: str) -> list[str]:
    return [f"{title}\n{'-' * len(title)}\n"]


def _goals(report: Report) -> Iterable[Sequence[Any]]:
    for name, case in report["cases"].items():
        if case["kind"] == "Comparison":
            for row in case["rows"]:
                if "must" in row and "ratio" in row:
                    yield name, row["server"], row["ratio"], row["must"], row["aim"], _reached(row["ratio"], row, 1)
        if case["kind"] == "Sweep" and case["flat"]:
            costs = [row["cpu_us"] for row in case["rows"] if row["x"] >= case["least"]]
            times = max(costs) / costs[0]
            yield (
                f"{name}, dearest to first",
                "",
                times,
                case["flat"],
                "",
                _reached(times, {"must": case["flat"]}, -1),
            )
        if case["kind"] == "Limit":
            for row in case["rows"]:
                if "must" in row:
                    aim = f"{row['aim']:g} {row['unit']}" if "aim" in row else ""
                    value, must = f"{row['value']:g} {row['unit']}", f"{row['must']:g} {row['unit']}"
                    yield row["what"], "", value, must, aim, _reached(row["value"], row, -1)


def _reached(value: float, row: Row, sign: int) -> str:
    if "aim" in row and value * sign >= row["aim"] * sign:
        return "aim"
    return "must" if value * sign >= row["must"] * sign else "missed"


def _of_server(row: Row) -> Sequence[Any]:
    times = row.get("put") or row.get("take") or {}
    return (
        row["server"],
        round(row["rate"]),
        row.get("ratio", ""),
        row.get("cpu_us", ""),
        row.get("kernel_us", ""),
        *(times.get(name, "") for name in ("p50", "p99", "p99.9")),
        round(row["rss_mib"]),
        row["generator_share"],
    )


def _latency(cases: Mapping[str, Report]) -> list[str]:
    said: list[str] = []
    for name, case in cases.items():
        if case["kind"] == "Latency":
            rows = [
                (row["server"], f"{row['x']} % of {row['highest']:,}/s", *_of_server(row)[5:8]) for row in case["rows"]
            ]
            said += [f"**{name}**: {case['title']}\n", _table(("server", "load", "p50 ms", "p99 ms", "p99.9 ms"), rows)]
    if said:
        said = [*_section("Latency"), "By the clock: counted from when a message was due to be sent.\n", *said]
    return said


def _growth(cases: Mapping[str, Report]) -> list[str]:
    said: list[str] = []
    for name, case in cases.items():
        if case["kind"] == "Sweep":
            said.append(f".. image:: _static/bench-{name}.svg\n   :alt: {case['title']}\n")
            rows = [(f"{row['x']:,}", *_of_server(row)[1:2], *_of_server(row)[3:]) for row in case["rows"]]
            heads = (case["axis"], *_SERVERS[1:2], *_SERVERS[3:])
            said.append(_table(heads, rows))
    return [*_section("How cost grows"), *said] if said else []


def _mixed(cases: Mapping[str, Report]) -> list[str]:
    said: list[str] = []
    for name, case in cases.items():
        if case["kind"] == "Mixed":
            rows = [(row["load"], round(row["rate"]), *_of_server(row)[5:]) for row in case["rows"]]
            heads = ("load", "messages/s", "p50 ms", "p99 ms", "p99.9 ms", "RSS MiB", "generator")
            said += [f"**{name}**: {case['title']}\n", _table(heads, rows)]
    return [*_section("Protocols together"), *said] if said else []


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (heads, *rows):
        for place, cell in enumerate(row):
            lines.append(f"   {'*' if place == 0 else ' '} - {_cell(cell)}".rstrip())
    return "\n".join([*lines, ""])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
