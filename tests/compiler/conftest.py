"""Small genuine archives, exported once for all tests of the frontend."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archives")


@pytest.fixture(scope="session")
def plain_pt2(archives: Path) -> Path:
    """Input ``x`` of 2x4, a layer ``fc`` of 4 to 3, a constant ``scale``, a buffer ``shift``."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 3)
            self.register_buffer("shift", torch.arange(3.0), persistent=False)
            self.scale = torch.tensor([1.0, 2.0, 3.0])

        def forward(self, x):
            return self.fc(x) * self.scale + self.shift

    torch.manual_seed(0)
    return _save(torch.export.export(Plain(), (torch.ones(2, 4),)), archives / "plain.pt2")


@pytest.fixture(scope="session")
def dynamic_pt2(archives: Path) -> Path:
    """Two inputs with dynamic rows, whose result has a derived size."""
    import torch

    class Dynamic(torch.nn.Module):
        def forward(self, x, y):
            joined = torch.cat([x, y])
            return joined.reshape(-1), joined[: x.shape[0] // 2 + 1]

    rows, more = torch.export.Dim("rows", min=2, max=64), torch.export.Dim("more", min=3, max=9)
    shapes = {"x": {0: rows}, "y": {0: more}}
    program = torch.export.export(
        Dynamic(), (torch.ones(4, 4), torch.ones(5, 4)), dynamic_shapes=shapes
    )
    return _save(program, archives / "dynamic.pt2")


def _save(program, path: Path) -> Path:
    import torch

    torch.export.save(program, path)
    return path
