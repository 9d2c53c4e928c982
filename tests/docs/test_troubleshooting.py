"""docs/troubleshooting.md has every message, and none that is gone; a few are met for real."""

from __future__ import annotations

import re

import pytest

from .messages import ROOT, all_messages

PAGE = ROOT / "docs" / "troubleshooting.md"
pytestmark = pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="runs from a source tree only")


def test_page_has_the_messages_of_the_sources() -> None:
    lines = "\n".join(re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)).splitlines()
    listed = [line for line in lines if line]
    assert len(set(listed)) == len(listed)
    messages = all_messages()
    assert len(messages) > 100  # the sources were read
    assert sorted(messages - set(listed)) == [], "messages that the page lacks"
    assert sorted(set(listed) - messages) == [], "messages that are gone"


def test_messages_met_are_read_as_they_are() -> None:
    """The reading of the sources is held to messages that were really raised, of both languages."""
    import torch

    from fastblur import FusedMaxBlurPool
    from fastblur._backends import compiled

    raised = []
    with pytest.raises(ValueError, match="padding must") as python:
        FusedMaxBlurPool(3, 2, 2)
    raised.append(str(python.value))
    if compiled.C is not None:
        with pytest.raises(ValueError, match="taps_h") as cpp:
            torch.ops.fastblur.max_blur_pool_forward(
                torch.zeros(1, 1, 9, 9), [2, 2], [2, 2], [0, 0], [], [1.0], [0, 0, 0, 0],
                "reflect", False, False, True,
            )  # fmt: skip
        raised.append(str(cpp.value).splitlines()[0])
    for message in raised:
        patterns = [re.escape(known).replace("…", ".+") for known in all_messages()]
        assert any(re.fullmatch(pattern, message) for pattern in patterns), message
