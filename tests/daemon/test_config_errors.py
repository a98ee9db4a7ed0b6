"""Validation errors as messages for the operator."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, field_validator

from tunnel.daemon.config_errors import Problem, problems_of

KNOWN = {
    "": ["host", "peer", "ingress"],
    "host": ["name", "size"],
    "peer": ["name", "egress"],
    "ingress": ["peer"],
}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Entry(Strict):
    name: str = ""
    peer: str = ""
    live: StrictBool = True
    egress: tuple[int, ...] = ()
    users: frozenset[int] = Field(frozenset({0}), min_length=1)


class Host(Strict):
    name: str
    size: int = Field(1, le=16)

    @field_validator("name")
    @classmethod
    def refuse(cls, name: str) -> str:
        if name == "bad":
            raise ValueError("'bad' is no name")
        return name


class File(Strict):
    host: Host
    peer: tuple[Entry, ...] = ()
    ingress: tuple[Entry, ...] = ()


def problems(**tables: Any) -> list[Problem]:
    with pytest.raises(ValidationError) as caught:
        File.model_validate(tables)
    return problems_of(caught.value, tables, KNOWN)


def test_keys_are_written_as_in_the_file() -> None:
    assert [key for key, _ in problems(host={"name": 1}, peer=[{}, {"egress": [1, "x"]}])] == [
        "host.name",
        "peer[1].egress[1]",
    ]


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({}, ("host", "is missing")),
        ({"host": 3}, ("host", "must be a table")),
        ({"host": {}}, ("host.name", "is missing")),
        ({"host": {"name": "bad"}}, ("host.name", "'bad' is no name")),
        ({"host": {"name": "a", "size": 17}}, ("host.size", "must be less than or equal to 16")),
        ({"host": {"name": "a", "nmae": 1}}, ("host.nmae", "unknown key: did you mean 'name'?")),
        ({"host": {"name": "a", "zzz": 1}}, ("host.zzz", "unknown key: expected one of name, size")),
        (
            {"host": {"name": "a", "lane_threads": True}},
            ("host.lane_threads", "is no longer supported: use `workers` to run on several CPUs"),
        ),
        ({"host": {"name": "a"}, "peers": []}, ("peers", "unknown key: did you mean 'peer'?")),
        ({"host": {"name": "a"}, "peer": {}}, ("peer", "must be a list in square brackets")),
        ({"host": {"name": "a"}, "peer": [1]}, ("peer[0]", "must be a table")),
        (
            {"host": {"name": "a"}, "peer": [{"users": []}]},
            ("peer[0].users", "must not be empty: no user could connect"),
        ),
        (
            {"host": {"name": "a"}, "peer": [{"live": "true"}]},
            ("peer[0].live", "must be true or false, without quotes"),
        ),
    ],
)
def test_messages_contain_the_remedy(tables: dict[str, Any], problem: Problem) -> None:
    assert problems(**tables) == [problem]


def test_entries_are_identified_by_their_peer() -> None:
    found = problems(
        host={"name": "a"},
        peer=[{"name": "hostb", "egress": 1}, {"name": 5, "egress": 1}],
        ingress=[{"peer": "hostc", "egress": 1}, {"peer": 5}],
    )
    of_list = "must be a list in square brackets"
    assert ("peer[0].egress", f"{of_list} (peer hostb)") in found
    assert ("peer[1].egress", of_list) in found
    assert ("ingress[0].egress", f"{of_list} (peer hostc)") in found
    assert {key for key, text in found if "(peer" not in text} == {
        "peer[1].name",
        "peer[1].egress",
        "ingress[1].peer",
    }
