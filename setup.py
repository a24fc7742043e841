"""Packaging; what the tools need stands in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent
version = re.search(r'^__version__ = "(.+)"$', (here / "broker/__init__.py").read_text(), re.MULTILINE)
if version is None:
    raise SystemExit("setup.py: no __version__ in broker/__init__.py")

setup(
    name="twisted-broker",
    version=version[1],
    description="A queue and pub/sub server for memcache, STOMP and HTTP clients",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="the twisted-broker authors",
    license="MIT",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Framework :: Twisted",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: System :: Networking",
        "Typing :: Typed",
    ],
    # "." makes an editable install a plain .pth file with this folder; with the import hook that setuptools uses
    # otherwise, twisted.plugins does not find our plugin.
    package_dir={"": "."},
    # twisted.plugins is Twisted's package: we add one file to it and have no __init__.py of our own there.
    packages=[*find_packages(include=["broker", "broker.*"]), "twisted.plugins"],
    package_data={"broker": ["py.typed", "storage/schema/*.sql"]},
    python_requires=">=3.11",
    install_requires=[
        "Twisted[tls,websocket]>=26.10",
        "msgspec>=0.21",
        "prometheus_client>=0.23",
    ],
    extras_require={
        "cli": ["rich>=13.9"],
        "docs": [
            "furo>=2024.8",
            "sphinx>=7.4",
            "towncrier>=24.8",
        ],
        "test": [
            "aiomcache==0.8.2",
            "build>=1.2",
            "cloudevents==2.2.0",
            "hypothesis>=6.100",
            "import-linter==2.16",
            "lingerclient==1.0.0",
            "mypy==2.4.1",
            "mypy-zope==1.0.17",
            "opentelemetry-exporter-otlp-proto-http>=1.40",
            "opentelemetry-sdk>=1.40",
            "pylibmc==1.6.3; python_version < '3.12'",
            "pymemcache==4.0.0",
            "pytest==9.2.0",
            "pytest-twisted==1.14.3",
            "python-binary-memcached==0.33.0",
            "python-memcached==1.62",
            "ruff==0.17.5",
            "schemathesis==4.32.5",
            "setuptools>=77",
            "stomp.py==9.0.0",
            "treq>=24.9",
            "types-setuptools>=80",
        ],
        "trace": [
            "opentelemetry-exporter-otlp-proto-http>=1.40",
            "opentelemetry-sdk>=1.40",
        ],
    },
    entry_points={"console_scripts": ["broker=broker.cli:main"]},
    zip_safe=False,
)
