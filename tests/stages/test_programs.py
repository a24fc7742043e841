"""Programs as stages, in all frames, the well-behaved and the others, called as a worker calls them."""

from __future__ import annotations

import json
import os
import select
import selectors
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from broker.stages import Event, Reject, Retry, long_lived
from broker.stages.event import Place, root
from broker.stages.long_lived import LongLived
from broker.stages.one_shot import MAX_OUTPUT, OneShot, environment, type_of
from broker.stages.posting import Posting
from broker.stages.verdict import LeaseLost


def given(data: Any = "a b", **said: Any) -> Event:
    return root("in", data, flow="f", **said).at(Place("f/program", "out", "v1"))


def shell(words: str, **more: Any) -> OneShot:
    return OneShot(["sh", "-c", words], **more)


def outputs(function: Any, event: Event) -> list[Any]:
    return [output.data for output in function(event)]


# -- one for each input


def test_a_filter_is_a_stage() -> None:
    assert outputs(shell("tr a-z A-Z"), given()) == ["A B"]
    assert outputs(shell("tr ' ' '\\n'", lines=True), given()) == ["a", "b"]
    assert outputs(shell("cat > /dev/null"), given()) == []
    assert outputs(OneShot(["grep", "z"], lines=True, successes=[1]), given()) == []
    assert outputs(shell("cat"), given(b"\xff" * 3_000_000)) == [b"\xff" * 3_000_000]


def test_a_program_knows_what_it_works_on() -> None:
    event = given({"n": 1}, subject="s", run="7", odd="zero\0byte")
    said = shell('echo "$CE_ID $CE_SUBJECT $CE_RUN $CE_ROOTID $ATTEMPT $CONTENT_TYPE $CHANNEL"')
    (told,) = outputs(said, event)
    assert told == f"{event.id} s 7 {event.id} 1 application/json in\n"
    assert environment(event)["CE_ODD"] == "zerobyte"


@pytest.mark.parametrize(
    ("words", "error", "reason"),
    [
        ("echo busy >&2; exit 75", Retry, "busy"),
        ("echo never >&2; exit 65", Reject, "never"),
        ("exit 65", Reject, "exit status 65"),
        ("echo partly; echo why >&2; exit 3", Retry, "exit status 3: why"),
        ("kill -9 $$", Retry, "killed by signal 9"),
        ("head -c 300000 /dev/zero | tr '\\0' e >&2; echo last >&2; exit 1", Retry, "last"),
    ],
)
def test_the_exit_status_is_the_verdict(words: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason) as raised:
        outputs(shell(words), given())
    assert len(str(raised.value)) < 3_000


def test_what_runs_too_long_or_says_too_much_or_counts_no_more_is_killed() -> None:
    for timeout in (0.3, 3, 30):  # a machine may be too slow for a shell to say anything in the first
        with pytest.raises(Retry, match=f"longer than {timeout} s") as raised:
            outputs(shell("echo working >&2; sleep 60", timeout=timeout), given())
        if str(raised.value).endswith(": working"):
            break
    else:
        pytest.fail("what it said is not in the reason")
    with pytest.raises(Reject, match=f"more than {MAX_OUTPUT}"):
        outputs(shell("cat /dev/zero"), given())
    event = given()
    assert event.place is not None
    event.place.lost = True
    with pytest.raises(LeaseLost):
        outputs(shell("sleep 60"), event)


def test_what_a_program_says_at_its_end_is_read_however_late_that_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, pid = tmp_path / "gate", tmp_path / "pid"
    os.mkfifo(gate)
    opened: list[Path] = []

    class Late(selectors.DefaultSelector):
        """Nothing is ready; before we go on from there the program speaks and ends."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            ready = super().select(timeout)
            if not ready and not opened:
                opened.append(gate)
                gate.write_text("go\n")
                os.waitid(os.P_PID, int(pid.read_text()), os.WEXITED | os.WNOWAIT)
            return ready

    monkeypatch.setattr(selectors, "DefaultSelector", Late)
    assert outputs(shell(f"echo $$ > {pid}; read go < {gate}; echo done"), given()) == ["done\n"]
    assert opened


def test_what_a_program_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "held")
    held = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    # opened before there is anybody to be left behind: one that is killed first would never have had it open
    assert outputs(shell(f"exec 3> {tmp_path}/held; sleep 60 & echo done"), given()) == ["done\n"]
    # readable at its end, once nobody has it open any more
    assert select.select([held], [], [], 60)[0]
    assert os.read(held, 1) == b""
    os.close(held)


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (b'{"a":1}', "application/json"),
        (b"[1]\n", "application/json"),
        (b"{1}", "text/plain; charset=utf-8"),
        (b"7", "text/plain; charset=utf-8"),
        (b"\xff", "application/octet-stream"),
    ],
)
def test_what_an_output_is_shows_itself(output: bytes, kind: str) -> None:
    assert type_of(output) == kind
    (made,) = shell("cat", content_type="x/y")(given(output))
    assert made.content_type == "x/y"


# -- running on

PRELUDE = """
import json, sys
def lines():
    for line in sys.stdin: yield json.loads(line)
def say(one): print(json.dumps(one), flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Any]:
    made: list[LongLived] = []

    def make(words: str, frame: str = "ndjson", **more: Any) -> LongLived:
        script = tmp_path / f"program{len(made)}.py"
        script.write_text(PRELUDE + textwrap.dedent(words))
        made.append(LongLived([sys.executable, str(script)], frame, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_program_that_runs_on_says_outputs_and_then_that_it_is_done(program: Any) -> None:
    split = program("""
        for event in lines():
            for word in event["data"].split():
                say({"word": word})
            say({"specversion": "1.0", "type": "last", "data_base64": "/w=="})
            say({"ack": event["id"]})
    """)
    first, second, last = split(given())
    assert (first.data, second.data, last.data, last.type) == ({"word": "a"}, {"word": "b"}, b"\xff", "last")
    assert outputs(split, given("c"))[0] == {"word": "c"}


def test_several_are_in_flight_and_name_their_parents(program: Any) -> None:
    pairs = program("""
        inputs = lines()
        for first, second in zip(inputs, inputs):
            for event in (first, second):
                say({"specversion": "1.0", "parentid": event["id"], "data": event["data"].upper()})
            say({"ack": second["id"]}); say({"ack": first["id"]})
    """)
    found: dict[str, list[Any]] = {}
    threads = [threading.Thread(target=lambda w=w: found.update({w: outputs(pairs, given(w))})) for w in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {"a": ["A"], "b": ["B"]}


def test_frames_with_a_length(program: Any) -> None:
    echo = program(
        r"""
        while head := sys.stdin.buffer.readline():
            sys.stdin.buffer.readline()
            event = json.loads(sys.stdin.buffer.read(int(head.split(b":")[1])))
            for said in ({"two": "lines", "of": event["data"]}, {"ack": event["id"]}):
                body = json.dumps(said, indent=1).encode()
                sys.stdout.buffer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            sys.stdout.buffer.flush()
        """,
        "lsp",
    )
    assert outputs(echo, given()) == [{"two": "lines", "of": "a b"}]


@pytest.mark.parametrize(
    ("words", "error", "reason"),
    [
        ('say({"nack": event["id"], "after": 9, "reason": "busy"})', Retry, "busy"),
        ('say({"nack": event["id"], "dead": True, "reason": "never"})', Reject, "never"),
        ('print("half a li", end="", flush=True); sys.exit()', Retry, "ended within b'half a li'"),
        ('print("no json", flush=True)', Retry, "cannot be understood: b'no json' is not JSON"),
        ('print("why", file=sys.stderr); sys.exit(3)', Retry, r"the program ended \(exit status 3\): why"),
        ("pass", Retry, "no answer in 0.5 s"),
    ],
)
def test_programs_that_fail(
    program: Any, words: str, error: type[Exception], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = words == "pass"
    if not silent:  # how it ended, and its last words, are in the reason if they come in time
        monkeypatch.setattr(long_lived, "_FAREWELL", 60)
    fails = program(
        f"""
        for event in lines():
            if event["data"] == "good":
                say({{"ack": event["id"]}})
            else:
                {words}
        """,
        timeout=0.5 if silent else 60,  # within which it has to start, too
    )
    with pytest.raises(error, match=reason) as raised:
        fails(given("bad"))
    if "after" in words:
        assert isinstance(raised.value, Retry)
        assert raised.value.after == 9
    assert fails._program is not None
    fails._timeout = 60
    assert fails(given("good")) == []


def test_a_program_that_speaks_of_what_it_has_not_is_not_believed(program: Any) -> None:
    odd = program("""
        for event in lines():
            say({"ack": "other"})
            say("mine")
            say({"ack": event["id"]})
    """)
    assert outputs(odd, given()) == ["mine"]


# -- servers


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any]]]:
    asked: list[Any] = []

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((dict(self.headers), body))
            status, kind, answer = json.loads(body)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.send_header("Retry-After", "7")
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/parse", asked
    listening.shutdown()
    listening.server_close()
    thread.join()


def test_a_server_is_a_stage(server: tuple[str, list[Any]]) -> None:
    url, asked = server
    post = Posting(url)
    assert outputs(post, given([200, "application/json", '{"a": 1}'])) == [{"a": 1}]
    assert outputs(post, given([204, "text/plain", ""])) == []
    assert outputs(post, given([200, "application/x-ndjson", "1\n\n2\n"])) == [1, 2]
    batch = json.dumps([{"specversion": "1.0", "data": "x"}, {"specversion": "1.0", "data": "y", "type": "t"}])
    assert outputs(post, given([200, "application/cloudevents-batch+json", batch])) == ["x", "y"]
    head, _ = asked[0]
    assert (head["Content-Type"], head["ce-specversion"], head["ce-attempt"]) == ("application/json", "1.0", "1")
    with pytest.raises(Retry, match="status 503: busy") as later:
        outputs(post, given([503, "text/plain", "busy"]))
    assert later.value.after == 7
    with pytest.raises(Reject, match="status 422: no"):
        outputs(post, given([422, "text/plain", "no"]))
    with pytest.raises(Retry, match="its answer is not"):
        outputs(post, given([200, "application/x-ndjson", "{"]))


def test_a_server_that_is_not_there_is_asked_again(server: tuple[str, list[Any]]) -> None:
    with pytest.raises(Retry, match="Connection refused"):
        outputs(Posting("http://127.0.0.1:1/"), given())
    with pytest.raises(ValueError, match="not of the form"):
        Posting("ftp://x/")


def test_nobody_is_left_running(program: Any) -> None:
    one = program('say(__import__("os").getpid())\nfor event in lines(): say({"ack": event["id"]})')
    (pid,) = outputs(one, given())
    one.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
