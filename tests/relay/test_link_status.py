"""Status data for programs: every key, with the right value."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

from tests.support.links import Pair, make_link, rejoin
from tests.support.waiting import until
from tunnel.relay.address import RedirectAddress, UnixAddress, parse_target
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.ingress import Ingress, IngressPlan
from tunnel.relay.link_status import Part, group_facts, ingress_facts, link_facts
from tunnel.relay.status_schema import LinkStatus


async def test_link_that_is_down() -> None:
    link = make_link("hosta", "hostb")
    link.note(IncidentKind.CANNOT_CONNECT, "nobody is there")
    facts = link_facts(link)
    [incident] = facts["incidents"]
    assert incident["at"] == incident["since"]
    assert (incident["kind"], incident["reason"]) == ("CANNOT_CONNECT", "nobody is there")
    assert facts["since"].endswith("+00:00")
    expected: LinkStatus = {
        "peer": "hostb",
        "state": "down",
        "since": facts["since"],
        "incidents": [incident],
        "initiator": None,
        "round_trip": None,
        "kept": 0,
        "resumes": 0,
        "rotation": {"records": 4194304, "after": 86400.0, "rotations": 0, "most_records": 0, "last": None},
        "streams_opened": 0,
        "streams_vacant": None,
        "lanes": [],
        "streams": [],
    }
    assert facts == expected


async def test_link_whose_lane_was_replaced() -> None:
    pair = await Pair().up()
    pair.a.rotation.rotate("certificates renewed")
    rejoin(pair.a, pair.b, 1)
    await until(lambda: 2 in pair.a.lanes, "for the new lane")
    rotation = link_facts(pair.a)["rotation"]
    last = rotation["last"]
    assert last is not None
    assert last["at"].endswith("+00:00")
    assert (rotation["rotations"], last["lane"], last["reason"]) == (1, 1, "certificates renewed")
    assert json.loads(json.dumps(link_facts(pair.b)))["rotation"]["records"] == 4194304
    pair.close()


async def test_link_with_a_stream() -> None:
    pair = await Pair().up()
    caller, called = await pair.stream()
    caller.send(b"question")
    loop = asyncio.get_running_loop()
    assert await asyncio.wait_for(loop.sock_recv(called, 100), 60) == b"question"
    called.send(b"answer")
    assert await asyncio.wait_for(loop.sock_recv(caller, 100), 60) == b"answer"
    facts = link_facts(pair.a)
    assert (facts["state"], facts["initiator"], facts["streams_opened"]) == ("up", True, 1)
    [lane] = facts["lanes"]
    assert lane["age"] >= 0
    assert lane == {
        "age": lane["age"],
        "epoch": 1,
        "kind": "userspace",
        "cipher": "none",
        "local": "unnamed socket",
        "remote": "unnamed socket",
        "bytes_sent": pair.lane.bytes_sent,
        "bytes_received": pair.lane.bytes_received,
        "records_sent": 0,
        "records_received": 0,
    }
    host, port = caller.getsockname()
    assert facts["streams"] == [
        {
            "stream": 1,
            "target": "tcp:127.0.0.1:49152",
            "local": f"{host}:{port}",
            "bytes_from_local": 8,
            "bytes_to_local": 6,
            "backlog": 0,
        }
    ]
    [there] = link_facts(pair.b)["streams"]
    assert (there["bytes_from_local"], there["bytes_to_local"]) == (6, 8)
    assert link_facts(pair.b)["initiator"] is False
    json.dumps(facts)
    pair.close()


async def test_ingress(tmp: Path) -> None:
    plan = IngressPlan(UnixAddress(f"{tmp}/entry"), parse_target("tcp:127.0.0.1:49152"), {os.geteuid() + 1})
    ingress = Ingress(plan, make_link("hosta", "hostb"))
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(f"{tmp}/entry")
        await until(lambda: ingress.refused, "for the refusal")
    assert ingress_facts(ingress) == {
        "listen": f"unix:{tmp}/entry",
        "peer": "hostb",
        "port": None,
        "target": "tcp:127.0.0.1:49152",
        "redirect": None,
        "displaced": False,
        "accepted": 0,
        "refused": 1,
    }
    (tmp / "entry").unlink()
    assert ingress_facts(ingress)["displaced"]
    await ingress.close()


async def test_redirect_reports_the_bound_port() -> None:
    plan = IngressPlan(RedirectAddress("127.0.1.2", 49152, 49215), None, {os.geteuid()})
    ingress = Ingress(plan, make_link("hosta", "hostb"))
    facts = ingress_facts(ingress)
    assert not facts["displaced"]
    assert (facts["listen"], facts["target"]) == ("redirect:127.0.1.2:49152-49215", None)
    socket.create_connection(("127.0.0.1", facts["port"]), 10).close()
    await ingress.close()


async def test_sessions_are_reported_as_one_link() -> None:
    pair = await Pair().up()
    pair.a.rotations, pair.a.rotation.most_records = 2, 7
    await pair.stream()
    facts = link_facts(pair.a)
    parts = [Part("standing", 0, facts), Part("ours 1", 2, facts)]
    found = group_facts(parts, {"resumes": 3, "streams_opened": 5}, 17)
    assert found.keys() == facts.keys() | {"sessions"}
    assert (found["resumes"], found["streams_opened"], found["streams_vacant"]) == (3, 7, 17)
    assert (found["rotation"]["rotations"], found["rotation"]["most_records"]) == (4, 7)
    assert [lane["session"] for lane in found["lanes"]] == ["standing", "ours 1"]
    assert [stream["session"] for stream in found["streams"]] == ["standing", "ours 1"]
    assert found["sessions"] == [
        {"session": "standing", "worker": 0, "state": "up", "lanes": 1, "streams": 1},
        {"session": "ours 1", "worker": 2, "state": "up", "lanes": 1, "streams": 1},
    ]
    pair.close()


async def test_single_session_is_reported_unchanged() -> None:
    facts = link_facts(make_link("hosta", "hostb"))
    found = group_facts([Part("standing", 0, facts)], {"resumes": 0}, None)
    assert {key: value for key, value in found.items() if key != "sessions"} == facts
