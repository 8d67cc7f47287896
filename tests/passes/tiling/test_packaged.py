"""The model that comes with lowc: it is whole, it ranks every form, and it says where it is from."""

import dataclasses

import numpy as np
import pytest
from lowc.compiler.measuring.modules import module_text
from lowc.passes.tiling import (
    choice,
    model_files,
    rankers,
    space,
    text_model,
    tilings,
    tokens,
    tree_ranker,
)
from lowc.passes.tiling.problem import Problem
from lowc.passes.tiling.record import Machine

pytest.importorskip("lightgbm")
FORMS = {
    "f32": {}, "lmul": {}, "w4a8": {"weight": "i4", "group": 32, "own_batch": True},
    "w8a8": {"weight": "i8", "group": 384, "per_group": False, "own_batch": True},
    "shift-add": {"weight": "signs", "planes": 3, "table_bits": 7, "span": 128, "group": 128,
                  "own_batch": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest():
    return model_files.read(tree_ranker.packaged("avx512vbmi")).manifest


@pytest.fixture(scope="module")
def ranker(manifest):
    return tree_ranker.load(tree_ranker.packaged("avx512vbmi"), manifest.machine)


def test_it_is_for_avx512_alone():
    assert tree_ranker.packaged("avx512") == tree_ranker.packaged("avx512vnni")
    assert tree_ranker.packaged("avx2") is None and tree_ranker.packaged("spirv") is None


@pytest.mark.parametrize("form", FORMS)
def test_it_ranks_every_form(ranker, form):
    one = Problem(form, "kernel", "avx512vbmi", 1, 128, 384, 384, **FORMS[form])
    found = ranker.predict(one, space.candidates(one))
    assert np.isfinite(found.seconds).all() and (found.seconds > 1e-6).all()
    assert (found.seconds < 0.1).all() and np.isfinite(found.spread).all()
    chosen = choice.choose(one, ranker)
    assert chosen.tiling in space.candidates(one) and "cost model" in chosen.reason


def test_a_larger_product_takes_longer(ranker):
    def least(m):
        one = Problem("f32", "kernel", "avx512vbmi", 1, m, 768, 768)
        return ranker.predict(one, space.candidates(one)).seconds.min()

    assert least(16) < least(128) < least(1024)


def test_its_manifest_says_what_it_was_trained_on(manifest):
    assert manifest.data["products"] >= 40 and len(manifest.data["sha256"]) == 64
    assert set(FORMS) <= set(manifest.metrics) and manifest.versions["lightgbm"]


def test_elsewhere_its_reasons_name_its_machine(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWC_MODELS", str(tmp_path))
    other = dataclasses.replace(Machine("Other", "avx512"), threads=2)
    found = rankers.ranker("learned", other)
    assert f"fitted on {manifest.machine.name} (" in found.name
    assert "another machine" in found.name


def test_its_text_model_reads_a_kernel():
    pytest.importorskip("safetensors")
    found = model_files.read(tree_ranker.packaged("avx512vnni"))
    manifest = found.manifest
    model = text_model.from_bytes(found.files[manifest.text], manifest.vocabulary, manifest.text)
    one = Problem("f32", "kernel", "avx512vnni", 1, 16, 64, 64)

    def said(tiling):
        return model.predict(tokens.tokenize(module_text(one, [tiling]), one.unit))

    small, large = (tilings.parse(text) for text in ("t2x1v16k64g1c2", "t8x3v16k64g1c8"))
    assert 20 < said(small).instructions < said(large).instructions < 2000
    assert 0 <= said(small).vector_registers < said(large).vector_registers <= 32
    assert said(small).has_spills < 0.5
