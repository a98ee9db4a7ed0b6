"""The name of the package, and the command that installs what is missing."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tunnel import distribution

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OTHERS_PACKAGES = re.compile(r"pip3? install (-U )?['\"]?(mtunnel|tunnel)\b(?!-)")


class Installed:
    """A distribution with ``url`` in its direct_url.json; None: installed from an index."""

    def __init__(self, url: str | None) -> None:
        self._record = json.dumps({"url": url}) if url else None

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._record


def installed_from(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(url))


def test_name_and_version_are_those_of_the_project() -> None:
    assert PROJECT["name"] == distribution.NAME
    assert PROJECT["version"] == distribution.version()
    assert PROJECT["scripts"].keys() == {"mtunnel"}


def test_the_command_names_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "a checkout"
    checkout.mkdir()
    (checkout / "pyproject.toml").touch()
    installed_from(checkout.as_uri(), monkeypatch)
    expected = f"{sys.executable} -m pip install '{checkout}[qemu]'"
    assert distribution.install_command("qemu") == expected


@pytest.mark.parametrize("url", [None, "file:///gone", "git+ssh://example/x"])
def test_without_a_checkout_the_command_names_one(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_from(url, monkeypatch)
    expected = f"{sys.executable} -m pip install '.[libvirt]'   (in a checkout of mtunnel)"
    assert distribution.install_command("libvirt") == expected


def test_nothing_suggests_to_install_another_projects_package() -> None:
    texts = [
        path
        for folder in ("tunnel", "cli", "certs", "bench", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".md"}
    ]
    assert len(texts) > 100
    texts += [ROOT / "README.md", ROOT / "run", ROOT / "CHANGELOG.md"]
    assert not [str(path) for path in texts if OTHERS_PACKAGES.search(path.read_text())]


@pytest.mark.parametrize(
    "text", ["pip install mtunnel", "pip install 'mtunnel[libvirt]'", "pip install tunnel"]
)
def test_such_a_suggestion_would_be_found(text: str) -> None:
    assert OTHERS_PACKAGES.search(text)
    assert not OTHERS_PACKAGES.search(f"pip install {distribution.NAME}")
