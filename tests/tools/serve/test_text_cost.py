"""A text model that was trained, as it is served from a folder."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lowc.passes.tiling import model_files, tokens
from lowc.tools.serve.batching import Batcher
from lowc.tools.serve.faults import Fault
from lowc.tools.serve.folder import Folder
from lowc.tools.serve.metrics import Metrics
from lowc.tools.tune import train_text
from safetensors.numpy import save
from serving import trained


def text(count: int) -> str:
    lines = "  %1 = arith.addf %0, %0 : vector<16xf32>\n" * count
    return f"func.func @f() {{\n{lines}  return\n}}"


def example(count: int) -> train_text.Example:
    read = tokens.tokenize(text(count), trained.MACHINE.unit)
    return train_text.Example(read, 2 * count + 5, 12 * count, 3, 0)


@pytest.mark.slow
def test_a_trained_text_model_knows_more_additions_from_fewer(tmp_path: Path) -> None:
    model, words = train_text.train(
        [example(count) for count in range(1, 60, 4)], epochs=30, tell=lambda _: None
    )
    folder = tmp_path / "mine" / "1"
    trained.write_cost_model(folder)
    loaded = model_files.read(folder)
    manifest = dataclasses.replace(loaded.manifest, vocabulary=tuple(words))
    files = {**loaded.files, manifest.text: save(dict(model.weights))}
    model_files.write(folder, manifest, files)

    served = Folder(tmp_path).load("mine-text", "1")
    asked = np.array([text(count).encode() for count in (6, 20, 48)], object)
    found = served.predict({"mlir": asked})["instructions"]
    np.testing.assert_allclose(found, [17, 45, 101], rtol=0.25)


@pytest.mark.parametrize(
    "line",
    [
        f"%0 = arith.addi {'9' * 400}, %1 : index",
        f"%0 = arith.constant {'9' * 400} : f32",
        f"%0 = arith.constant {'9' * 5000} : index",
        "%0 = arith.constant 1.2.3 : f32",
        "%0 = arith.constant 1.0e999 : f32",
    ],
)
def test_numbers_that_are_none_are_refused(tmp_path: Path, line: str) -> None:
    trained.write_cost_model(tmp_path / "mine" / "1")
    served = Folder(tmp_path).load("mine-text", "1")
    with pytest.raises(Fault) as refused:
        served.predict({"mlir": np.array([f"{line}\n  return".encode()], object)})
    assert refused.value.status == 400


def test_texts_never_run_in_the_event_loop(tmp_path: Path) -> None:
    """They are of any length; those of a request have a most together, not those of a batch."""
    trained.write_cost_model(tmp_path / "mine" / "1")
    served = Folder(tmp_path).load("mine-text", "1")
    queue = Batcher(served, most_rows=64, most_waiting=64, metrics=Metrics())
    small = {"mlir": np.array([text(1).encode()], object)}
    assert queue.at_once(small, 1) is None
    long = f"{text(1)}\n// {'x' * (200 << 10)}".encode()
    half = {"mlir": np.array([long] * 3, object)}

    async def both() -> list[Any]:
        two = queue.predict(half, 3), queue.predict(half, 3)
        return await asyncio.gather(*two, queue.predict(small, 1), return_exceptions=True)

    first, second, third = asyncio.run(both())
    for found in (first, second):
        assert found["instructions"].tolist() == [third["instructions"][0]] * 3
    with pytest.raises(Fault, match="at most 1048576 bytes"):
        served.predict({"mlir": np.array([long] * 6, object)})
