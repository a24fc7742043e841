"""``GET /lineage/ID``: what became of a document, counted in what the channels still hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from broker.stages.link import Refused
from tests.stages.support import Http
from tests.support import Twistd


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    with Twistd(tmp_path_factory.mktemp("data"), "--data=:memory:") as twistd:
        one = Http(f"http://127.0.0.1:{twistd.ports()['HTTP']}")
        for channel in ("raw", "docs", "words"):
            one.configure(channel, retain=3_600_000)
        stages = [
            {"name": "parse", "channels": ["raw"], "to": "docs", "dead": ["raw.dead"]},
            {"name": "split", "channels": ["docs"], "to": "words", "dead": ["docs.dead"]},
        ]
        one.ask("PATCH", "/topics/flow%2Findexer/config", {"retain_bytes": 65536})
        for wanted in ("v1", "v2"):
            one.ask("POST", "/topics/flow%2Findexer", {"stages": stages, "wanted": wanted})
        one.ask("PATCH", "/topics/flow%2Fodd/config", {"retain_bytes": 65536})
        one.ask("POST", "/topics/flow%2Fodd", ["odd"])
        yield one
        one.close()


def put(http: Http, channel: str, id: str, **attributes: str) -> None:
    fields = {f"ce-{name}": value for name, value in {"id": id, **attributes}.items()}
    http.ask("POST", f"/channels/{channel}", {"of": id}, fields=fields)


def found(answer: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, int]]:
    """The counts that are not 0."""
    names = ("ready", "hidden", "delayed", "done")
    return {
        (row["channel"], row["stage"], row["codeversion"]): {name: row[name] for name in names if row[name]}
        for row in answer["found"]
    }


def test_what_was_made_of_a_document_is_counted_by_channel_stage_and_state(http: Http) -> None:
    put(http, "raw", "r1")
    http.get("raw")
    put(http, "docs", "d1", rootid="r1", parentid="r1", stage="parse", codeversion="v1")
    http.get("docs")
    for number, version in enumerate(("v1", "v1", "v2")):
        said = {"rootid": "r1", "parentid": "d1", "stage": "split", "codeversion": version, "run": "9"}
        put(http, "words", f"w{number}", **said)
    put(http, "words", "other", rootid="r2")
    put(http, "docs.dead", "d2", rootid="r1", deadreason="ValueError: no", deadfrom="docs", stage="parse")
    put(http, "elsewhere", "x", rootid="r1")
    http.ask("POST", "/channels/words/lease")
    answer = http.ask("GET", "/lineage/r1?flow=indexer")
    assert found(answer) == {
        ("raw", "", ""): {"done": 1},
        ("docs", "parse", "v1"): {"done": 1},
        ("words", "split", "v1"): {"ready": 1, "hidden": 1},
        ("words", "split", "v2"): {"ready": 1},
        ("docs.dead", "parse", ""): {"ready": 1},
    }
    assert (answer["messages"], answer["open"], answer["complete"]) == (6, 3, True)
    (dead,) = answer["dead"]
    assert dead.items() >= {"channel": "docs.dead", "event": "d2", "reason": "ValueError: no", "from": "docs"}.items()
    assert answer["since"] == http.look("raw", "done")[0]["event"]["time"]
    assert found(http.ask("GET", "/lineage/d1?flow=indexer")).keys() == {
        ("docs", "parse", "v1"),
        ("words", "split", "v1"),
        ("words", "split", "v2"),
    }
    assert http.ask("GET", "/lineage/9?queue=w*")["messages"] == 3
    assert ("elsewhere", "", "") in found(http.ask("GET", "/lineage/r1"))


def test_a_document_without_an_id_of_its_own_is_known_by_its_message(http: Http) -> None:
    for _ in range(2):
        http.put("raw", 1)
    own = http.look("raw")[0]["event"]["id"]
    put(http, "docs", "d9", rootid=own, stage="parse")
    http.ask("DELETE", "/channels/raw")
    assert found(http.ask("GET", f"/lineage/{own}?flow=indexer")) == {
        ("raw", "", ""): {"done": 1},
        ("docs", "parse", ""): {"ready": 1},
    }


def test_what_is_not_known_is_said(http: Http) -> None:
    answer = http.ask("GET", "/lineage/nobody?flow=indexer")
    assert (answer["messages"], answer["found"], answer["complete"]) == (0, [], True)
    assert http.ask("GET", "/lineage/r1?flow=indexer&since=%2B1h")["messages"] == 0
    for flow in ("unknown", "odd"):
        with pytest.raises(Refused, match=f"404 Nothing is known of a flow {flow}"):
            http.ask("GET", f"/lineage/r1?flow={flow}")
