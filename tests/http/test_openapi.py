"""``/openapi.json``, the reference behind it, and the pages of problem types."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import schemathesis

from broker import errors
from broker.http import problem
from broker.http.openapi import document
from broker.http.parameters import NAMES
from broker.http.problem import Problem, of
from broker.http.problems import PROBLEMS
from broker.http.reference import DOCS, PARAMETERS, VARIABLES
from broker.http.routes import ROUTES, Endpoint
from tests.http.support import World

SOURCES = Path(problem.__file__).parent


def family(of: type[errors.BrokerError]) -> list[type[errors.BrokerError]]:
    """An error's subclasses, and theirs."""
    return [found for one in of.__subclasses__() for found in (one, *family(one))]


def test_every_error_of_the_broker_has_its_status_and_a_type_that_is_explained() -> None:
    # other fronts have errors of their own, which never come here
    ours = ("broker.errors", "broker.core", "broker.http", "broker.auth")
    for error in [one for one in family(errors.BrokerError) if one.__module__.startswith(ours)]:
        one = error.__new__(error)
        errors.BrokerError.__init__(one, "said")
        found = of(one)
        assert found.kind in PROBLEMS, error
        expected = 500 if issubclass(error, errors.ConfigError) else found.status
        assert (found.status, found.status == 500) == (expected, issubclass(error, errors.ConfigError)), error
        assert (found.retry_after is not None) == (error.retryable and expected != 500), error


def test_every_problem_type_that_is_told_is_explained_at_its_address() -> None:
    told = {
        kind for file in SOURCES.glob("*.py") for kind in re.findall(r'Problem\(\s*\d+, "([a-z-]+)"', file.read_text())
    }
    assert told <= set(PROBLEMS)
    world = World()
    for kind in PROBLEMS:
        answer = world.ask("GET", f"/problems/{kind}")
        assert (answer.status, answer.body.decode().splitlines()[0]) == (200, kind)
    assert world.ask("GET", "/problems/nothing").status == 404


def test_every_endpoint_is_described_and_every_parameter_known() -> None:
    assert set(DOCS) == set(Endpoint) == {one for methods in ROUTES.values() for one in methods.values()}
    named = {name for doc in DOCS.values() for name in doc.parameters.split()}
    assert named == set(PARAMETERS)
    assert named <= NAMES
    assert {name for path in ROUTES for name in re.findall(r"{(\w+)}", path)} == set(VARIABLES)


def test_the_document_is_served_and_whole() -> None:
    served = World().ask("GET", "/openapi.json")
    assert served.headers["content-type"].startswith("application/json")
    said = served.json
    assert said["openapi"] == "3.1.0"
    operations = [one for methods in said["paths"].values() for one in methods.values()]
    assert len(operations) == len(DOCS)
    assert len({one["operationId"] for one in operations}) == len(operations)
    for reference in references(said):
        found: Any = said
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
        assert isinstance(found, dict)


def test_the_document_is_openapi_3_1() -> None:
    schemathesis.openapi.from_dict(document()).validate()


def references(value: Any) -> list[str]:
    """Every ``$ref`` in a document."""
    if isinstance(value, dict):
        return [found for name, one in value.items() for found in ([one] if name == "$ref" else references(one))]
    return [found for one in value for found in references(one)] if isinstance(value, list) else []


@pytest.mark.parametrize(
    ("path", "method", "schema"), [("/commit", "post", "Ops"), ("/definitions", "put", "Definitions")]
)
def test_bodies_are_described_by_their_types(path: str, method: str, schema: str) -> None:
    said = document()
    body = said["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": f"#/components/schemas/{schema}"}
    assert "properties" in said["components"]["schemas"][schema]


def test_the_manual_is_made_of_the_same() -> None:
    docs = SOURCES.parent.parent / "docs"
    written = runpy.run_path(str(docs / "_http.py"))["written"]
    assert (docs / "http-reference.rst").read_text() == written(), "python docs/_http.py"


def test_a_problem_says_more_to_who_reads_json() -> None:
    rendered = problem.render(Problem(409, "lease-lost", "Gone.", said={"failed": [1]}), "application/json")
    assert b'"failed":[1]' in rendered.body
