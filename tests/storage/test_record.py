"""The formats of records and batches."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.destination import Kind
from broker.core.message import Message, pack, unpack
from broker.core.policy import BindingPolicy
from broker.core.store import (
    DefineBinding,
    DefineDestination,
    DefineLane,
    DefineReader,
    DropQueue,
    EndBinding,
    Failure,
    Group,
    PublishKey,
)
from broker.errors import ConfigError, StoreRefused
from broker.storage import record
from broker.storage.record import BATCH_BYTES, BATCH_COUNT, INLINE
from broker.storage.settled import Settled
from tests.storage.support import messages

ids = st.integers(1, 1 << 40)
seqs = st.integers(0, 1 << 33)
small = st.integers(0, 1 << 53)
text = st.text(max_size=5).filter(lambda word: word.isprintable())
marks = st.dictionaries(ids, seqs, max_size=3)
policies = st.builds(BindingPolicy, *[st.none() | small] * 4)
definitions = st.one_of(
    st.builds(DefineDestination, ids, st.sampled_from(Kind), text),
    st.builds(DefineLane, ids, ids, st.integers(-9, 9), st.integers(0, 3)),
    st.builds(DefineReader, ids, ids, ids, seqs),
    st.builds(DefineBinding, ids, ids, ids, marks, policies, text, text, st.booleans()),
    st.builds(EndBinding, ids, marks),
    st.builds(DropQueue, ids),
)
bodies = st.builds(
    Message,
    small,
    st.one_of(st.binary(max_size=40), st.integers(0, 90_000).map(bytes)),
    st.dictionaries(text, text, max_size=2),
    st.none() | text,
    expires=st.sampled_from([0, 5, 9]),
)
groups = st.builds(
    Group,
    parts=st.dictionaries(ids, st.lists(bodies, min_size=1, max_size=4), max_size=4),
    settled=st.dictionaries(ids, st.lists(st.tuples(seqs, seqs), max_size=3), max_size=3),
    jumps=marks,
    reserved=marks,
    failures=st.dictionaries(st.tuples(ids, seqs), st.none() | st.builds(Failure, small, small, text), max_size=3),
    definitions=st.lists(definitions, max_size=4),
    keys=st.lists(st.builds(PublishKey, ids, seqs, text, small), max_size=3),
    last_stamp=small,
)


@given(groups, seqs, st.integers(0, 1 << 40))
def test_what_a_group_says_can_be_read_back(group: Group, base: int, before: int) -> None:
    written = record.build(group, dict.fromkeys(group.parts, base), dict.fromkeys(group.parts, before))
    said = record.decode(record.encode(written.directory))
    assert record.encode(said) == record.encode(written.directory)
    assert (said.version, said.last_stamp, said.definitions) == (1, group.last_stamp, group.definitions)
    assert dict(said.jumps) == group.jumps
    assert said.keys == group.keys
    assert {entry[0]: entry[1] for entry in said.settled if entry[1]} == {r: m for r, m in group.reserved.items() if m}
    pairs = {entry[0]: list(zip(entry[2::2], entry[3::2], strict=True)) for entry in said.settled if len(entry) > 2}
    assert pairs == {reader: ranges for reader, ranges in group.settled.items() if ranges}
    assert [tuple(failure) for failure in said.failures] == [
        (*key, *((one.attempts, one.due, one.reason) if one else (0, 0, ""))) for key, one in group.failures.items()
    ]
    found: dict[int, list[Message]] = {}
    for part in said.parts:
        if part.offset >= 0:
            found[part.lane] = unpack(part.count, written.data[part.offset : part.offset + part.length])
        else:
            rows = [row for row in written.rows if row.lane == part.lane]
            assert rows[0].base == base
            assert rows[0].before == before
            assert sum(len(row.data) for row in rows) == part.length
            for row, following in pairwise(rows):
                assert following.base == row.base + row.count
                assert following.before == row.before + len(row.data)
            found[part.lane] = [message for row in rows for message in unpack(row.count, row.data)]
            for row in rows:
                moments = [message.expires for message in unpack(row.count, row.data)]
                assert row.next_expiry == min(filter(None, moments), default=0)
                assert row.max_expiry == (max(moments) if all(moments) else 0)
                assert row.t0 == unpack(row.count, row.data)[0].stamp
    assert found == group.parts


@pytest.mark.parametrize("count", [1, 14, 15, 16, 17, 65_534, 65_535, 65_536])
def test_parts_join_without_decoding(count: int) -> None:
    """Trap 10: msgpack's array header has 1, 3 or 5 bytes; parts are kept without it."""
    first, second = messages(0, count, 0), messages(count, 2, 0)
    assert unpack(count + 2, pack(first) + pack(second)) == first + second
    assert b"".join(map(bytes, record.split(count, pack(first)))) == pack(first)


def _parts(some: list[Message]) -> record.Record:
    return record.build(Group(parts={1: some}), {1: 0}, {})


def test_large_parts_and_large_messages_are_batches() -> None:
    assert _parts(messages(0, 10)).rows == []
    whole = _parts(messages(0, 1, INLINE))
    assert whole.data == b""
    assert whole.directory.parts[0].offset == -1
    assert [row.count for row in whole.rows] == [1]
    many = _parts(messages(0, 5000, 30))
    assert all(row.count <= BATCH_COUNT and len(row.data) <= BATCH_BYTES for row in many.rows)
    large = _parts([*messages(0, 2), *messages(2, 1, BATCH_BYTES + 1), *messages(3, 2)])
    assert [row.count for row in large.rows] == [2, 1, 2]


def test_a_newer_layout_is_not_misread() -> None:
    data = bytearray(record.encode(record.Directory()))
    data[1] = 2
    with pytest.raises(ConfigError, match="layout 2"):
        record.decode(bytes(data))
    with pytest.raises(msgspec.DecodeError):
        record.decode(b"\x98\x01")


def test_what_msgpack_cannot_hold_is_refused() -> None:
    with pytest.raises(StoreRefused):
        _parts([Message(stamp=1 << 64)])


@given(st.integers(0, 9000), st.lists(st.tuples(st.integers(0, 15_000), st.integers(1, 6000)), max_size=12))
def test_settled_chunks_are_loaded_as_they_were_written(cursor: int, ranges: list[tuple[int, int]]) -> None:
    bits = Settled(cursor)
    model = set(range(cursor))
    for low, width in ranges:
        bits.add_range(low, low + width)
        model |= set(range(low, low + width))
    again = Settled(bits.cursor)
    for chunk in range(6):
        again.load(chunk, bits.chunk(chunk))
    assert (again.ranges(), again.count) == (bits.ranges(), bits.count)
    for seq in (0, cursor, 4095, 4096, 4097, 9000, 22_000):
        expected = max((n for n in range(seq) if n not in model), default=-1)
        assert again.last_open(seq) == expected or expected < bits.cursor > again.last_open(seq)
