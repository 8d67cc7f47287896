"""Modules that the tests of this folder share; each is compiled once per session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lowc.runtime.manifest import Leaf
from tiny.artifacts import LEAF, archive, build, manifest
from tiny.sources import ADD, ADD_INPUTS, COUNTER, DYNAMIC, NESTED, SCALE, WEIGHTS


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("modules")


@pytest.fixture(scope="session")
def add(folder: Path) -> Path:
    about = manifest(ADD_INPUTS, [Leaf("", (2, 3), "float32")], report={"matmuls": []})
    return build(folder / "add.vmfb", ADD, about)


@pytest.fixture(scope="session")
def scale(folder: Path) -> Path:
    parameters = archive(folder / "scale.irpa", WEIGHTS)
    leaf = Leaf("x", (4,), "float32")
    outputs = [Leaf("0", (4,), "float32"), Leaf("1", (4,), "float32")]
    return build(folder / "scale.vmfb", SCALE, manifest([leaf], outputs, parameters=parameters))


@pytest.fixture(scope="session")
def counter(folder: Path) -> Path:
    leaf = Leaf("x", (4,), "float32")
    outputs = [Leaf("0", (4,), "float32"), Leaf("1", (4,), "float32")]
    return build(folder / "counter.vmfb", COUNTER, manifest([leaf], outputs, has_state=True))


@pytest.fixture(scope="session")
def dynamic(folder: Path) -> Path:
    """ids and mask [batch, s0], wide [2*s0 + 1]."""
    inputs = [
        Leaf("ids", ("batch", "s0"), "int64"),
        Leaf("mask", ("batch", "s0"), "int64"),
        Leaf("wide", ("2*s0 + 1",), "float32"),
    ]
    ranges = {"batch": (1, 4), "s0": (2, None)}
    output = Leaf("", ("batch", "s0"), "int64")
    return build(folder / "dynamic.vmfb", DYNAMIC, manifest(inputs, [output], ranges=ranges))


@pytest.fixture(scope="session")
def nested(folder: Path) -> Path:
    """pair=(a, {"b": b}), flag=literal, *, cache=object with c and d, scale=literal 0.5."""
    inputs = [
        Leaf("pair.0", (2,), "float32"),
        Leaf("pair.1.b", (2,), "float32"),
        Leaf("flag", literal=True, value=True),
        Leaf("cache.c", (2,), "float32"),
        Leaf("cache.d", (2,), "float32"),
        Leaf("scale", literal=True, value=0.5),
    ]
    outputs = [
        Leaf("sum", (2,), "float32"),
        Leaf("rest.0", (2,), "float32"),
        Leaf("rest.1", literal=True, value=7),
        Leaf("product", (2,), "float32"),
    ]
    dictionary = {"type": "dict", "keys": ["b"], "children": [LEAF]}
    pair = {"type": "tuple", "children": [LEAF, dictionary]}
    cache = {"type": "object", "name": "m.Cache", "keys": ["c", "d"], "children": [LEAF, LEAF]}
    about = manifest(
        inputs,
        outputs,
        args_tree={"type": "tuple", "children": [pair, LEAF]},
        kwargs_tree={"type": "dict", "keys": ["cache", "scale"], "children": [cache, LEAF]},
        out_tree={
            "type": "object",
            "name": "m.Out",
            "keys": ["sum", "rest", "product"],
            "children": [LEAF, {"type": "list", "children": [LEAF, LEAF]}, LEAF],
        },
        argument_names=("pair", "flag", "cache", "scale"),
    )
    return build(folder / "nested.vmfb", NESTED, about)


@pytest.fixture
def ordinary_policy() -> Iterator[None]:
    """Run a test under the scheduler's usual policy, whatever is set outside."""
    before, given = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    yield
    os.sched_setscheduler(0, before, given)
