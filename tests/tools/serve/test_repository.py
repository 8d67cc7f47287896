"""Models that are loaded: one that is no good takes no other with it, and their number is told."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lowc.errors import UserError
from lowc.tools.serve import kinds
from lowc.tools.serve.repository import Repository
from serving.server import Server


class Some:
    """A source of one good model and one that nobody foresaw."""

    def versions(self) -> dict[str, list[str]]:
        return {"bad": ["1"], "good": ["1"]}

    def load(self, name: str, version: str) -> Any:
        if name == "bad":
            raise RuntimeError("no luck")
        return SimpleNamespace(name=name, version=version)


def test_a_model_that_fails_is_listed_with_its_reason() -> None:
    counts: list[int] = []
    repository = Repository([Some()], lambda _: SimpleNamespace(), tell=counts.append)  # type: ignore[arg-type, return-value]
    repository.load_all()
    assert repository.names == ["good"]
    bad, good = repository.index()
    assert (bad["state"], good["state"]) == ("UNAVAILABLE", "READY")
    assert bad["reason"] == "model 'bad' 1: RuntimeError: no luck"
    assert counts[-1] == 1


def test_a_model_that_is_read_again_is_never_gone() -> None:
    """Who looks while another thread reloads and unloads sees one state or the other."""
    repository = Repository([Some()], lambda _: SimpleNamespace(), is_explicit=True)  # type: ignore[arg-type, return-value]
    repository.load_all()
    end = threading.Event()
    seen: list[list[Any]] = []

    def look() -> None:
        while not end.is_set():
            seen.append(repository.newest())
            repository.find("good")

    async def change() -> None:
        for _ in range(200):
            await asyncio.gather(*(repository.load("good") for _ in range(3)))

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        asyncio.run(change())
        end.set()
        looking.result()
    assert {len(one) for one in seen} == {1}
    asyncio.run(repository.unload("good"))
    assert repository.newest() == [] and repository.index()[1]["reason"] == "unloaded"


def test_a_pipe_for_a_model_is_not_waited_for(repository: Path, tmp_path: Path) -> None:
    for name in ("manifest.json", "model.txt"):
        folder = tmp_path / name / "1"
        shutil.copytree(repository / "times" / "1", folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(UserError, match="no plain file"):
            kinds.load(folder, name, "1")


def test_the_figure_of_ready_models_follows(server: Server) -> None:
    def figure() -> float:
        lines = server.ask("/metrics")[1].decode().splitlines()
        return float(
            next(one for one in lines if one.startswith("lowc_serve_models_ready ")).split()[1]
        )

    before = figure()
    assert server.ask("/v2/repository/models/other/unload", {})[0] == 200
    assert figure() == before - 1
    assert server.ask("/v2/repository/models/other/load", {})[0] == 200
    assert figure() == before


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"name": "other"}, 400, "model 'times' has no input 'other'"),
        ({"datatype": "FP32"}, 400, "takes FP64"),
        ({"shape": [3, 2]}, 400, "takes [-1, 6]"),
        ({"shape": [65_537, 6]}, 413, "65537 rows are more than the 65536 allowed"),
    ],
)
def test_what_is_declared_is_refused_before_elements_are_read(
    server: Server, changes: dict[str, Any], status: int, said: str
) -> None:
    tensor = {"name": "features", "datatype": "FP64", "shape": [1, 6], "data": ["none"], **changes}
    found = server.ask("/v2/models/times/infer", {"inputs": [tensor]})
    assert found[0] == status
    assert said in found[1]["error"]
