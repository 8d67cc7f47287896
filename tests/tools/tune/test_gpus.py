"""Tiles for GPUs: compiled and measured on software Vulkan, compiled for CUDA, models of both."""

from pathlib import Path

import numpy as np
import pytest
from lowc.compiler.measuring.data import data_of
from lowc.compiler.measuring.fingerprint import fingerprint, of_device
from lowc.compiler.measuring.modules import module_text, operands
from lowc.compiler.target import load_target
from lowc.passes.tiling import choice, space, tree_ranker
from lowc.passes.tiling.problem import Problem
from lowc.passes.tiling.record import Machine, Record
from lowc.tools.cli import main
from lowc.tools.compile import _tiles
from lowc.tools.tune import measured, parquet, plan
from lowc.tools.tune.store import Store
from products.problems import problem

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
FORMS = ("lmul", "w4a16", "w4a8", "w8a8")


def tune(*arguments):
    assert main(["tune", "--passes", "1", "--cost-model", "none", *map(str, arguments)]) == 0


@pytest.mark.parametrize("unit", ["spirv", "ptx"])
@pytest.mark.parametrize("form", FORMS)
def test_operands_fit(form, unit):
    """What is drawn has the shapes that the functions take, whatever the tile; odd sizes too."""
    widths = {"f32": 4, "i32": 4, "i8": 1}
    for shape in ((1, 3, 40, 96), (1, 33, 100, 130), (1, 16, 64, 256)):
        one = plan.problem_of(form, unit, shape)
        data = data_of(one)
        for tiling in space.candidates(one)[::7]:
            wanted = operands(one, tiling)
            arrays = data.operands(tiling)
            sizes = [int(np.prod(part.shape)) for part in wanted]
            assert [array.size for array in arrays] == sizes
            assert [array.itemsize for array in arrays] == [widths[p.element] for p in wanted]
            assert "flow.dispatch" in module_text(one, [tiling])


@pytest.mark.slow
@pytest.mark.vulkan
def test_measured_on_vulkan(tmp_path, capsys):
    """Tiles of each form, and of code generation; all give what the default gives."""
    place = tmp_path / "tiles.sqlite"
    common = ("--store", place, "--target", "vulkan", "--tiles", 3)
    tune(*common, "--shape", "1x5x36x64", *(part for f in FORMS for part in ("--form", f)))
    tune(*common, "--shape", "1x5x37x70", "--lowering", "linalg")
    with Store(place) as store:
        found = list(store.records())
    assert {(r.problem.form, r.problem.lowering) for r in found} == {
        *((form, "kernel") for form in FORMS),
        *((form, "linalg") for form in ("f32", "lmul", "shift-add")),
    }
    assert {(r.outcome, r.note) for r in found} == {("ok", "")}
    assert {r.machine.unit for r in found} == {"spirv"}
    assert f"{len(found)} ok" in capsys.readouterr().out


@pytest.mark.vulkan
def test_a_compile_finds_what_tuning_kept(tmp_path, capsys):
    """Records are of the device that is here, whatever the target is called."""
    one = problem("lmul", "spirv", 1, 24, 96, 64)
    usual, other = (tiling.text for tiling in space.candidates(one)[:2])
    place = str(tmp_path / "tiles.sqlite")
    for target in ("vulkan", "vulkan:llvmpipe"):
        machine = of_device(load_target(target))
        with Store(place) as store:
            store.add(
                Record(one, tile, machine, "ok", 1.0, round=target) for tile in (usual, other)
            )
        found = _tiles("none", 0, place, target)
        assert found.measured == {one.key: {usual: 1.0, other: 1.0}}
    assert capsys.readouterr().err == ""
    assert _tiles("none", 0, place, "cpu").measured == {}
    assert "has no times of tiles for 'cpu' on this machine" in capsys.readouterr().err


@pytest.mark.slow
def test_compiled_for_cuda(tmp_path):
    place, work = tmp_path / "tiles.sqlite", tmp_path / "work"
    forms = [part for form in FORMS for part in ("--form", form)]
    tune("--store", place, "--target", "cuda", "--tiles", 2, "--shape", "1x4x40x256", *forms,
         "--stage", "prepare", "--work", work)  # fmt: skip
    assert len(list(work.glob("*/part0.vmfb"))) == len(FORMS)
    assert b"sm_80" in next(work.glob("*/part0.vmfb")).read_bytes()


