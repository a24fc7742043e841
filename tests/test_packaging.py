"""What gets installed: twistd must find the broker in every kind of install, and Twisted must survive it."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import broker

ROOT = Path(__file__).resolve().parent.parent
TOX = configparser.ConfigParser()
TOX.read(ROOT / "tox.ini")


def run(*command: object, cwd: Path, check: bool = True) -> str:
    """The output of a command; with `check` it must succeed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_REQUIRE"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    assert not check or done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what setup.py packs, and of what it must not, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    leavings = shutil.ignore_patterns("__pycache__", "dropin.cache")
    for folder in ("broker", "twisted", "tests", "docs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=leavings)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def dist(source: Path) -> Path:
    """An sdist, and the wheel built from that sdist."""
    run(sys.executable, "-m", "build", "--no-isolation", ".", cwd=source)
    return source / "dist"


def install(tmp_path: Path, *what: object) -> Path:
    """Install into a fresh environment; its interpreter.

    The dependencies come from the environment that runs the tests, by a path file: no network is needed. Path files in
    *that* folder are not read, so our own editable install there stays unseen.
    """
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env/bin/python"
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    # pip sees what is installed in that environment: ours there must not count, nor be touched.
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed")
    run(*pip, "install", *options, *what, cwd=tmp_path)
    return python


def check_twistd(python: Path, tmp_path: Path, home: Path) -> None:
    """twistd has the broker's command, and both come from `home`."""
    where = "import broker, twisted.plugins.broker_plugin as p; print(broker.__file__, p.__file__, sep='\\n')"
    for file in run(python, "-c", where, cwd=tmp_path).split():
        assert Path(file).is_relative_to(home)
    twistd = Path(sysconfig.get_path("scripts")) / "twistd"
    usage = run(python, twistd, "broker", "--help", cwd=tmp_path)
    assert "--memcache=" in usage
    assert run(python, twistd, "broker", "--version", cwd=tmp_path) == f"twisted-broker {broker.__version__}\n"
    version = run(python.parent / "broker", "--version", cwd=tmp_path)
    assert version == f"twisted-broker {broker.__version__}\n"


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_twistd_finds_the_broker_installed_from(kind: str, dist: Path, tmp_path: Path) -> None:
    (package,) = dist.glob(kind)
    python = install(tmp_path, package)
    check_twistd(python, tmp_path, tmp_path / "env")


def test_twistd_finds_the_broker_in_an_editable_install(source: Path, tmp_path: Path) -> None:
    python = install(tmp_path, "--editable", source)
    check_twistd(python, tmp_path, source)


def ours(source: Path) -> set[str]:
    """The files that an installed broker consists of."""
    files = {file.relative_to(source) for suffix in ("*.py", "*.sql") for file in (source / "broker").rglob(suffix)}
    return {*map(str, files), "broker/py.typed", "twisted/plugins/broker_plugin.py"}


def test_the_wheel_holds_all_and_only_what_is_ours(dist: Path, source: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == ours(source)
    assert {"broker/storage/schema/1.sql", "broker/service.py"} <= held


def test_the_sdist_holds_what_a_wheel_is_built_from_and_no_tests(dist: Path, source: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames() if not packed.getmember(name).isdir()}
    held = {name for name in names if not name.startswith("twisted_broker.egg-info/")}
    made = {"PKG-INFO", "setup.cfg"}  # by setuptools
    assert held == {*ours(source), *made, "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"}


def test_uninstalling_leaves_twisted_as_it_was(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    python = install(tmp_path, wheel)
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "uninstall", "--quiet", "--yes", "twisted-broker", cwd=tmp_path)
    twistd = Path(sysconfig.get_path("scripts")) / "twistd"
    assert "broker" not in run(python, twistd, "--help", cwd=tmp_path)


def test_there_is_no_init_file_in_twisteds_packages() -> None:
    """Ours would overwrite Twisted's on install, and uninstalling would then break Twisted."""
    assert sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "twisted").rglob("*.py")) == [
        "twisted/plugins/broker_plugin.py"
    ]


def test_the_plugin_imports_nothing_of_the_broker(tmp_path: Path) -> None:
    """Every ``twistd --help`` imports it."""
    loaded = "import sys, twisted.plugins.broker_plugin; print([n for n in sys.modules if n.split('.')[0] == 'broker'])"
    assert run(sys.executable, "-c", loaded, cwd=tmp_path) == "[]\n"


@pytest.mark.parametrize("script", ["test", "server", "docs", "soak"])
def test_without_venv_the_scripts_name_the_command_that_mends_it(script: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "script", tmp_path / "script")
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / "python3"  # one that has neither venv nor ensurepip
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "script" / script], env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == f"{script}: Python's venv is missing; this mends it: apt-get install -y python3-venv\n"
    assert not (tmp_path / ".venv").exists()


def test_tox_runs_the_commands_of_the_scripts() -> None:
    # What looks for weaknesses is a program that the tests do without.
    sections = [name for name in TOX.sections() if name != "testenv:security"]
    commands = [line for name in sections for line in TOX[name].get("commands", "").split("\n") if line]
    scripts = (ROOT / "script/test").read_text() + (ROOT / "script/docs").read_text()
    said = {line.removeprefix("exec ").replace('"$@"', "{posargs}") for line in scripts.splitlines()}
    assert len(commands) >= 6
    assert not [command for command in commands if command not in said]


def test_tox_has_every_python_that_the_package_names_and_the_oldest_dependencies() -> None:
    pythons = re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', (ROOT / "setup.py").read_text())
    environments = set(re.split(r",\s*", TOX["tox"]["env_list"]))
    assert {"py311", "oldest", "lint", "types", "docs"} <= environments
    assert {name for name in environments if name.startswith("py")} == {f"py3{python}" for python in pythons}
    assert "--resolution lowest-direct" in TOX["testenv:oldest"]["commands_pre"]


def test_every_dependency_has_a_line_in_the_documentation() -> None:
    requires = run(
        sys.executable,
        "-c",
        "import importlib.metadata as m, re; "
        "print(*{re.match(r'[\\w.-]+', r)[0] for r in m.requires('twisted-broker')}, sep='\\n')",
        cwd=ROOT,
    )
    page = (ROOT / "docs/dependencies.rst").read_text()
    missing = [name for name in requires.split() if f"\n``{name}" not in page]
    assert not missing
