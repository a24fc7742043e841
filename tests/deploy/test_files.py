"""What lies in ``deploy/``: units, the layout, the container's file and logrotate's, as those who use them see them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from broker.config import load
from broker.listeners import DEFAULT_PORTS
from tests.deploy.support import Activated, Notified
from tests.support import TWISTD, Twistd

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
#: As ``systemd-analyze security`` counts: 10 is a service that may do anything, below 2 it says OK.
MOST_EXPOSED = 1.5

Instruction = tuple[str, str]


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"missing: {name} (second layer: .ci/run installs it)")
    return found


def unit(name: str) -> ConfigParser:
    found = ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(DEPLOY / "systemd" / name)
    return found


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, as they are where twistd is that of the tests."""
    folder = tmp_path / "units"
    folder.mkdir()
    for found in (DEPLOY / "systemd").iterdir():
        if found.suffix in (".service", ".socket"):
            (folder / found.name).write_text(found.read_text().replace("/opt/twisted-broker/bin/twistd", str(TWISTD)))
    return folder


# -- systemd


def test_systemd_finds_nothing_to_say_about_the_units(units: Path) -> None:
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", *sorted(map(str, units.iterdir()))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_unit_with_a_mistake_would_be_noticed(units: Path) -> None:
    service = units / "twisted-broker.service"
    service.write_text(service.read_text().replace("ProtectHome=", "ProtectHouse="))
    command = [tool("systemd-analyze"), "verify", "--man=no", str(service)]
    assert "ProtectHouse" in subprocess.run(command, capture_output=True, text=True, timeout=60).stderr


