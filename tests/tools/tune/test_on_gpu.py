"""Measuring kernels on another machine: a bundle, the script in it, and the records it gives.

The script runs here too, with kernels through software Vulkan in the place of CUDA's.
"""

import json
import subprocess
import sys
import zlib

import pytest
from click.testing import CliRunner
from lowc.errors import UserError
from lowc.passes.kernels.additive_matmul_gpu import ThreadTile
from lowc.passes.kernels.additive_tiles_gpu import SharedTile
from lowc.passes.tiling import space, tilings
from lowc.tools.tune.on_gpu import __main__ as command
from lowc.tools.tune.on_gpu import cases, collect, records, suites
from lowc.tools.tune.on_gpu.prepare import prepare
from lowc.tools.tune.parquet import read

# Runs a script with the given paths alone, and says at its end what of lowc it loaded.
ALONE = """
import json, runpy, sys
sys.path[:], sys.argv[:] = json.loads(sys.argv[1]), sys.argv[2:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("LOADED", json.dumps([name for name in sys.modules if name.partition(".")[0] == "lowc"]))
"""


def run(bundle, output):
    """Run the script of a bundle as another machine would: by itself."""
    script = [sys.executable, "-S", "-c", ALONE]
    paths = [path for path in sys.path if "site-packages" in path or "python3" in path]
    command_ = [
        *script,
        json.dumps(paths),
        str(bundle / "collect.py"),
        str(bundle),
        "-o",
        str(output),
    ]
    found = subprocess.run(
        [*command_, "--driver", "vulkan"], capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert json.loads(found.stdout.rpartition("LOADED ")[2]) == []
    return json.loads(output.read_text())


@pytest.mark.slow
@pytest.mark.vulkan
def test_a_bundle_is_measured_and_checked(tmp_path):
    tiles = [ThreadTile(2, 1), SharedTile(4, 1, 8, 8, 8)]
    own = [cases.added(33, 40, 37, tile, "spirv") for tile in tiles]
    own.append(cases.threads(9, 37, 64, 3, 32, symmetric=False, dialect="spirv"))
    prepare(own, tmp_path, "vulkan", lambda text: None)
    # What is expected of the second is made wrong: the script must see it.
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["cases"].append({**manifest["cases"][0], "name": "another seed"})
    check = json.loads(json.dumps(manifest["cases"][0]["check"]))
    check["inputs"][0]["seed"] += 1
    manifest["cases"][-1]["check"] = check
    manifest["cases"].append({**manifest["cases"][0], "name": "no file", "file": "none.vmfb"})
    manifest["stock"] = [{"name": "none", "file": "none.vmfb", "inputs": []}]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    results = run(tmp_path, tmp_path / "results.json")
    first, second, third, wrong, absent = results["cases"]
    assert third["problem"] is None
    # What a dispatch takes is a difference of calls: on a busy machine it can be lost, which is said.
    for case in (first, second, third):
        assert case["wrong"] == "" and (case["seconds"] > 0) == ("lost" not in case), case
    for case in (first, second):
        assert tilings.parse(case["tiling"]).tile in tiles
    assert "differ" in wrong["wrong"] and "none.vmfb" in absent["error"]
    assert "none.vmfb" in results["stock"]["none"]
    assert results["commit"] and results["versions"]["numpy"]
    read_again = records.read(tmp_path / "results.json")
    measured = ["ok" for case in (first, second) if "lost" not in case]
    assert [one.outcome for one in read_again] == [*measured, "wrong", "crash"]
    assert {(one.problem.unit, one.machine.unit) for one in read_again} == {("spirv", "spirv")}
    assert read_again[0].blocks > 1 and read_again[0].seconds == first["seconds"]
    assert not any(space.illegal(one.problem, tilings.parse(one.tiling)) for one in read_again)


def results_of(case):
    """Results as the script writes them, of one case on a device that is not here."""
    return {
        "when": "2026-11-27T09:00:00Z", "card": {"name": "NVIDIA X"}, "multiprocessors": 132,
        "l2": 1 << 20, "copy_rate": 4e12, "versions": {"lowc": "0"}, "cases": [case],
    }  # fmt: skip


def entry_of(case):
    from lowc.tools.tune.on_gpu.prepare import _entry

    entry = json.loads(json.dumps(_entry(case, "k.vmfb", "ptx")))
    return {**entry, "seconds": 2e-6, "blocks": [1.9e-6, 2e-6, 2e-6, 2.2e-6], "launches": 32}


def test_results_become_records(tmp_path):
    case = entry_of(next(suites.figures()))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results_of(case)))
    (record,) = records.read(path)
    assert record.is_ok and record.seconds == 2e-6 and record.calls == 128
    assert record.machine.name == "NVIDIA X" and record.problem.form == "w4a8"
    assert not space.illegal(record.problem, tilings.parse(record.tiling))
    ran = CliRunner().invoke(command.main, ["records", str(path), str(tmp_path / "r.parquet")])
    assert ran.exit_code == 0, ran.output
    (again,) = read(tmp_path / "r.parquet")
    assert again == record


@pytest.mark.parametrize(
    ("change", "outcome"), [({"wrong": "3 differ"}, "wrong"), ({"error": "no kernel"}, "crash")]
)
def test_failures_become_records(tmp_path, change, outcome):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results_of({**entry_of(next(suites.figures())), **change})))
    (record,) = records.read(path)
    assert record.outcome == outcome and record.note in change.values() and not record.seconds


def test_other_files_are_named(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"cases": 3}')
    with pytest.raises(UserError, match=r"no results of collect\.py") as caught:
        records.read(path)
    assert caught.value.where == str(path)


def test_arrays_are_the_same_everywhere():
    """The numbers of another machine's NumPy are these, or ``collect.check`` says so."""
    specs = [
        (cases.Operand((3, 5), "f32", "activations"), 3561227835),
        (cases.Operand((1, 8), "f32", "scales", 0.01), 3999218289),
        (cases.Operand((2, 9), "i8", "bits", 16), 3946888184),
        (cases.Operand((2, 3), "i32", "bits"), 3692562076),
        (cases.Operand((1, 4), "i32", "patterns", less=7), 1826817128),
    ]
    for operand, wanted in specs:
        found = collect.make(operand.spec)
        assert found.shape == operand.shape and zlib.crc32(found) == wanted, operand


@pytest.mark.parametrize("suite", suites.SUITES)
def test_every_case_is_legal(suite):
    found = list(suites.SUITES[suite]())
    assert sum(hasattr(case.kernel, "tile") for case in found) > 20
    assert len({(case.group, case.name) for case in found}) == len(found)
    for case in found:
        entry = entry_of(case)
        if "problem" in entry:
            problem = records.Problem(**entry["problem"])
            why = space.illegal(problem, tilings.parse(entry["tiling"]))
            assert not why, (case.name, why)
