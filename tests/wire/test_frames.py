"""One class for each type of frame, and which of them belong to the control channel."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import get_args

import pytest

from tunnel.wire.codes import Code, FrameType
from tunnel.wire.frames import SEQUENCED, ControlFrame, Frame, Reset


def test_each_type_has_one_class() -> None:
    types = sorted(kind.type for kind in get_args(Frame))
    assert types == sorted(set(FrameType) - {FrameType.REPLACE})  # a subclass of Resume


def test_control_frames_are_sequenced_and_no_others() -> None:
    assert {kind.type for kind in get_args(ControlFrame)} == SEQUENCED


def test_a_frame_is_immutable() -> None:
    frame = Reset(1, Code.LOCAL_RESET, "why")
    with pytest.raises(FrozenInstanceError):
        frame.stream = 2  # type: ignore[misc]