def test_the_service_may_do_no_more_than_it_has_to(units: Path) -> None:
    done = subprocess.run(
        [tool("systemd-analyze"), "security", "--offline=yes", str(units / "twisted-broker.service")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    said = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert said is not None, done.stdout + done.stderr
    assert float(said[1]) <= MOST_EXPOSED


def test_the_sockets_are_the_default_ports_and_the_configuration_takes_them() -> None:
    names = unit("twisted-broker.service")["Service"]["Sockets"].split()
    config = load(str(DEPLOY / "etc/broker.toml"))
    for front, port in DEFAULT_PORTS.items():
        name = f"twisted-broker-{front}.socket"
        assert name in names
        says = unit(name)["Socket"]
        assert (says["ListenStream"], says["FileDescriptorName"]) == (f"127.0.0.1:{port}", front)
        assert getattr(config, front) == [f"systemd:domain=INET:name={front}"]
    assert len(names) == len(DEFAULT_PORTS) == len(list((DEPLOY / "systemd").glob("*.socket")))


def test_the_services_command_starts_a_broker_that_says_when_it_is_ready(tmp_path: Path) -> None:
    program, *options = unit("twisted-broker.service")["Service"]["ExecStart"].split()
    config = tmp_path / "broker.toml"
    config.write_text((DEPLOY / "etc/broker.toml").read_text().replace("/var/lib/twisted-broker", str(tmp_path)))
    assert program == "/opt/twisted-broker/bin/twistd"
    behind = options.index("broker") + 1
    assert options[:behind] == ["--nodaemon", "--pidfile=", "--logfile=-", "broker"]
    assert options[behind:] == ["--config", "/etc/twisted-broker/broker.toml"]
    made = {front: socket.create_server(("127.0.0.1", 0)) for front in DEFAULT_PORTS}
    with Notified(tmp_path) as notified:
        told = {"NOTIFY_SOCKET": str(notified.path)}
        with Activated(tmp_path, "--config", str(config), sockets=made, environment=told) as twistd:
            assert notified.next()["READY"] == "1"
            assert {str(one.getsockname()[1]) for one in made.values()} == {
                str(port) for port in twistd.ports().values()
            }
            twistd.process.send_signal(signal.SIGTERM)
            notified.until("STOPPING")
            assert twistd.wait() == -signal.SIGTERM
    for one in made.values():
        one.close()


# -- the layout


def installed(root: Path) -> None:
    subprocess.run([DEPLOY / "install", "--files-only", "--root", root], check=True, timeout=60)


def test_an_installation_has_everything_at_its_place(tmp_path: Path) -> None:
    installed(tmp_path)
    found = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    assert {
        "etc/logrotate.d/twisted-broker",
        "etc/systemd/system/twisted-broker.service",
        "etc/sysusers.d/twisted-broker.conf",
        "etc/tmpfiles.d/twisted-broker.conf",
        "etc/twisted-broker/broker.toml",
        "usr/share/doc/twisted-broker/operations.rst",
        *(f"etc/systemd/system/twisted-broker-{front}.socket" for front in DEFAULT_PORTS),
    } <= set(found)
    for name, path in found.items():
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o640 if name.startswith("etc/twisted-broker/") else 0o644), name
    documentation = unit("twisted-broker.service")["Unit"]["Documentation"].removeprefix("file:/")
    assert documentation in found


def test_what_the_administrator_has_changed_stays(tmp_path: Path) -> None:
    installed(tmp_path)
    config = tmp_path / "etc/twisted-broker/broker.toml"
    config.write_text("memcache = [1]\n")
    installed(tmp_path)
    assert config.read_text() == "memcache = [1]\n"


def test_an_option_it_does_not_know_installs_nothing(tmp_path: Path) -> None:
    done = subprocess.run([DEPLOY / "install", "--files"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "--files is nothing it knows" in done.stderr


def test_the_user_and_the_folders_are_those_of_the_unit() -> None:
    service = unit("twisted-broker.service")["Service"]
    users = (DEPLOY / "systemd/sysusers.conf").read_text()
    assert re.search(rf"^u {service['User']} ", users, re.MULTILINE)
    lines = [line.split() for line in (DEPLOY / "systemd/tmpfiles.conf").read_text().splitlines() if line[0] != "#"]
    folders = {line[1]: line[2:5] for line in lines if line[0] == "d"}
    assert folders[f"/var/lib/{service['StateDirectory']}"] == [service["StateDirectoryMode"], *[service["User"]] * 2]
    assert folders[f"/var/log/{service['LogsDirectory']}"] == [service["LogsDirectoryMode"], *[service["User"]] * 2]
    assert folders["/etc/twisted-broker"] == ["0750", "root", service["Group"]]
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"


@pytest.mark.parametrize("program", ["systemd-sysusers", "systemd-tmpfiles"])
def test_systemd_makes_the_user_and_the_folders(tmp_path: Path, program: str) -> None:
    tool(program)
    if os.geteuid() != 0:
        pytest.skip("only root makes users")
    for folder in ("etc", "var/lib", "var/log"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", tmp_path / "etc" / name)
    installed(tmp_path)
    for made in ("systemd-sysusers", "systemd-tmpfiles")[: 1 + (program == "systemd-tmpfiles")]:
        command = [made, f"--root={tmp_path}", "twisted-broker.conf", *(["--create"] if "tmp" in made else [])]
        subprocess.run(command, check=True, timeout=60)
    (line,) = re.findall(r"^twisted-broker:.*", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    assert line.endswith(":/var/lib/twisted-broker:/usr/sbin/nologin")
    if program == "systemd-tmpfiles":
        uid = int(line.split(":")[2])
        for folder, owner in (("var/lib", uid), ("var/log", uid), ("etc", 0)):
            found = (tmp_path / folder / "twisted-broker").stat()
            assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (owner, 0o750)
        config = (tmp_path / "etc/twisted-broker/broker.toml").stat()
        assert (config.st_uid, config.st_gid, stat.S_IMODE(config.st_mode)) == (0, int(line.split(":")[3]), 0o640)


# -- logs


def test_logrotate_moves_the_log_and_the_broker_goes_on_in_a_new_one(tmp_path: Path) -> None:
    rotates, log = tool("logrotate"), tmp_path / "broker.log"
    tmp_path.chmod(0o750)  # it refuses a folder others may write to
    config = (DEPLOY / "logrotate/twisted-broker").read_text().replace("/var/log/twisted-broker", str(tmp_path))
    kill = "systemctl kill --kill-whom=main --signal=USR1 twisted-broker.service"
    assert kill in config
    command = [sys.executable, str(TWISTD), "--nodaemon", "--pidfile=", f"--logfile={log}", "broker", "--http=0"]
    command += ["--data=:memory:", "--memcache=off", "--stomp=off"]
    twistd = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert twistd.stdout is not None
        port = int(twistd.stdout.readline().rpartition(":")[2])
        healthy(port)
        config = config.replace(kill, f"kill -USR1 {twistd.pid}")
        config = re.sub(r"^ *su .*\n", "", config, flags=re.MULTILINE)
        (tmp_path / "logrotate").write_text(config)
        (tmp_path / "logrotate").chmod(0o600)
        subprocess.run([rotates, "-f", "-s", tmp_path / "state", tmp_path / "logrotate"], check=True, timeout=60)
        while not log.exists():
            healthy(port)
        twistd.send_signal(signal.SIGTERM)
        twistd.communicate(timeout=Twistd.PATIENCE)
    finally:
        twistd.kill()
        twistd.wait()
    (old,) = tmp_path.glob("broker.log-*")
    assert "ready" in old.read_text()
    assert "ready" not in log.read_text()
    assert "stopped" in log.read_text()


def healthy(port: int) -> None:
    """It waits for a broker that starts: connections to a port that is taken stay in its backlog."""
    urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=Twistd.PATIENCE).close()


def test_logrotate_understands_the_file_as_it_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [tool("logrotate"), "-d", "-s", tmp_path / "state", DEPLOY / "logrotate/twisted-broker"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    # Here there is no such user; that is all there is to say.
    assert not [line for line in errors if "unknown user" not in line and "found error in" not in line], errors


# -- the container


def instructions(text: str) -> Iterator[Instruction]:
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    for line in joined.splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, rest.strip()


def test_the_container_runs_as_nobody_in_particular_and_shows_whether_it_is_ready() -> None:
    found = list(instructions((DEPLOY / "docker/Dockerfile").read_text()))
    last = found[max(place for place, (word, _) in enumerate(found) if word == "FROM") :]
    said = dict(last)
    assert int(said["USER"]) > 0
    assert json.loads(said["ENTRYPOINT"]) == ["twistd", "--nodaemon", "--pidfile=", "--logfile=-", "broker"]
    (healthcheck,) = json.loads(said["HEALTHCHECK"].partition("CMD ")[2])
    copied = dict(rest.rsplit(" ", 1)[::-1] for word, rest in last if word == "COPY")
    assert copied[healthcheck] == "deploy/docker/healthcheck"
    assert json.loads(said["CMD"])[1] in copied
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert [int(port) for port in said["EXPOSE"].split()] == list(DEFAULT_PORTS.values())
    config = load(str(DEPLOY / "docker/broker.toml"))
    for front, port in DEFAULT_PORTS.items():
        assert getattr(config, front) == [f"0.0.0.0:{port}"]
    assert config.users == "/etc/twisted-broker/users.toml"
    assert config.data.startswith(said["VOLUME"] + "/")


def test_what_the_container_is_made_of_is_there_and_is_let_in() -> None:
    let_in = (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
    for word, rest in instructions((DEPLOY / "docker/Dockerfile").read_text()):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == one[1:] or source.startswith(f"{one[1:]}/") for one in let_in), source


def test_the_healthcheck_fails_while_the_broker_is_not_ready(tmp_path: Path) -> None:
    def status(port: int) -> int:
        command = [sys.executable, str(DEPLOY / "docker/healthcheck")]
        url = f"http://127.0.0.1:{port}/readyz"
        done = subprocess.run(command, env={**os.environ, "HEALTH_URL": url}, capture_output=True, timeout=30)
        return done.returncode

    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    assert status(port) == 1
    with Twistd(tmp_path, "--data=:memory:") as twistd:
        port = twistd.ports()["HTTP"]
        assert status(port) == 0
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/drain", method="POST")
        urllib.request.urlopen(asked, timeout=Twistd.PATIENCE).close()
        assert status(port) == 1
