"""With several processes, tests that share what they compile run in one of them."""

from __future__ import annotations

import pytest


def test_the_scheduler_knows_the_group(request: pytest.FixtureRequest) -> None:
    """pytest-xdist reads the marks before most hooks of ours run, and says nothing of missing ones."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("this is the only process")
    assert request.node.nodeid.endswith("@tests/test_groups.py 0")
