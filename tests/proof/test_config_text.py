"""Sections of configurations are valid TOML, and keys without a value are omitted."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tunnel.proof.config_text import config_text, section


def test_a_configuration_has_the_given_sections() -> None:
    text = config_text(
        {"name": "hosta", "control": Path('/run/"x"')},
        {"ca": "ca.pem", "crl": None},
        peers=[{"name": "hostb", "egress": ["tcp:127.0.0.1:7"]}, {"name": "hostc", "egress": []}],
        ingresses=[{"peer": "hostb", "users": ("root",)}],
    )
    assert tomllib.loads(text) == {
        "host": {"name": "hosta", "control": '/run/"x"'},
        "tls": {"ca": "ca.pem"},
        "transport": {},
        "peer": [{"name": "hostb", "egress": ["tcp:127.0.0.1:7"]}, {"name": "hostc", "egress": []}],
        "ingress": [{"peer": "hostb", "users": ["root"]}],
    }


def test_sections_can_be_added() -> None:
    text = config_text({}, {}, {"lanes": 2}) + section("[[peer]]", {"name": "hostb"})
    assert tomllib.loads(text) == {
        "host": {},
        "tls": {},
        "transport": {"lanes": 2},
        "peer": [{"name": "hostb"}],
    }
