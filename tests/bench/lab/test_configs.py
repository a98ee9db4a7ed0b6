"""The configurations are valid for mtunnel."""

from __future__ import annotations

import tomllib

from tunnel.bench.lab.configs import CONTROL, MIGRATION_PORTS, LabConfig, LabIngress, LabPeer
from tunnel.bench.lab.host_plan import LabHostPlan


def test_a_config_contains_the_given_values(plans: tuple[LabHostPlan, LabHostPlan]) -> None:
    a, b = plans
    entry = LabIngress("hostb", "tcp:127.0.1.2:49152", target="tcp:127.0.0.1:7", users=["root"])
    text = LabConfig(a, [LabPeer.of(b, ["tcp:127.0.0.1:16509"])], [entry], transport={"lanes": 1}).text()
    assert tomllib.loads(text) == {
        "host": {"name": "hosta", "listen": "0.0.0.0:16515", "control": CONTROL},
        "tls": {"ca": "ca.pem", "cert": "hosta.pem", "key": "hosta.key"},
        "transport": {"lanes": 1},
        "peer": [{"name": "hostb", "address": "192.0.2.2:16515", "egress": ["tcp:127.0.0.1:16509"]}],
        "ingress": [
            {
                "peer": "hostb",
                "listen": "tcp:127.0.1.2:49152",
                "target": "tcp:127.0.0.1:7",
                "users": ["root"],
            }
        ],
    }


def test_omitted_keys_are_left_to_mtunnel(plans: tuple[LabHostPlan, LabHostPlan]) -> None:
    found = tomllib.loads(
        LabConfig(plans[0], [LabPeer.of(plans[1])], [LabIngress("hostb", "unix:/run/x")]).text()
    )
    assert found["ingress"] == [{"peer": "hostb", "listen": "unix:/run/x"}]
    assert found["peer"][0]["egress"] == [MIGRATION_PORTS]


def test_changes_override_the_labs_settings(plans: tuple[LabHostPlan, LabHostPlan]) -> None:
    config = LabConfig(plans[0], [], host={"listen": "198.51.100.1:16515"}, tls={"crl": "crl.pem"})
    found = tomllib.loads(config.text())
    assert found["host"]["listen"] == "198.51.100.1:16515"
    assert (found["host"]["name"], found["tls"]["ca"], found["tls"]["crl"]) == ("hosta", "ca.pem", "crl.pem")
