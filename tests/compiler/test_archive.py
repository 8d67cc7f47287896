"""A ``.pt2`` that would run code, leave its folder or unpack to more than it is, is refused."""

from __future__ import annotations

import io
import os
import pickle  # noqa: TID251  (payloads)
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from hostile import archives as hostile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowc.compiler import archive as archive_module
from lowc.compiler import container, pickles
from lowc.compiler.archive import Archive
from lowc.compiler.program import read_program
from lowc.errors import UserError

# Loads every archive as PyTorch does, one after another, in one process; prints nothing.
LOAD_ALL = """
import sys, torch
for path in sys.argv[1:]:
    try:
        torch.export.load(path).module()
    except Exception:
        pass
"""


@pytest.fixture(scope="session")
def attacks(plain_pt2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return _build(plain_pt2, tmp_path_factory.mktemp("attacks"), hostile.ATTACKS)


def _build(genuine: Path, folder: Path, names: Iterable[str]) -> dict[str, Path]:
    paths = {name: folder / f"{name}.pt2" for name in names}
    for name, path in paths.items():
        hostile.ATTACKS[name].build(genuine, path, _marker(path))
        assert not _marker(path).exists(), f"building {name} ran its payload"
    return paths


def _marker(path: Path) -> Path:
    return path.with_suffix(".marker")


@pytest.mark.parametrize("name", hostile.ATTACKS)
def test_refuses_and_runs_nothing(name: str, attacks: dict[str, Path]) -> None:
    attack, path = hostile.ATTACKS[name], attacks[name]
    with pytest.raises(UserError) as caught:
        read_program(Archive(path))
    assert attack.reason in str(caught.value)
    assert attack.blames in caught.value.where
    assert str(path) in caught.value.where
    assert not _marker(path).exists()


def test_the_attacks_are_real(plain_pt2: Path, tmp_path: Path) -> None:
    """PyTorch runs the payloads that lowc refuses."""
    paths = _build(plain_pt2, tmp_path, hostile.PROVEN)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD", None)
    command = [sys.executable, "-W", "ignore", "-c", LOAD_ALL, *map(str, paths.values())]
    subprocess.run(command, env=environment, capture_output=True, check=False, timeout=300)
    ran = {name for name, path in paths.items() if _marker(path).exists()}
    assert ran == hostile.PROVEN
