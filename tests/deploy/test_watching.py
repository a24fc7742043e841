"""Alerts and the dashboard: every number they name is one a broker shows, and every alert has its runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.threads import deferToThread

from broker.core.destination import queue
from broker.core.message import Message
from broker.storage.sqlite import SQLiteStore
from tests.clients.support import Http
from tests.support import serving, tx

ROOT = Path(__file__).resolve().parent.parent.parent
WATCHING = ROOT / "deploy/prometheus"
RULES = (WATCHING / "broker.rules.yml").read_text()
DASHBOARD = json.loads((WATCHING / "grafana.json").read_text())

#: Labels that Prometheus gives, whoever is asked.
OF_PROMETHEUS = {"instance", "job", "alertname", "alertstate", "severity"}


def alerts() -> dict[str, str]:
    """What is said of each alert, in the one form that the file has."""
    name, *_ = parts = re.split(r"^ +- alert: (\w+)\n", RULES, flags=re.MULTILINE)
    assert "alert:" not in name
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def expression(said: str) -> str:
    found = re.search(r"expr: (?:>-\n)?(.*?)\n +(?:for|labels):", said, re.DOTALL)
    assert found is not None, said
    return " ".join(found[1].split())


def panels() -> Iterator[dict[str, object]]:
    for panel in DASHBOARD["panels"]:
        yield panel
        yield from panel.get("panels", ())


def expressions() -> dict[str, str]:
    """Every expression, by where it stands."""
    found = {name: expression(said) for name, said in alerts().items()}
    for panel in panels():
        for number, target in enumerate(panel.get("targets", ())):  # type: ignore[var-annotated,arg-type]
            found[f"{panel['title']} {number}"] = target["expr"]
    for one in DASHBOARD["templating"]["list"]:
        if one["type"] == "query":
            found[f"${one['name']}"] = one["query"]["query"]
    return found


async def shown(folder: Path) -> dict[str, set[str]]:
    """The labels of each number a broker with a queue shows."""
    async with serving(SQLiteStore(str(folder / "broker.sqlite"))) as served:
        await served.broker.publish(queue("q"), Message(body=b"x"))
        http = Http(served.http)
        try:
            _, _, said = await deferToThread(http.ask, "GET", "/metrics")
        finally:
            http.close()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(said.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@tx()
async def test_every_number_that_is_named_is_one_a_broker_shows_with_that_label(tmp_path: Path) -> None:
    there, named = await shown(tmp_path), set()
    for where, what in expressions().items():
        numbers = set(re.findall(r"\bbroker_\w+", what))
        named |= numbers
        assert numbers <= set(there), (where, numbers - set(there))
        for number, labels in re.findall(r"\b(broker_\w+)\{([^}]*)\}", what):
            assert set(re.findall(r"(\w+) *[=!]~?", labels)) <= there[number] | OF_PROMETHEUS, where
        for labels in re.findall(r"\bby \(([^)]*)\)", what):
            assert set(labels.split(", ")) <= OF_PROMETHEUS.union(*(there[number] for number in numbers)), where
    # What somebody on call looks at first.
    assert {"broker_queue_oldest_seconds", "broker_store_disk_free_bytes", "broker_logins_failed_total"} <= named


def test_every_alert_says_why_and_has_its_runbook() -> None:
    page = (ROOT / "docs/runbooks.rst").read_text()
    headings = {title for title, line in re.findall(r"^(\w+)\n(-+)$", page, re.MULTILINE) if len(title) == len(line)}
    assert headings == set(alerts())
    for name, said in alerts().items():
        assert f'runbook: "runbooks.html#{name.lower()}"' in said
        for what in ("summary", "reason"):
            assert re.search(rf'^ +{what}: ".{{20,}}\."$', said, re.MULTILINE), (name, what)
        assert re.search(r"labels: \{severity: (warning|critical)\}", said), name


def test_every_alert_is_tried() -> None:
    tried = (WATCHING / "broker.rules.test.yml").read_text()
    assert set(re.findall(r'alertname="(\w+)"', tried)) == set(alerts())


def test_the_dashboards_panels_stand_beside_each_other() -> None:
    taken: dict[tuple[int, int], object] = {}
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    for panel in panels():
        place = panel["gridPos"]
        assert isinstance(place, dict)
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


# Prometheus itself is 100 MB: where it is not, the tests above are all there is (Debian: apt-get install prometheus).
if shutil.which("promtool") is not None:

    def test_prometheus_understands_the_rules_and_they_go_off_when_they_should() -> None:
        for command in (["check", "rules", "broker.rules.yml"], ["test", "rules", "broker.rules.test.yml"]):
            done = subprocess.run(["promtool", *command], cwd=WATCHING, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr
