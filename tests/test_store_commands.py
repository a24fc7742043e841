"""``broker check``, ``dump``, ``load`` and ``backup``, on files that no broker uses, and on one that is in use."""

from __future__ import annotations

import base64
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.cli import main
from broker.core.destination import Kind
from broker.core.message import Message
from broker.core.policy import BindingPolicy
from broker.core.store import (
    DefineBinding,
    DefineDestination,
    DefineLane,
    DefineReader,
    EndBinding,
    Failure,
    Group,
)
from broker.lock import Lock
from broker.storage import dump, live, migrate
from tests.storage.support import inline_store, messages, queue_of, result, stored
from tests.support import Twistd

ROOT = Path(__file__).resolve().parent.parent
#: Bodies that are not text, or look like something else.
BODIES = [b"", b"\xff\x00", bytes(range(256)), 'é\n"\0'.encode(), b"\xed\xa0\x80", b"text", b"aGk="]


def said(capfd: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> tuple[str, str]:
    """What a command prints, to standard output and error."""
    capfd.readouterr()
    assert main([str(word) for word in arguments]) == status
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return out, err


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file with something of everything in it, left by a broker that was killed."""
    path = tmp_path / "a.sqlite"
    store = inline_store(path)
    result(store.open())
    result(store.commit(Group(definitions=queue_of(7, "gone"))))
    definitions = [
        *queue_of(1, "orders"),
        *queue_of(2, "a/b é"),
        DefineDestination(3, Kind.TOPIC, "news"),
        DefineLane(3, 3, -2),
        DefineReader(3, 2, 3, 0),
        DefineLane(4, 3, 5, 9),
        DefineReader(4, 2, 4, 0),
        DefineReader(5, 1, 3, 0),
        DefineBinding(1, 2, 3, {3: 4, 4: 0}, BindingPolicy(1, 2, None, 4), "broker", "priority < 2", True),
        DefineBinding(2, 1, 3, {}),
        EndBinding(2, {3: 5}),
        DefineDestination(6, Kind.SLOT, "170"),
        DefineLane(6, 6, 0),
        DefineReader(6, 6, 6, 0),
    ]
    odd = [
        Message(
            stamp=2000 + n,
            body=body,
            headers={"a": "é", "": "x"} if n else {},
            content_type="text/plain" if n % 2 else None,
            flags=n,
            priority=-2,
            expires=n * 10,
            ttl=n,
            lease=n,
            max_attempts=n,
        )
        for n, body in enumerate(BODIES)
    ]
    slot = [Message(stamp=5000, delay=1_700_000, target="/queue/orders", body=b"later")]
    result(store.commit(Group(parts={1: messages(0, 30, 3000), 3: odd, 6: slot}, definitions=definitions)))
    settled = {1: [(0, 4), (6, 8)], 3: [(0, 1)], 5: [(5, 7)]}
    failures: dict[tuple[int, int], Failure | None] = {(1, 9): Failure(2, 0, "nack"), (3, 2): Failure(0, 99, "")}
    result(store.commit(Group(settled=settled, failures=failures, reserved={1: 10}, last_stamp=9000)))
    result(store.close())
    result(store.open())
    result(store.commit(Group(parts={4: messages(0, 3), 1: messages(30, 2)}, settled={1: [(30, 31)]})))
    return path


def test_a_dump_says_what_is_defined_and_what_each_queue_waits_for(
    data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, err = said(capfd, "dump", data)
    assert err == ""
    found = lines(out)
    assert found[0] == {"type": "begin", "format": 1, "last_stamp": 9000, "first_stamp": 1000}
    assert {(one["kind"], one["name"]) for one in found if one["type"] == "destination"} == {
        ("queue", "orders"),
        ("queue", "a/b é"),
        ("queue", "gone"),
        ("topic", "news"),
        ("slot", "170"),
    }
    assert [one for one in found if one["type"] == "binding"] == [
        {
            "type": "binding",
            "queue": "/queue/a/b é",
            "source": "/topic/news",
            "start": [{"priority": -2, "stamp": 2004}, {"priority": 5, "run": 9, "stamp": 1000}],
            "policy": [1, 2, None, 4],
            "filter_name": "broker",
            "filter_text": "priority < 2",
            "follows": True,
        },
        {
            "type": "binding",
            "queue": "/queue/orders",
            "source": "/topic/news",
            "until": [{"priority": -2, "stamp": 2005}],
        },
    ]
    (place,) = [n for n, one in enumerate(found) if one.get("destination") == "/topic/news" and one["priority"] == -2]
    assert found[place]["readers"] == ["/queue/a/b é", "/queue/orders"]
    bodies = [base64.b64decode(one["body_base64"]) if "body_base64" in one else one.get("body", "").encode()
              for one in found[place + 1 : place + 8]]  # fmt: skip
    assert bodies == BODIES
    assert [sorted(one["queues"]) for one in found[place + 1 : place + 8]] == [
        ["/queue/orders"],
        *[["/queue/a/b é", "/queue/orders"]] * 4,
        *[["/queue/a/b é"]] * 2,
    ]
    orders = [one for one in found if one["type"] == "message" and one.get("body", "").endswith("x" * 3000)]
    assert [one["stamp"] - 1000 for one in orders] == [4, 5, *range(8, 30)]
    assert orders[2]["queues"] == {"/queue/orders": {"delivered": True}}
    assert orders[3]["queues"] == {"/queue/orders": {"delivered": True, "attempts": 2, "reason": "nack"}}
    assert orders[4]["queues"] == {"/queue/orders": {}}
    assert found[-1] == {"type": "end", "messages": sum(one["type"] == "message" for one in found)}


def test_every_field_of_a_message_is_in_a_dump() -> None:
    theirs = set(dump.Entry.__struct_fields__) - {"body_base64", "queues", "keys"}
    assert theirs == set(Message.__struct_fields__)


def test_what_is_loaded_is_dumped_the_same(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capfd, "dump", data)
    (tmp_path / "a.ndjson").write_text(out)
    copy = tmp_path / "copy.sqlite"
    assert said(capfd, "load", tmp_path / "a.ndjson", copy) == ("", "36 messages\n")
    assert said(capfd, "dump", copy) == (out, "")
    assert "it is whole" in said(capfd, "check", copy)[0]
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith("copy")) == [
        "copy.sqlite",
        "copy.sqlite.lock",
    ]
    store = inline_store(copy)
    inventory = result(store.open())
    assert len(inventory.readers) == 7
    result(store.close())
    assert said(capfd, "dump", copy) == (out, "")


def test_loaded_into_a_file_in_use_it_comes_behind(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, _ = said(capfd, "dump", data)
    (tmp_path / "a.ndjson").write_text(out)
    said(capfd, "load", tmp_path / "a.ndjson", data)
    found = lines(said(capfd, "dump", data)[0])
    assert "it is whole" in said(capfd, "check", data)[0]
    before = lines(out)
    assert found[-1]["messages"] == 2 * before[-1]["messages"]
    assert [one for one in found if one["type"] == "binding"] == [one for one in before if one["type"] == "binding"]
    orders = [one for one in found if one["type"] == "message" and one.get("body", "").endswith("x" * 3000)]
    assert [one["stamp"] for one in orders[24:]] == [one["stamp"] + 8001 for one in orders[:24]]
    there = [one for one in before if one["type"] == "message" and one.get("body", "").endswith("x" * 3000)]
    assert [one["queues"] for one in orders[24:]] == [one["queues"] for one in there]
    first, again = (one for one in found if one.get("target"))
    assert (first["delay"], again["delay"]) == (1_700_000, 1_700_000 - 8)  # due when it was


def test_a_queue_that_the_dump_does_not_know_gets_nothing_of_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.sqlite"
    store = inline_store(path)
    result(store.open())
    result(store.commit(Group(parts={1: messages(0, 3)}, definitions=queue_of(1))))
    result(store.close())
    out, _ = said(capfd, "dump", path)
    (tmp_path / "a.ndjson").write_text(out)
    result(store.open())
    result(store.commit(Group(definitions=[*queue_of(2)[:1], DefineReader(2, 2, 1, 3)])))
    result(store.close())
    said(capfd, "load", tmp_path / "a.ndjson", path)
    inventory = result(store.open())
    assert [(one.cursor, list(one.settled)) for one in inventory.readers] == [(0, []), (6, [])]
    result(store.close())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found[1:], "line 1: a dump starts with"),
        (lambda found: found[:-1], "the last line is missing"),
        (lambda found: [*found, found[-1]], "a dump starts with"),
        (lambda found: found[:-2] + found[-1:], "there were 35 messages, not 36"),
        (lambda found: [{**found[0], "format": 2}, *found[1:]], "line 1: it is of format 2, this broker reads 1"),
        (lambda found: [found[0], {"type": "cat"}, *found[1:]], "line 2: Invalid value 'cat'"),
        (lambda found: [found[0], {"type": "destination", "name": "a", "kind": "cat"}], "line 2: no destination is a"),
        (lambda found: [found[0], {"type": "destination", "name": "", "kind": "queue"}], "line 2: the name is empty"),
        (lambda found: [one for one in found if one["type"] != "destination"], "no line before it for destination"),
        (lambda found: [one for one in found if one["type"] != "log"], "a message comes before the line of its log"),
        (lambda found: [{**one, "readers": []} if one["type"] == "log" else one for one in found], "does not read"),
        (lambda found: [{**one, "stamp": 7} if "stamp" in one else one for one in found], "stamps of a log must incr"),
        (lambda found: [found[0], "cat"], "line 2:"),
        (lambda found: [], "line 1: the last line is missing"),
    ],
)
def test_what_is_no_dump_is_refused_with_its_line_and_makes_no_file(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], change: Any, words: str
) -> None:
    changed = change(lines(said(capfd, "dump", data)[0]))
    (tmp_path / "bad").write_text("".join(json.dumps(one) + "\n" for one in changed))
    _, err = said(capfd, "load", tmp_path / "bad", tmp_path / "new.sqlite", status=3)
    assert words in err
    assert err.count("\n") == 1
    assert not [file for file in tmp_path.iterdir() if file.name.startswith("new")]


def test_a_dump_goes_through_a_pipe(data: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'import sys; from broker.cli import main; sys.exit(main())'"
    shell = f"{command} dump a.sqlite | {command} load - b.sqlite && {command} dump b.sqlite > b"
    shell += f" && {command} dump a.sqlite | cmp - b"
    done = subprocess.run(
        shell, shell=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "36 messages\n"


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    store = inline_store(path)
    result(store.open())
    for first in range(0, 40_000, 1000):
        definitions = [] if first else queue_of(1)
        result(store.commit(Group(parts={1: messages(first, 1000, 1500)}, definitions=definitions)))
    result(store.close())
    # Not getrusage: a process begins with the most that the one which started it had, which is the tests'.
    script = """
        import re, sys
        from broker.cli import main
        import broker.storage.check, broker.storage.load
        peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
        before = peak()
        status = main(sys.argv[1:])
        grown = peak() - before
        print(f"grown by {grown} KiB", file=sys.stderr)
        sys.exit(status or (1 if grown > 40_000 else 0))
    """
    program = "\n".join(line.strip() for line in script.splitlines())
    with open(tmp_path / "dump", "wb") as output:
        for arguments in (["dump", "a.sqlite"], ["check", "a.sqlite"], ["load", "dump", "b.sqlite"]):
            done = subprocess.run(
                [sys.executable, "-c", program, *arguments],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output if arguments[0] == "dump" else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert done.returncode == 0, (arguments, done.stderr)
    assert os.stat(tmp_path / "dump").st_size > 60_000_000


# -- check


def test_a_file_that_is_whole(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = data.read_bytes()
    out, err = said(capfd, "check", data)
    assert err == ""
    assert "5 destinations, 6 lanes, 7 readers, 2 bindings" in out
    assert out.endswith("it is whole\n")
    report = json.loads(said(capfd, "check", "--json", data)[0])
    assert (report["problems"], report["unsettled"], report["records"]) == ([], 40, 1)
    assert data.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE batch SET data = substr(data, 1, 99) WHERE lane = 1 AND base = 0", "lane 1, batch"),
        ("UPDATE batch SET n = n + 1 WHERE lane = 1 AND base = 0", "the run before it ends at"),
        ("UPDATE batch SET base = base + 1 WHERE lane = 1 AND base = 21", "message 21 is not stored, and reader 1"),
        ("DELETE FROM batch WHERE lane = 3", "lane 3: message 0 is not stored, and reader 5 waits for it"),
        ("UPDATE batch SET t0 = 5 WHERE lane = 1", "its first stamp is"),
        ("UPDATE batch SET lane = 99 WHERE lane = 3", "batches belong to lane 99, which is not there"),
        ("UPDATE lane SET next = 6 WHERE id = 3", "the lane ends at"),
        ("UPDATE lane SET next = 4 WHERE id = 3", "reader 5: 6 is settled, but its lane ends at 4"),
        ("UPDATE lane SET low = 40 WHERE id = 1", "nothing is kept below 40"),
        ("UPDATE lane SET destination = 99 WHERE id = 3", "lane 3 belongs to destination 99, which is not there"),
        ("UPDATE reader SET cursor = 99 WHERE id = 3", "reader 3: its cursor 99 is beyond the end of its lane, 7"),
        ("UPDATE reader SET lane = 99 WHERE id = 3", "reader 3 reads lane 99, which is not there"),
        ("UPDATE reader SET queue = 99 WHERE id = 3", "reader 3 belongs to queue 99, which is not there"),
        ("UPDATE bits SET reader = 99 WHERE reader = 5", "settled numbers belongs to reader 99"),
        ("UPDATE bits SET bits = x'00' WHERE reader = 5", "has a wrong length"),
        ("UPDATE exc SET reader = 99", "belongs to reader 99"),
        ("UPDATE exc SET seq = 99 WHERE reader = 1", "message 99 failed, but its lane ends at"),
        ("UPDATE exc SET seq = 1 WHERE reader = 1", "message 1, below the cursor of reader 1, is not kept"),
        ("UPDATE exc SET seq = 1, body = x'01' WHERE reader = 1", "message 1 of reader 1, kept apart, cannot be read"),
        ("UPDATE binding SET source = 99 WHERE id = 1", "binding 1 reads destination 99"),
        ("UPDATE binding SET queue = 99 WHERE id = 1", "binding 1 belongs to queue 99"),
        ("UPDATE rec SET dir = x'01'", "cannot be read"),
        ("UPDATE rec SET data = x''", "lies outside of its data"),
        ("UPDATE rec SET data = zeroblob(length(data))", "record"),
        ("INSERT INTO dedup (until, keys) VALUES (1, x'05')", "publishers' keys cannot be read"),
        ("DELETE FROM meta WHERE key = 'last_stamp'", "a broker could not start with it"),
    ],
)
def test_what_is_wrong_is_named(data: Path, capfd: pytest.CaptureFixture[str], damage: str, words: str) -> None:
    with closing(sqlite3.connect(data)) as connection:
        assert connection.execute(damage).rowcount > 0
        connection.commit()
    out, _ = said(capfd, "check", data, status=1)
    assert words in out, out
    assert "problem" in out.splitlines()[-1]


def test_a_damaged_file_of_any_kind_is_a_report_and_not_a_traceback(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = data.read_bytes()
    for at in range(0, len(whole), 1501):
        broken = tmp_path / "broken.sqlite"
        broken.write_bytes(whole[:at] + b"\xa5" * 64 + whole[at + 64 :])
        for word in ("check", "dump"):
            capfd.readouterr()
            assert main([word, str(broken)]) in (0, 1, 4)
            assert "Traceback" not in capfd.readouterr().err


# -- who may


@pytest.mark.parametrize("word", ["check", "load"])
def test_a_file_in_use_is_refused(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], word: str) -> None:
    (tmp_path / "empty").write_text("")
    arguments = {"load": [tmp_path / "empty", data]}.get(word, [data])
    lock = Lock(str(data))
    try:
        out, err = said(capfd, word, *arguments, status=4)
    finally:
        lock.release()
    assert out == ""
    assert err == f"broker: {data} is in use by process {os.getpid()}\n"


@pytest.mark.parametrize("word", ["check", "dump", "backup"])
def test_what_is_no_data_file_cannot_be_opened(tmp_path: Path, capfd: pytest.CaptureFixture[str], word: str) -> None:
    more = [tmp_path / "copy"] if word == "backup" else []
    cats, garbage, old = tmp_path / "cats", tmp_path / "garbage", tmp_path / "old"
    garbage.write_bytes(b"no database" * 1000)
    change(cats, "CREATE TABLE cats (name)")
    with closing(sqlite3.connect(old)) as connection:
        migrate.upgrade(connection, str(old), {1: migrate.scripts()[1]})
    for path, words in (
        (tmp_path / "nothing", "there is no data file"),
        (tmp_path, "there is no data file"),
        (cats, "but not a broker's"),
        (garbage, "not a database"),
        (old, f"has schema version 1, this is for {max(migrate.scripts())}: start the broker once"),
    ):
        _, err = said(capfd, word, path, *more, status=4)
        assert words in err
        assert err.count("\n") == 1
    assert not (tmp_path / "nothing.lock").exists()
    assert not (tmp_path / "copy").exists()


def test_wrong_usage(tmp_path: Path) -> None:
    for arguments in (["check"], ["load", "x"], ["backup", "x"], ["dump", "--fast", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_output_that_cannot_be_written_is_status_5(data: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from broker.cli import main; sys.exit(main())", "dump", str(data)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 5
    assert done.stderr == "broker: cannot write: No space left on device\n"


# -- backup


def test_a_copy_has_what_the_log_has(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert Path(f"{data}-wal").stat().st_size > 0
    out, _ = said(capfd, "dump", data)
    data.chmod(0o640)
    said(capfd, "backup", data, tmp_path / "copy.sqlite")
    assert (tmp_path / "copy.sqlite").stat().st_mode & 0o777 == 0o640
    assert not Path(tmp_path / "copy.sqlite-wal").exists()
    assert said(capfd, "dump", tmp_path / "copy.sqlite") == (out, "")
    assert "it is whole" in said(capfd, "check", tmp_path / "copy.sqlite")[0]
    _, err = said(capfd, "backup", data, tmp_path / "copy.sqlite", status=4)
    assert "exists already" in err
    _, err = said(capfd, "backup", data, tmp_path / "no" / "folder", status=5)
    assert "No such file or directory" in err


# -- with a broker


class Load(threading.Thread):
    """Publishes to ``orders`` one message after the other, and takes some, until it is told to stop."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        #: The next message; all before it are confirmed. And the next to be taken.
        self.next = self.taken = 0
        self.over = threading.Event()

    def run(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as connection, connection.makefile("rb") as answers:
            while not self.over.is_set():
                body = b"%06d" % self.next + bytes(3000)
                connection.sendall(b"set orders 0 0 %d\r\n%s\r\n" % (len(body), body))
                assert answers.readline() == b"STORED\r\n"
                self.next += 1
                if self.next % 3 == 0:
                    connection.sendall(b"get orders\r\n")
                    assert answers.readline().startswith(b"VALUE")
                    assert answers.read(len(body) + 7).startswith(b"%06d" % self.taken)
                    self.taken += 1

    def go_on_to(self, number: int) -> None:
        """Wait until so many are confirmed."""
        while self.next < number:
            self.join(0.01)
            assert self.is_alive()


def test_a_running_broker_is_dumped_and_copied_as_of_one_moment(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, copy = tmp_path / "broker.sqlite", tmp_path / "copy"
    copy.mkdir()
    with Twistd(tmp_path) as twistd:
        load = Load(twistd.ports()["memcache"])
        load.start()
        try:
            load.go_on_to(300)
            moments = []
            for command in (["dump", path], ["backup", path, copy / "broker.sqlite"]):
                before = load.next, load.taken
                out, err = said(capfd, *command)
                moments.append((before, (load.next, load.taken)))
                if command[0] == "dump":
                    dumped = [int(one["body"][:6]) for one in lines(out) if one["type"] == "message"]
            load.go_on_to(moments[1][1][0] + 1)
        finally:
            load.over.set()
            load.join()
        assert err == f"{(copy / 'broker.sqlite').stat().st_size} bytes\n"
        left = {one.name for one in tmp_path.iterdir()}
    assert left == {"copy", *(f"broker.sqlite{one}" for one in ("", "-shm", "-wal", ".lock", ".reserve"))}
    assert "it is whole" in said(capfd, "check", copy / "broker.sqlite")[0]
    restored = []
    with Twistd(copy) as twistd:
        with socket.create_connection(("127.0.0.1", twistd.ports()["memcache"])) as connection:
            answers = connection.makefile("rb")
            while True:
                connection.sendall(b"get orders\r\n")
                if answers.readline() == b"END\r\n":
                    break
                restored.append(int(answers.read(3006 + 7)[:6]))
    for numbers, ((confirmed, taken), (sent, gone)) in zip((dumped, restored), moments, strict=True):
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert taken - 1 <= numbers[0] <= gone + 1  # the last taken is settled by the commit after it
        assert confirmed - 1 <= numbers[-1] <= sent


def test_a_running_broker_has_the_last_word_on_its_disk(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lock = Lock(str(data))
    try:
        monkeypatch.setattr(live, "ROOM", 1 << 60)
        for arguments in (["dump", data], ["backup", data, tmp_path / "copy"]):
            _, err = said(capfd, *arguments, status=5)
            assert err.startswith(f"broker: cannot write: there is no room in {tmp_path} for a copy of ")
        monkeypatch.undo()
        data.chmod(0o600)
        said(capfd, "backup", data, tmp_path / "copy")
        assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
        _, err = said(capfd, "backup", data, tmp_path / "copy", status=4)
        assert "exists already" in err
        _, err = said(capfd, "backup", data, tmp_path / "no" / "folder", status=5)
        assert "No such file or directory" in err
    finally:
        lock.release()
    assert said(capfd, "dump", tmp_path / "copy") == said(capfd, "dump", data)


def test_what_a_broker_left_can_be_dumped_loaded_and_served(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Twistd(tmp_path) as twistd:
        url = f"http://127.0.0.1:{twistd.ports()['HTTP']}"
        for n in range(5):
            assert main(["publish", "--url", url, "orders", f"message {n}"]) == 0
        assert main(["get", "--url", url, "orders"]) == 0
        _, err = said(capfd, "check", tmp_path / "broker.sqlite", status=4)
        assert "is in use by process" in err
        twistd.kill()
    out, _ = said(capfd, "dump", tmp_path / "broker.sqlite")
    (tmp_path / "dump").write_text(out)
    other = tmp_path / "other"
    other.mkdir()
    said(capfd, "load", tmp_path / "dump", other / "broker.sqlite")
    with Twistd(other) as twistd:
        url = f"http://127.0.0.1:{twistd.ports()['HTTP']}"
        assert said(capfd, "get", "--url", url, "--count", 9, "orders")[0] == "".join(
            f"message {n}\n" for n in range(1, 5)
        )
        assert main(["publish", "--url", url, "orders", "more"]) == 0
        assert said(capfd, "get", "--url", url, "orders")[0] == "more"


# -- upgrades


def as_it_was(path: Path, version: int) -> None:
    """Make a data file of the newest version what an older broker would have written."""
    with closing(sqlite3.connect(f"{path}.old")) as old:
        steps = {number: script for number, script in migrate.scripts().items() if number <= version}
        migrate.upgrade(old, "", steps)
        tables = [name for (name,) in old.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        old.execute("ATTACH ? AS new", (str(path),))
        for table in tables:
            if table != "dedup":  # nothing wrote it before it was made anew
                columns = ", ".join(row[1] for row in old.execute(f"PRAGMA main.table_info({table})"))
                old.execute(f"INSERT OR REPLACE INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
        old.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (version,))
        old.commit()
    os.replace(f"{path}.old", path)


def test_an_upgraded_file_has_the_dump_of_a_new_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same commits into a file of each version: brought up to date, it says the same."""
    dumps = {}
    newest = max(migrate.scripts())
    schema = "SELECT name, sql FROM sqlite_master ORDER BY name"
    for version in range(1, newest + 1):
        path = tmp_path / f"{version}.sqlite"
        store = inline_store(path)
        result(store.open())
        result(store.commit(Group(parts={1: messages(0, 300, 200)}, definitions=queue_of(1))))
        result(store.commit(Group(settled={1: [(3, 5)]}, failures={(1, 7): Failure(1, 0, "nack")})))
        result(store.close())
        if version < newest:
            as_it_was(path, version)
        result(store.open())
        result(store.close())
        with closing(sqlite3.connect(path)) as upgraded, closing(sqlite3.connect(":memory:")) as new:
            migrate.upgrade(new, "")
            assert upgraded.execute(schema).fetchall() == new.execute(schema).fetchall()
        assert Path(f"{path}.v{version}").exists() == (version < newest)
        dumps[version] = said(capfd, "dump", path)[0]
        assert "it is whole" in said(capfd, "check", path)[0]
    assert len(set(dumps.values())) == 1
    copy = inline_store(tmp_path / "1.sqlite.v1")  # what was copied before the upgrade can be upgraded, too
    result(copy.open())
    assert len(stored(copy, 1)) == 300
    result(copy.close())
