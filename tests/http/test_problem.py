"""Errors as answers."""

from __future__ import annotations

import msgspec
import pytest

from broker import errors
from broker.http.problem import Problem, of, render, wants_json


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.BadName("x"), 400, "bad-parameter"),
        (errors.BadValue("x"), 400, "bad-parameter"),
        (errors.MessageTooLarge("x"), 400, "too-large"),
        (errors.StoreRefused("x"), 400, "refused"),
        (errors.NotAllowed("x"), 403, "forbidden"),
        (errors.NotFound("x"), 404, "not-found"),
        (errors.LeaseLost("x"), 409, "lease-lost"),
        (errors.StoreUnavailable("x"), 503, "overloaded"),
        (errors.Stopping("x"), 503, "draining"),
        (errors.QueueFull("x"), 507, "channel-full"),
        (errors.ConfigError("secret"), 500, "internal"),
    ],
)
def test_every_error_has_a_status(error: errors.BrokerError, status: int, kind: str) -> None:
    problem = of(error)
    assert (problem.status, problem.kind) == (status, kind)
    assert problem.reason == ("Internal Server Error" if status == 500 else "x")
    assert (problem.retry_after is not None) == error.retryable


def test_the_default_is_lingers_text_line() -> None:
    rendered = render(Problem(400, "empty-message", "Message is empty."), "*/*")
    assert (rendered.reason, rendered.body) == (b"Message is empty.", b"HTTP 400 Message is empty.\n")
    assert rendered.headers == [(b"Content-Type", b"text/plain")]


def test_a_json_type_in_accept_gets_a_problem_document() -> None:
    problem = Problem(507, "channel-full", "Full.", retry_after=1)
    rendered = render(problem, "text/html, application/json;q=0.5", "/channels/work")
    assert (b"Content-Type", b"application/problem+json") in rendered.headers
    assert (b"Retry-After", b"1") in rendered.headers
    assert msgspec.json.decode(rendered.body) == {
        "type": "/problems/channel-full",
        "title": "Insufficient Storage",
        "status": 507,
        "detail": "Full.",
        "instance": "/channels/work",
        "retry_after": 1,
    }


@pytest.mark.parametrize(
    ("accept", "named"),
    [
        ("", False),
        ("*/*", False),
        ("application/*", False),
        ("text/plain", False),
        ("application/json", True),
        ("Application/JSON", True),
        ("application/problem+json", True),
        ("application/cloudevents+json; charset=utf-8", True),
        ("application/json;q=0", False),
        ("application/json; q = 0.00", False),
        ("application/json;q=0.1", True),
        (";,;,", False),
    ],
)
def test_what_names_a_json_type(accept: str, named: bool) -> None:
    assert wants_json(accept) is named


def test_a_405_names_the_methods() -> None:
    rendered = render(Problem(405, "method-not-allowed", allow=("GET", "HEAD")))
    assert (b"Allow", b"GET, HEAD") in rendered.headers
    assert rendered.body == b"HTTP 405 Method Not Allowed\n"


def test_lingers_404_about_a_message_has_no_body() -> None:
    problem = of(errors.NotFound("Message not found."))
    assert render(problem).body == b""
    assert b'"status":404' in render(problem, "application/json").body


def test_a_reason_fits_a_status_line() -> None:
    assert Problem(400, "x", "a\r\nSet-Cookie: b\u20ac").reason == "a??Set-Cookie: b?"
