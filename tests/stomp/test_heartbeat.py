"""Heart-beats: what is agreed, and the timers that keep and check it."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from broker.stomp.heartbeat import Beats, Heartbeat, negotiate


@pytest.mark.parametrize(
    ("header", "beats"),
    [
        (None, Beats(0, 0, "0,0")),
        ("0,0", Beats(0, 0, "0,0")),
        ("1000,0", Beats(0, 1000, "0,1000")),
        ("0,1000", Beats(1000, 0, "1000,0")),
        ("1000,3000", Beats(3000, 1000, "3000,1000")),
        (" 1000 , 3000 ", Beats(3000, 1000, "3000,1000")),
        ("1,1", Beats(250, 250, "250,250")),
        ("9999999999,0", Beats(0, 9999999999, "0,9999999999")),
    ],
)
def test_the_client_gets_what_it_asks_for_down_to_the_floor(header: str | None, beats: Beats) -> None:
    """Line 30."""
    assert negotiate(header) == beats


@pytest.mark.parametrize(
    ("header", "beats"),
    [
        ("0,0", Beats(0, 0, "0,0")),
        ("5000,5000", Beats(5000, 5000, "5000,5000")),
        ("5001,0", Beats(0, 5001, "0,5000")),
        ("0,5001", Beats(5000, 0, "5000,0")),
        ("1,9999999999", Beats(5000, 1000, "5000,1000")),
    ],
)
def test_a_ceiling_holds_for_our_beats_and_what_we_ask_for_but_takes_no_client_s_time(
    header: str, beats: Beats
) -> None:
    """Line 30."""
    assert negotiate(header, 1000, 5000) == beats


@pytest.mark.parametrize(
    "header", ["", "0", "T,0", "3000,10,50", "-1,0", "1,", ",1", "1.5,0", "1e3,0", "1 0,0", "٣,0", "99999999999,0"]
)
def test_anything_but_two_counts_is_refused(header: str) -> None:
    """Line 32."""
    with pytest.raises(ValueError, match="heart-beat"):
        negotiate(header)


class Connection:
    """What a heart-beat sees of a connection."""

    def __init__(self, outgoing: int = 0, incoming: int = 0) -> None:
        self.clock = Clock()
        self.beats: list[float] = []
        self.expired: list[float] = []
        self.reading = True
        self.heartbeat = Heartbeat(
            self.clock,
            Beats(outgoing, incoming),
            beat=lambda: self.beats.append(self.clock.seconds()),
            expired=lambda: self.expired.append(self.clock.seconds()),
            reading=lambda: self.reading,
        )

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.05] * round(seconds / 0.05))


def test_a_silent_side_beats_within_every_period() -> None:
    """Line 30."""
    connection = Connection(outgoing=1000)
    connection.pass_time(10)
    gaps = [b - a for a, b in zip([0.0, *connection.beats], connection.beats, strict=False)]
    assert all(0.5 <= gap <= 0.9 for gap in gaps)
    assert len(gaps) >= 11
    connection.heartbeat.stop()
    assert not connection.clock.getDelayedCalls()


def test_whatever_is_written_saves_a_beat() -> None:
    connection = Connection(outgoing=1000)
    for _ in range(20):
        connection.pass_time(0.5)
        connection.heartbeat.wrote()
    assert connection.beats == []
    connection.pass_time(1)
    assert len(connection.beats) == 1
    assert 10.7 <= connection.beats[0] <= 10.9


def test_a_peer_silent_for_two_periods_is_gone_and_told_of_once() -> None:
    """Line 31."""
    connection = Connection(incoming=1000, outgoing=1000)
    connection.pass_time(1.5)
    connection.heartbeat.received()
    connection.pass_time(1.9)
    assert connection.expired == []
    connection.pass_time(0.2)
    assert len(connection.expired) == 1
    connection.pass_time(10)
    assert len(connection.expired) == 1
    assert not connection.clock.getDelayedCalls()


def test_silence_means_nothing_while_we_do_not_read() -> None:
    connection = Connection(incoming=1000)
    connection.reading = False
    connection.pass_time(30)
    connection.reading = True
    connection.heartbeat.received()
    connection.pass_time(1.9)
    assert connection.expired == []
    connection.pass_time(0.2)
    assert len(connection.expired) == 1


def test_nothing_agreed_costs_no_timer() -> None:
    assert not Connection().clock.getDelayedCalls()


def test_a_beat_may_end_the_connection() -> None:
    connection = Connection()
    heartbeat = Heartbeat(
        connection.clock,
        Beats(outgoing=1000),
        beat=lambda: heartbeat.stop(),
        expired=lambda: None,
        reading=lambda: True,
    )
    connection.pass_time(2)
    assert not connection.clock.getDelayedCalls()
