"""What `broker.lean` relies on in Twisted and Twisted does not promise. Each test's name and words say what broke."""

from __future__ import annotations

import hashlib
import inspect
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet import _newtls, _signals, abstract, base, posixbase, tcp
from twisted.internet.protocol import Factory, Protocol

import twisted
from broker.reactor import TESTED

if not hasattr(select, "epoll"):
    pytest.skip("there is no epoll here", allow_module_level=True)

from twisted.internet import epollreactor

#: What the lean reactor stands in for, or counts on, word for word as it was when it was tested.
SOURCES: dict[Any, str] = {
    epollreactor.EPollReactor.doPoll: "09b62ae68ef0",
    posixbase._PollLikeMixin._doReadOrWrite: "5ffee55b7949",
    posixbase.PosixReactorBase.installWaker: "328da7ec0e64",
    _signals._FDWaker.doRead: "0be8b749479c",
    posixbase._DisconnectSelectableMixin._disconnectSelectable: "9d6de0e555ea",
    base.ReactorBase.mainLoop: "769125a86d0c",
    base.ReactorBase.timeout: "347720436ca8",
    base.ReactorBase.stop: "8f5411d4e2ef",
    tcp.Connection.doRead: "20ac74ffecd6",
    tcp.Connection._dataReceived: "7ed147aeca0c",
    tcp.Connection.writeSomeData: "2dd0d4209260",
    tcp.Connection.connectionLost: "dd7a9a87035a",
    tcp._AbortingMixin.abortConnection: "c948f3ef21c1",
    _newtls.ConnectionMixin.write: "ea311df0946d",
    abstract.FileDescriptor.write: "3e46c97fc173",
    abstract.FileDescriptor.doWrite: "a986d7b1b105",
    abstract.FileDescriptor.startWriting: "8e2f899b7d73",
    abstract.FileDescriptor.stopWriting: "3a6c0cff8fad",
    abstract.FileDescriptor.loseConnection: "e13b8468f052",
    abstract.FileDescriptor.connectionLost: "1e0b14c7c3f9",
}


def test_the_installed_twisted_is_one_the_lean_reactor_was_tested_with() -> None:
    assert twisted.__version__ in TESTED, (
        f"Twisted {twisted.__version__} runs the broker on its own reactor: compare what the tests below name with "
        "broker/lean.py, and add the version to TESTED in broker/reactor.py"
    )


@pytest.mark.parametrize("function", SOURCES, ids=lambda function: function.__qualname__)
def test_what_is_stood_in_for_has_not_changed(function: Callable[..., object]) -> None:
    now = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:12]
    assert now == SOURCES[function], (
        f"Twisted's {function.__module__}.{function.__qualname__} has changed: see whether broker/lean.py still does "
        f"the same in its place, then write {now} here"
    )


@pytest.fixture
def reactor() -> Iterator[Any]:
    result: Any = epollreactor.EPollReactor()
    yield result
    for one in result.removeAll():
        one.connectionLost(None)
    result.removeReader(result.waker)
    result.waker.connectionLost(None)
    result._poller.close()


@pytest.fixture
def transport(reactor: Any) -> Iterator[Any]:
    ours, peer = socket.socketpair()
    with peer, ours:
        result = tcp.Server(ours, Protocol(), ("127.0.0.1", 1), None, 1, reactor)  # type: ignore[arg-type]
        yield result
        result.stopReading()
        result.stopWriting()


def test_poller(reactor: Any) -> None:
    assert isinstance(reactor._poller, select.epoll), "LeanReactor.doPoll waits on it"


def test_selectables(reactor: Any, transport: Any) -> None:
    assert reactor._selectables[transport.fileno()] is transport, "LeanReactor.doPoll finds a connection in it"
    transport.stopReading()
    assert transport.fileno() not in reactor._selectables, "who is paused would be read"


def test_do_iteration(reactor: Any) -> None:
    assert reactor.doIteration.__func__ is epollreactor.EPollReactor.doPoll, "LeanReactor sets both to its own"


def test_do_read_or_write(reactor: Any) -> None:
    names = [*inspect.signature(reactor._doReadOrWrite).parameters]
    assert names == ["selectable", "fd", "event"], "LeanReactor.doPoll leaves all but plain reads to it"


def test_disconnect_selectable(reactor: Any) -> None:
    names = [*inspect.signature(reactor._disconnectSelectable).parameters]
    assert names[:3] == ["selectable", "why", "isRead"], "LeanReactor ends connections with it"


def test_the_transport_of_a_port(reactor: Any) -> None:
    port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    assert port.transport is tcp.Server, "LeanReactor replaces this one by LeanServer"
    assert port.transport is not reactor.listenUNIX.__func__.__globals__["unix"].Port.transport


def test_the_buffers_of_a_write(transport: Any) -> None:
    assert (transport._tempDataBuffer, transport._tempDataLen, transport.dataBuffer) == ([], 0, b"")
    transport.write(b"abc")
    transport.writeSequence([b"de", b"f"])
    assert transport._tempDataBuffer == [b"abc", b"de", b"f"], "LeanServer.write adds to it, doWrite sends it"
    assert transport._tempDataLen == 6, "LeanServer counts in it what waits"
    assert transport.dataBuffer == b"", "LeanServer.doWrite takes this for nothing left from before"


def test_the_buffers_after_a_part_was_sent(transport: Any) -> None:
    transport.write(b"x" * 16 * 1024 * 1024)
    transport.doWrite()
    sent = transport.offset
    assert 0 < sent < len(transport.dataBuffer), "LeanServer.doWrite leaves what is left in dataBuffer from offset on"
    assert (transport._tempDataBuffer, transport._tempDataLen) == ([], 0)


def test_send_limit(transport: Any) -> None:
    assert transport.SEND_LIMIT == 128 * 1024, "LeanServer.doWrite leaves more than that to Twisted"


def test_who_writes_no_more(transport: Any) -> None:
    assert (transport._writeDisconnected, transport._writeDisconnecting) == (False, False)
    transport.loseWriteConnection()
    assert transport._writeDisconnecting, "LeanServer.doWrite would not close its half"
    transport.doWrite()
    assert transport._writeDisconnected, "LeanServer.write would go on"


def test_disconnecting(transport: Any) -> None:
    assert not transport.disconnecting
    transport.connected = 1
    transport.loseConnection()
    assert transport.disconnecting, "LeanServer.doWrite would not close"


def test_producers(transport: Any) -> None:
    class Producer:
        paused = 0

        def pauseProducing(self) -> None:
            self.paused += 1

    assert (transport.producer, transport.streamingProducer, transport.producerPaused) == (None, False, False)
    producer = Producer()
    transport.registerProducer(producer, True)
    assert (transport.producer, transport.streamingProducer) == (producer, True), "LeanServer.doWrite asks it for more"
    transport._maybePauseProducer()
    assert producer.paused == 0
    transport._tempDataLen = transport.bufferSize + 1
    transport._maybePauseProducer()
    assert (producer.paused, transport.producerPaused) == (1, True), "LeanServer.write pauses a producer with it"
    transport._tempDataLen = 0
    transport.unregisterProducer()


def test_tls(transport: Any) -> None:
    assert transport.TLS is False, "LeanServer.write would send in the clear what startTLS has to encrypt"
