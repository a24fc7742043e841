"""@stomp/stompjs in Node, over WebSocket and TCP, and in a browser: against one broker process.

Lines 77 to 79, and most before.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support import Twistd

HERE = Path(__file__).resolve().parent / "js"
NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium")
#: Seconds for everything.
PATIENCE = 120
#: The host of the page, which the broker is told of, and another one.
OURS, STRANGER = "page.example", "stranger.example"

without_node = pytest.mark.skipif(NODE is None or shutil.which("npm") is None, reason="Node and npm are not installed")


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The ports of a broker, beside the client's package."""
    with (HERE / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several runs may share the folder
        if not (HERE / "node_modules" / ".package-lock.json").exists():
            subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True, timeout=PATIENCE)
    with Twistd(tmp_path_factory.mktemp("broker"), "--data=:memory:", f"--http-host={OURS}") as broker:
        yield broker.ports()


@without_node
def test_stompjs_goes_through_its_conversation(ports: dict[str, int]) -> None:
    command = [str(NODE), "conversation.mjs", f"ws://127.0.0.1:{ports['HTTP']}/ws", str(ports["STOMP"])]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 16, done.stdout


class Pages(SimpleHTTPRequestHandler):
    """The files of the page, and its outcome."""

    extensions_map = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript"}

    def __init__(self, outcomes: queue.Queue[str], *args: object) -> None:
        self._outcomes = outcomes
        super().__init__(*args, directory=str(HERE))  # type: ignore[arg-type]

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.replace("/stompjs/", "/node_modules/@stomp/stompjs/esm6/", 1))

    def do_POST(self) -> None:
        self._outcomes.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to tell."""


@contextlib.contextmanager
def serving_pages() -> Iterator[tuple[int, queue.Queue[str]]]:
    """The port of an HTTP server in a thread, and what pages post to it."""
    outcomes: queue.Queue[str] = queue.Queue()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, outcomes)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, outcomes
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def chromium(url: str, folder: Path) -> Iterator[None]:
    """A headless browser that shows this page, and knows no host but those of the test."""
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",  # which root cannot have; the pages are our own
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        "--no-proxy-server",
        "--host-resolver-rules=MAP *.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={folder}",
        "--remote-debugging-port=0",  # otherwise it ends when the page is loaded
        url,
    ]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it is many processes
        process.wait()


@without_node
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_stompjs_goes_through_its_conversation_in_a_browser(ports: dict[str, int], tmp_path: Path) -> None:
    """Lines 77 to 79: the page comes from a host that the broker allows, and one from another host gets no socket."""
    broker = quote(f"ws://127.0.0.1:{ports['HTTP']}/ws", safe="")
    with serving_pages() as (port, outcomes):
        page = f"http://{OURS}:{port}/browser.html?url={broker}&stranger=http://{STRANGER}:{port}"
        with chromium(page, tmp_path):
            try:
                outcome = outcomes.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError((tmp_path / "said").read_text()) from None
    *steps, stranger = outcome.splitlines()
    assert [step.startswith("browser: ") for step in steps] == [True] * 8, outcome
    assert stranger == "stranger: closed with 1006"
