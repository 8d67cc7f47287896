"""Models and a server that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lightgbm
import pytest
from serving import trained
from serving.server import Server, serving


@pytest.fixture(scope="package")
def booster() -> lightgbm.Booster:
    """Return version 1 of the model `times`."""
    return trained.train()


@pytest.fixture(scope="package")
def newer() -> lightgbm.Booster:
    """Return version 2 of the model `times`."""
    return trained.train(30, 15, 2)


@pytest.fixture(scope="package")
def repository(
    booster: lightgbm.Booster, newer: lightgbm.Booster, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a folder with `times`, in two versions, `other`, and the cost model `tiles`."""
    folder = tmp_path_factory.mktemp("repository")
    trained.write(booster, folder / "times" / "1")
    trained.write(newer, folder / "times" / "2")
    trained.write(booster, folder / "other" / "1")
    trained.write_cost_model(folder / "tiles" / "1")
    return folder


@pytest.fixture(scope="package")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server with one worker that lets clients load and unload."""
    options = ["--model-repository", repository, "--model-control", "explicit"]
    with serving(tmp_path_factory.mktemp("server"), *options) as started:
        yield started
