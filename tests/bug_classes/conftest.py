from __future__ import annotations

import pytest

from .runners import why_skipped


@pytest.fixture(autouse=True)
def _skips(request: pytest.FixtureRequest) -> None:
    """Skips what a target or backend cannot show, by the one list of that."""
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    reason = why_skipped(params.get("target", params.get("backend")), request.node.name)
    if reason is not None:
        pytest.skip(reason)
