"""A small LightGBM model, trained here on the least times that sizes allow; no such model ships."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import lightgbm
import numpy as np
from lowc.compiler.backend import vector_unit
from lowc.compiler.target import load_target
from lowc.passes.tiling import features, model_files, space, text_model
from lowc.passes.tiling.problem import Problem
from lowc.passes.tiling.record import Machine
from safetensors.numpy import save

FEATURES = ["log_m", "log_n", "log_k", "log_tile_m", "log_tile_n", "waste"]
_BANDWIDTH, _RATE = 20e9, 100e9


def rows(count: int, seed: int = 0) -> np.ndarray:
    """Return features of random products and tiles: (count, 6), float64."""
    chosen = np.random.default_rng(seed)
    m, n, k = (2.0 ** chosen.uniform(0, 12, count) for _ in range(3))
    tile_m, tile_n = (2.0 ** chosen.integers(0, 7, count) for _ in range(2))
    waste = (np.ceil(m / tile_m) * tile_m / m) * (np.ceil(n / tile_n) * tile_n / n)
    return np.stack([*map(np.log, (m, n, k, tile_m, tile_n)), waste], axis=1)


def seconds(features: np.ndarray) -> np.ndarray:
    """Return the roofline's time: bytes or products, whichever takes longer, with the waste."""
    m, n, k, tile_m, tile_n = np.exp(features[:, :5]).T
    moved = 4 * (m * k * np.ceil(n / (8 * tile_n)) + k * n * np.ceil(m / (8 * tile_m)) + m * n)
    return np.maximum(moved / _BANDWIDTH, m * n * k * features[:, 5] / _RATE)


def train(trees: int = 60, leaves: int = 31, seed: int = 1) -> lightgbm.Booster:
    """Return a model of the logarithm of :func:`seconds`."""
    x = rows(4000, seed)
    options = {
        "objective": "regression", "num_leaves": leaves, "verbose": -1, "seed": seed,
        "num_threads": 1, "deterministic": True,
    }  # fmt: skip
    data = lightgbm.Dataset(x, np.log(seconds(x)), feature_name=FEATURES)
    return lightgbm.train(options, data, trees)


def write(booster: lightgbm.Booster, folder: Path) -> None:
    """Write a version of a model as the server's repository has it."""
    folder.mkdir(parents=True)
    text = booster.model_to_string()
    (folder / "model.txt").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"features": FEATURES, "sha256": digest}))


# Of this machine's unit, which is what MLIR is read for.
MACHINE = Machine(
    "a processor of the tests", vector_unit(load_target("cpu")), (), 2, (32 << 10, 1 << 20, 32 << 20), 20e9, 150e9
)  # fmt: skip
_FORMS: tuple[dict[str, object], ...] = (
    {"form": "f32"}, {"form": "lmul"}, {"form": "w4a16", "weight": "i4", "group": 32},
    {"form": "w4a8", "weight": "i4", "group": 32, "own_batch": True},
)  # fmt: skip
_SHAPES = ((1, 1, 256, 256), (1, 16, 384, 128), (1, 128, 1536, 384), (4, 64, 64, 32))


def write_cost_model(folder: Path, rounds: int = 20) -> None:
    """Write a small cost model: what waste costs, learnt over the features' own estimate."""
    problems = [
        Problem(lowering="kernel", unit=MACHINE.unit, batch=b, m=m, n=n, k=k, **form)
        for form in _FORMS for b, m, n, k in _SHAPES
    ]  # fmt: skip
    x = np.concatenate([features.matrix(one, space.candidates(one), MACHINE) for one in problems])
    column = dict(zip(features.NAMES, x.T, strict=True))
    y = (
        0.4 * (column["column_waste"] - 1)
        + 0.2 * column["loads_per_product"]
        - 0.05 * column["rows"]
    )
    options = {"num_leaves": 15, "verbose": -1, "num_threads": 1, "deterministic": True}
    files = {}
    for name, part in (("time-0", x[::2]), ("time-1", x[1::2])):
        target = y[::2] if name == "time-0" else y[1::2]
        data = lightgbm.Dataset(part, target, feature_name=list(features.NAMES))
        text = lightgbm.train(options, data, rounds).model_to_string()
        files[f"{name}.txt"] = text.encode()
    # Of all tiles of a product the same: it sees its size alone.
    sizes = np.where(np.arange(x.shape[1]) == features.NAMES.index("log_products"), x, 0)
    data = lightgbm.Dataset(sizes, column["log_products"] / 100, feature_name=list(features.NAMES))
    files["level.txt"] = lightgbm.train(options, data, rounds).model_to_string().encode()
    tokens = ["<unk>", "n1", "n2", "arith.addf", "f32"]
    formulas = {"lmul/kernel": (1.0, 1.0, *[0.5] * (features.COMPONENTS - 2))}
    manifest = model_files.Manifest(
        "tests", MACHINE, ("time-0.txt", "time-1.txt"), ("level.txt",), (), model_files.Numbers(),
        formulas, "text.safetensors",
        tuple(tokens),
    )  # fmt: skip
    files["text.safetensors"] = _untrained_text_model(len(tokens))
    model_files.write(folder, manifest, files)


def _untrained_text_model(tokens: int) -> bytes:
    """Return a network of random weights: what it says is checked against itself, not the truth."""
    sizes = {"tokens": tokens, "width": 8, "hidden": 8, "window": 3, "inner": 8,
             "sums": text_model.SUMS, "outputs": len(text_model.OUTPUTS)}  # fmt: skip
    sizes["features"] = 2 * sizes["hidden"] + text_model.SUMS + 3
    chosen = np.random.default_rng(0)
    return save({
        name: chosen.normal(0, 0.3, [sizes[dim] for dim in dims]).astype(np.float32)
        for name, dims in text_model.SHAPES.items()
    })  # fmt: skip
