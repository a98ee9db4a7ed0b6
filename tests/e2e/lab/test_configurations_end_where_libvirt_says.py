"""Where a guest is defined afterwards: persistent or transient, with --persistent and --undefinesource."""

from __future__ import annotations

import pytest

from tests.support.migrations import arrived, link, migrate
from tunnel.bench.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow]

PERSIST, UNDEFINE = "--persistent", "--undefinesource"


def is_persistent(lab: Lab) -> bool:
    """Return whether the destination keeps the guest's configuration once it is shut off."""
    info = lab.b.virsh("dominfo", "web1").stdout
    (line,) = (line for line in info.splitlines() if line.startswith("Persistent:"))
    return line.split()[1] == "yes"


@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "transient"])
@pytest.mark.parametrize("options", [(), (PERSIST,), (UNDEFINE,), (PERSIST, UNDEFINE)], ids=" ".join)
def test_guest_is_undefined_and_persisted_as_requested(
    lab: Lab, persistent: bool, options: tuple[str, ...]
) -> None:
    guest = lab.start_guest(persistent=persistent)
    link(lab)
    migrate(lab, "--p2p", *options)
    arrived(lab, guest, left="shut off" if persistent and UNDEFINE not in options else "absent")
    assert is_persistent(lab) is (PERSIST in options)
    lab.b.virsh("destroy", "web1")
    assert lab.b.state("web1") == ("shut off" if PERSIST in options else "absent")


def test_existing_configuration_at_the_destination_stays(lab: Lab) -> None:
    guest = lab.start_guest()
    configuration = lab.a.virsh("dumpxml", "--inactive", "web1").stdout
    lab.b.run(["virsh", "define", "/dev/stdin"], input=configuration)
    link(lab)
    migrate(lab, "--p2p")
    arrived(lab, guest)
    assert is_persistent(lab)
