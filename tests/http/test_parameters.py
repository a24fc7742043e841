"""Parameters: where they come from and what they may be."""

from __future__ import annotations

import tracemalloc
from urllib.parse import parse_qsl, quote_from_bytes, unquote_to_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.policy import BindingPolicy
from broker.errors import BadValue
from broker.http.parameters import FORM, NAMES, Parameters, form_fields, unquote, wishes
from broker.http.problem import Problem


def multipart(*parts: tuple[str, bytes], boundary: str = "xx") -> tuple[str, bytes]:
    """A content type and a body with these dispositions and values."""
    body = b"".join(
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (boundary.encode(), what.encode(), value)
        for what, value in parts
    )
    return f"multipart/form-data; boundary={boundary}", body + b"--%b--\r\n" % boundary.encode()


# -- sources


def test_the_query() -> None:
    parameters = Parameters(b"priority=-1&nowait&linger=60")
    assert "nowait" in parameters
    assert parameters.text("priority") == "-1"
    assert parameters.text("timeout") is None


@pytest.mark.parametrize("query", [b"nowait", b"nowait=", b"nowait=0", b"x=1&nowait"])
def test_nowait_is_there_or_not(query: bytes) -> None:
    assert "nowait" in Parameters(query)


def test_a_semicolon_separates_nothing() -> None:
    assert Parameters(b"msg=a;b&x=1").text("msg") == "a;b"


def test_a_form_body_beats_the_query() -> None:
    assert Parameters(b"linger=1", FORM, b"linger=2").text("linger") == "2"
    assert Parameters(b"linger=1", FORM + "; charset=utf-8", b"linger=").text("linger") == ""
    assert Parameters(b"linger=1", "text/plain", b"linger=2").text("linger") == "1"


def test_the_last_of_several_values_wins() -> None:
    assert Parameters(b"msg=a&msg=b").text("msg") == "b"
    assert Parameters(b"msg=a", FORM, b"msg=b&msg=c").text("msg") == "c"


def test_a_multipart_body_beats_the_query() -> None:
    kind, body = multipart(('name="msg"', b"a\r\nb"), ('name="linger"', b"2"), ('name="other"', b"x"))
    parameters = Parameters(b"linger=1&priority=3", kind, body)
    assert [parameters.text(name) for name in ("msg", "linger", "priority")] == ["a\r\nb", "2", "3"]


def test_a_multipart_value_may_hold_any_bytes_but_the_delimiter() -> None:
    kind, body = multipart(('name="msg"', b"--x\r\n--xx-no\r\n--"), boundary="xxx")
    assert Parameters(b"", kind, body).text("msg") == "--x\r\n--xx-no\r\n--"


def test_an_uploaded_file_is_no_parameter() -> None:
    kind, body = multipart(('name="msg"; filename="a.txt"', b"content"))
    assert "msg" not in Parameters(b"", kind, body)


def test_a_quoted_boundary_and_an_empty_value() -> None:
    _, body = multipart(("name=msg", b""), boundary="a b")
    assert Parameters(b"", 'Multipart/Form-Data; charset=utf-8; boundary="a b"', body).text("msg") == ""


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--xx--\r\n"),
        ("multipart/form-data; boundary=xx", b""),
        ("multipart/form-data; boundary=xx", b"nonsense"),
        ("multipart/form-data; boundary=xx", b"--xx\r\nno headers\r\n--xx--"),
        ("multipart/form-data; boundary=xx", b'--xx\r\nContent-Disposition: form-data; name="msg"\r\n\r\nno end'),
        ("multipart/form-data; boundary=xx", b'--xx\r\nContent-Disposition: inline; name="msg"\r\n\r\nv\r\n--xx--'),
        ("multipart/form-data; boundary=xx", b"--xx\r\nContent-Disposition: form-data\r\n\r\nv\r\n--xx--"),
        ("multipart/form-data; boundary=xx", b'--xx\r\nContent-Disposition: form-data; name="a"\r\n\r\nv\r\n--xxyy'),
    ],
)
def test_broken_multipart_is_400(kind: str, body: bytes) -> None:
    with pytest.raises(Problem) as raised:
        Parameters(b"", kind, body)
    assert (raised.value.status, raised.value.reason) == (400, "Bad Request")


# -- texts


def test_a_text_is_stripped_and_its_control_characters_are_spaces() -> None:
    assert Parameters(b"msg=+a%01b%0A%09c%1F+%0D%0A").text("msg") == "a b\n\tc"


def test_a_percent_sign_alone_stays() -> None:
    assert Parameters(b"", FORM, b"msg=100%+sure%2C%zz").text("msg") == "100% sure,%zz"


