"""The schema of ``status``: what the daemon reports conforms to it, and keys that programs read stay."""

from __future__ import annotations

import json
from types import NoneType, UnionType
from typing import NotRequired, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from tests.support.links import Pair
from tunnel.relay import status_schema as schema
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.link_status import Part, group_facts, link_facts

STABLE = {
    schema.IncidentStatus: "at since count what reason code",
    schema.RotationStatus: "records after rotations most_records last",
    schema.LaneStatus: "epoch kind cipher local remote age session bytes_sent bytes_received",
    schema.StreamStatus: "stream target local bytes_from_local bytes_to_local backlog session",
    schema.LinkStatus: "peer state since initiator round_trip kept resumes rotation streams_opened "
    "streams_vacant lanes streams incidents sessions",
    schema.IngressStatus: "listen peer port target redirect displaced accepted refused",
    schema.WorkerStatus: "worker state sessions streams",
    schema.CertificateStatus: "names not_after ends_first days_left warnings problem",
    schema.DaemonStatus: "host version pid uptime draining listen listen_configured rejected certificate "
    "lane workers links ingresses",
    schema.ProbeAnswer: "target verdict code reason",
}


def misfits(value: object, kind: object, where: str = "") -> list[str]:
    """Return the places where a value read from JSON is not of the type ``kind``."""
    if is_typeddict(kind):
        if not isinstance(value, dict):
            return [f"{where} is {value!r}"]
        hints = get_type_hints(kind, include_extras=True)
        optional = {key for key, hint in hints.items() if get_origin(hint) is NotRequired}
        wrong = [
            f"{where}.{key}" for key in (value.keys() - hints) | (hints.keys() - value.keys() - optional)
        ]
        found = ((key, each, hints[key]) for key, each in value.items() if key in hints)
        return wrong + [text for key, each, hint in found for text in misfits(each, hint, f"{where}.{key}")]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is NotRequired:
        return misfits(value, arguments[0], where)
    if origin is UnionType:
        return min((misfits(value, each, where) for each in arguments), key=len)
    if origin is list and isinstance(value, list):
        return [text for n, each in enumerate(value) for text in misfits(each, arguments[0], f"{where}[{n}]")]
    return [] if isinstance(value, NoneType if kind is None else kind) else [f"{where} is {value!r}"]  # type: ignore[arg-type]  # a class


async def test_the_status_of_a_link_conforms() -> None:
    pair = await Pair().up()
    await pair.stream()
    pair.a.note(IncidentKind.CALLER_REFUSED, "user bin may not use this ingress", uid=2)
    facts = link_facts(pair.a)
    group = group_facts(
        [Part("standing", 0, facts), Part("ours 1", 1, facts)], {"resumes": 0, "streams_opened": 0}, 9
    )
    for each in (facts, group):
        assert misfits(json.loads(json.dumps(each)), schema.LinkStatus) == []
    del facts["resumes"]  # type: ignore[misc]  # so that it no longer conforms
    assert misfits(facts, schema.LinkStatus) == [".resumes"]
    pair.close()


@pytest.mark.parametrize(("kind", "keys"), STABLE.items())
def test_keys_are_stable(kind: type, keys: str) -> None:
    assert set(keys.split()) <= set(get_type_hints(kind))