def test_clusters_do_not_measure_gpus(tmp_path, capsys):
    arguments = ["tune", "--store", str(tmp_path / "s"), "--target", "cuda", "--stage", "prepare",
                 "--work", str(tmp_path), "--shape", "1x1x8x64", "--executor", "ray"]  # fmt: skip
    assert main(arguments) == 2
    assert "clusters measure on CPUs, not on 'cuda'" in capsys.readouterr().err


def test_forms_without_kernels(tmp_path, capsys):
    arguments = ["tune", "--store", str(tmp_path / "s"), "--target", "cuda", "--stage", "prepare",
                 "--work", str(tmp_path), "--form", "shift-add", "--shape", "1x1x8x64"]  # fmt: skip
    assert main(arguments) == 2
    assert "'shift-add' has no kernels for GPUs" in capsys.readouterr().err


@pytest.mark.slow
def test_few_records_of_a_gpu_make_a_model_that_says_so(tmp_path, capsys):
    """The kept records of an H200 are of a handful of products: enough for a head, no more."""
    place, folder = tmp_path / "tiles.sqlite", tmp_path / "model"
    kept = BENCHMARKS / "tiles-h200-2026-11-27.parquet"
    tune("--store", place, "--import", kept)
    tune("--store", place, "--fit", folder, "--target", "cuda")
    said = capsys.readouterr().err
    tables = list(measured.tables(parquet.read(kept), 2))
    assert f"measurements of only {len(tables)} products" in said
    machine = tables[0].machine
    ranker = tree_ranker.load(folder, machine)
    assert ranker.at_home and f"fitted to only {len(tables)} products" in ranker.name
    known = tables[0].problem
    found = ranker.predict(known, space.candidates(known))
    assert np.isfinite(found.spread).all() and found.spread.min() > 0
    # Of what was not measured it knows nothing, and says so.
    for other in (plan.problem_of("lmul", "ptx", (1, 64, 64, 64)),
                  plan.problem_of("lmul", "spirv", (1, 64, 64, 64)),
                  plan.problem_of("f32", "avx512vnni", (1, 64, 64, 64))):  # fmt: skip
        chosen = choice.choose(other, ranker)
        assert chosen.is_default and "knows too little of this product" in chosen.reason
    with pytest.raises(AssertionError):
        tune("--store", place, "--fit", folder)  # no CPU was measured
    assert "measurements of 0 products" in capsys.readouterr().err


def test_the_machine_of_software_is_this_one():
    of_software, of_any = (fingerprint(load_target(t)) for t in ("vulkan:llvmpipe", "vulkan:rdna3"))
    assert of_software.threads >= 1 and of_software.caches[0] > 0
    assert of_any == Machine("vulkan:rdna3", "spirv")


def test_a_weight_is_one_family_whatever_fills_its_k_up():
    """Else a model is judged by weights that it was trained on."""
    forms = ("f32", "w4a16", "w4a8")
    products = [plan.problem_of(form, "avx512vnni", (1, 8, 64, 513)) for form in forms]
    products.append(plan.problem_of("w4a16", "spirv", (1, 8, 64, 513)))
    products.append(plan.problem_of("w4a16", "avx512vnni", (1, 8, 64, 512)))
    assert [p.k for p in products] == [513, 528, 513, 544, 512]
    assert all(len(space.candidates(p)) > 4 for p in products)
    found = measured.tables(
        Record(one, tiling.text, Machine("", one.unit), "ok", 1e-3, 1e-3, 1e-3, 0.01, 5, 50, "r")
        for one in products
        for tiling in space.candidates(one)[:4]
    )
    families = {(table.problem.k, table.family) for table in found}
    odd = "1x64x513"
    assert families == {(513, odd), (528, odd), (544, odd), (512, "1x64x512")}


def test_signed_sums_stay_with_code_generation():
    one = plan.problem_of("shift-add", "avx512vnni", (1, 8, 64, 100), "linalg")
    assert one == Problem("shift-add", "linalg", "avx512vnni", 1, 8, 64, 100, weight="signs",
                          group=128, planes=3)  # fmt: skip
    text = module_text(one, space.candidates(one)[:2])
    assert text.count("func.func @tile") == 2 and text.count("compilation_info =") == 1
    assert "lowc." not in text and "util.global" not in text