def test_undecodable_text_is_400_where_it_is_asked_for() -> None:
    parameters = Parameters(b"msg=%FF&priority=1&other=%FF")
    assert parameters.text("priority") == "1"
    with pytest.raises(Problem) as raised:
        parameters.text("msg")
    assert raised.value.status == 400


# -- numbers


@pytest.mark.parametrize("value", ["1", "+1", "%201%20", "0_1", "01", "%D9%A1"])
def test_numbers_are_what_python_reads(value: str) -> None:
    assert wishes(Parameters(f"timeout={value}".encode())).lease == 1000


@pytest.mark.parametrize(
    ("query", "phrase"),
    [
        ("priority=", "Invalid message priority."),
        ("priority=x", "Invalid message priority."),
        ("priority=1.5", "Invalid message priority."),
        (f"priority={2**63}", "Invalid message priority."),
        (f"priority={-(2**63) - 1}", "Invalid message priority."),
        ("priority=" + "9" * 5000, "Invalid message priority."),
        ("timeout=0", "Invalid message visibility timeout."),
        ("timeout=-1", "Invalid message visibility timeout."),
        ("timeout=", "Invalid message visibility timeout."),
        (f"timeout={2**63}", "Invalid message visibility timeout."),
        ("deliver=-1", "Invalid message delivery limit."),
        (f"deliver={2**63}", "Invalid message delivery limit."),
        ("linger=-1", "Invalid message delivery limit."),
        ("linger=1e3", "Invalid message delivery limit."),
        (f"linger={2**64}", "Invalid message delivery limit."),
    ],
)
def test_wrong_numbers_have_lingers_phrases(query: str, phrase: str) -> None:
    with pytest.raises(BadValue) as raised:
        wishes(Parameters(query.encode()))
    assert raised.value.reason == phrase


def test_wishes() -> None:
    parameters = Parameters(b"priority=-1&timeout=1_0&deliver=5&linger=60")
    assert wishes(parameters).binding == BindingPolicy(priority=-1, lease=10_000, max_attempts=5, ttl=60_000)
    assert wishes(Parameters(b"")).binding == BindingPolicy()
    assert wishes(Parameters(b"linger=0&deliver=0")).binding == BindingPolicy(ttl=0, max_attempts=0)


def test_a_time_beyond_a_century_is_a_century() -> None:
    largest = wishes(Parameters(f"timeout={2**63 - 1}&linger={2**63 - 1}".encode()))
    assert largest.lease == largest.ttl == 100 * 366 * 86400 * 1000


# -- against the standard library, and hostile bodies

_pieces = st.lists(
    st.sampled_from(
        [
            b"msg",
            b"priority",
            b"%6Dsg",
            b"m%73%67",
            b"%6dsg",
            b"nowait",
            b"x",
            b"\n",
            b"=",
            b"&",
            b"%",
            b"%4",
            b"%41",
            b"+",
            b" ",
            b"\xff",
        ]
    )
)


@given(_pieces)
def test_fields_are_those_of_parse_qsl(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    text = data.decode("latin-1")
    expected = [
        (name, value.encode("latin-1"))
        for name, value in parse_qsl(text, keep_blank_values=True, encoding="latin-1")
        if name in NAMES
    ]
    assert list(form_fields(data)) == expected


@given(st.binary(max_size=300))
def test_unquoting_is_that_of_the_standard_library(data: bytes) -> None:
    assert unquote(data) == unquote_to_bytes(data.replace(b"+", b" "))
    assert unquote(quote_from_bytes(data).encode()) == data


@pytest.mark.parametrize("unit", [b"%", b"%zz", b"%41%", b"%4"])
def test_unquoting_in_pieces(unit: bytes) -> None:
    for size in (65_535, 65_536, 65_537, 200_000):
        data = (unit * (size // len(unit) + 1))[:size] + b"%41"
        assert unquote(data) == unquote_to_bytes(data)


@pytest.mark.parametrize(
    "body", [b"&" * 3_000_000, b"a=1&" * 750_000, b"msg=" + b"%41" * 1_000_000, b"msg=" + b"%z" * 1_500_000]
)
def test_a_hostile_form_costs_little_memory(body: bytes) -> None:
    tracemalloc.start()
    try:
        Parameters(b"", FORM, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(body)  # urllib: 73


def test_a_form_of_many_fields() -> None:
    fields = [("a", str(n)) for n in range(5000)] + [("msg", "x & y = z")]
    assert Parameters(b"", FORM, urlencode(fields).encode()).text("msg") == "x & y = z"
