"""Several models as entries of one module: one set of weights, one state, and what is refused."""

from __future__ import annotations

import iree.runtime as rt
import lowc
import numpy as np
import pytest
from lowc.compiler import moments
from lowc.compiler.accuracy import shadow
from lowc.compiler.entries import check_names, open_entries
from lowc.compiler.recipe import Recipe
from lowc.errors import UserError
from lowc.passes.forms import Form, Rule
from lowc.runtime.program import RESERVED, Program

torch = pytest.importorskip("torch")


def _pair(seed=0, width=16):
    """Return two programs of one model that adds up what it is given, in two states."""

    class Sums(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(seed)
            self.fc = torch.nn.Linear(width, 64)
            self.register_buffer("total", torch.zeros(64))
            self.register_buffer("largest", torch.zeros(64))

        def forward(self, x):
            y = self.fc(x).sum(0)
            self.total += y
            self.largest.copy_(torch.maximum(self.largest, y))
            return self.total * 2, self.largest * 2

    rows = torch.export.Dim("rows", min=2, max=64)
    many = torch.export.export(Sums(), (torch.ones(5, width),), dynamic_shapes=({0: rows},))
    return Sums(), many, torch.export.export(Sums(), (torch.ones(1, width),))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """One module of both, whose products of many rows and of one like other panels best."""
    reference, many, one = _pair()
    place = tmp_path_factory.mktemp("entries") / "model.vmfb"
    return reference, lowc.compile({"many": many, "one": one}, output=place)


def test_entries_share_their_state(compiled):
    reference, artifact = compiled
    program = lowc.load(artifact)
    generator = np.random.default_rng(0)
    for entry, rows in ((program.many, 3), (program["one"], 1), (program.many, 7)):
        x = generator.standard_normal((rows, 16)).astype(np.float32)
        for got, wanted in zip(entry(x), reference(torch.from_numpy(x)), strict=True):
            np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-5, atol=1e-5)
    program.reset()
    total, largest = program.one(np.zeros((1, 16), np.float32))
    bias = reference.fc.bias.detach().numpy()
    np.testing.assert_allclose(total, 2 * bias, rtol=1e-6)
    np.testing.assert_allclose(largest, 2 * np.maximum(bias, 0), rtol=1e-6)


def test_every_weight_is_stored_once_and_zeros_not_at_all(compiled):
    _, artifact = compiled
    sizes = _stored(artifact)
    assert sum(sizes.values()) == 4 * (16 * 64 + 64), sizes
    assert len([key for key in sizes if key.startswith("fc.weight")]) == 1
    assert {row["name"] for row in artifact.report["matmuls"]} == {"fc@many", "fc@one"}


def test_a_program_says_which_entries_it_has(compiled):
    program = lowc.load(compiled[1])
    assert isinstance(program, Program)
    assert list(program.entries) == ["many", "one"]
    with pytest.raises(UserError, match=r"several entries: many, one"):
        program(np.ones((1, 16), np.float32))
    with pytest.raises(UserError, match=r"no entry 'ona'[\s\S]*did you mean 'one'"):
        program["ona"]
    with pytest.raises(UserError, match=r"named by a text, not by int[\s\S]*known: many, one"):
        program[0]
    with pytest.raises(AttributeError, match="its entries are many, one"):
        program.two  # noqa: B018
    assert "one" in program and "two" not in program and 0 not in program
    assert list(program) == ["many", "one"] and {"many", "one", "reset"} <= set(dir(program))


def test_each_entry_has_its_own_report(compiled):
    program = lowc.load(compiled[1])
    for name, entry in program.entries.items():
        said = entry.report
        assert [row["name"] for row in said["matmuls"]] == [f"fc@{name}"]
        # Every weight counts once in what a call reads: 16 x 64, the bias, and two states.
        assert said["energy"] == compiled[1].report["energy"][name]
        assert said["energy"]["exported"]["weight_bits"] == 32 * (16 * 64 + 64)
        assert said["energy"]["exported"]["operations"]["mulf.f32"] % 16 == 0


def test_a_mapping_of_one_model_gives_a_program_too(tmp_path):
    reference, _, one = _pair()
    program = lowc.load(lowc.compile({"only": one}, output=tmp_path / "model.vmfb"))
    x = np.ones((1, 16), np.float32)
    wanted = reference(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(program.only(x)[0], wanted, rtol=1e-5)
    # There is no other one that could be meant.
    program.reset()
    np.testing.assert_allclose(program(x)[0], wanted, rtol=1e-5)
    program.reset()
    np.testing.assert_allclose(np.asarray(program.bound(x)()[0]), wanted, rtol=1e-5)
    assert len(program.bound_to_zeros()()) == len(program.only(x))


def test_what_reads_a_state_may_come_before_what_writes_to_it(tmp_path):
    class Reads(torch.nn.Module):
        def __init__(self, writes):
            super().__init__()
            self.writes = writes
            self.register_buffer("count", torch.ones(4))

        def forward(self, x):
            if self.writes:
                self.count.add_(x)
            return self.count * 2

    x = torch.ones(4)
    models = [torch.export.export(Reads(writes), (x,)) for writes in (False, True)]
    for order in (("read", "write"), ("write", "read")):
        given = dict(zip(("read", "write"), models, strict=True))
        artifact = lowc.compile({n: given[n] for n in order}, output=tmp_path / f"{order[0]}.vmfb")
        program = lowc.load(artifact)
        assert list(program) == list(order)
        results = [program[n](x)[0] for n in ("read", "write", "read")]
        assert results == [2, 4, 4]
        program.reset()
        assert program.read(x)[0] == 2


def test_tied_weights_of_another_name_in_each_entry_are_stored_once(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self, first):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = (torch.nn.Linear(32, 32, bias=False) for _ in range(2))
            self.b.weight, self.first = self.a.weight, first

        def forward(self, x):
            return self.a(x) if self.first else self.b(x)

    x = torch.randn(3, 32)
    models = {n: torch.export.export(Tied(n == "one"), (x,)) for n in ("one", "two")}
    artifact = lowc.compile(models, output=tmp_path / "model.vmfb")
    assert sum(_stored(artifact).values()) == 4 * 32 * 32
    program = lowc.load(artifact)
    np.testing.assert_array_equal(program.one(x.numpy()), program.two(x.numpy()))


@pytest.mark.parametrize(("recipe", "bits"), [("w4a16", 4), ("w4a8", 4)])
def test_weights_in_few_bits_are_stored_once(recipe, bits, tmp_path):
    _, many, one = _pair(width=64)
    alone = lowc.compile(one, recipe, output=tmp_path / "one.vmfb")
    both = lowc.compile({"many": many, "one": one}, recipe, output=tmp_path / "both.vmfb")
    codes = 64 * 64 * bits // 8
    assert [size for size in _stored(both).values() if size >= codes] == [codes]
    assert sorted(_stored(both).values()) == sorted(_stored(alone).values())


def test_several_entries_are_not_measured_together(tmp_path):
    with pytest.raises(UserError, match=r"several entries \(a, b\) cannot be measured together"):
        shadow(_files(tmp_path, a=_scales(5), b=_scales(5)), "w8a8", "cpu", tmp_path / "m.vmfb")


def _bytes_of(artifact):
    index = rt.ParameterIndex()
    index.load(str(artifact.parameters_path))
    return {key: bytes(entry.file_view) for key, entry in index.items() if entry.is_file}


def test_a_calibration_of_one_entry_is_that_of_the_weights_of_all(tmp_path):
    _, many, one = _pair(width=64)
    recipe = Recipe("test", (Rule("*", Form("dequant", "i3", 32, method="gptq")),))
    generator = np.random.default_rng(0)
    shared = generator.standard_normal((8, 64))
    rows = (generator.standard_normal((40, 8)) @ shared).astype(np.float32)

    def stored(model, **given):
        artifact = lowc.compile(model, recipe, output=tmp_path / "model.vmfb", **given)
        return _bytes_of(artifact), artifact.report

    alone, _ = stored(many, calibration=[(rows,)])
    plain, _ = stored(many, calibration=[(np.eye(64, dtype=np.float32),)])
    both = {"many": many, "one": one}
    for order in (both, {"one": one, "many": many}):
        found, report = stored(order, calibration={"many": [(rows,)]})
        assert found == alone and found != plain
        assert report["calibration"] == {"calls": 1, "rounds": 1, "matmuls": 2}
        assert [row["calibrated"] for row in report["matmuls"]] == [True, True]
    # Half of the rows by each entry: what a weight meets is added up.
    given = {"many": [(rows[:38],)], "one": [(rows[38:39],), (rows[39:],)]}
    found, report = stored(both, calibration=given)
    assert report["calibration"] == {"calls": 3, "rounds": 1, "matmuls": 2}
    codes = next(key for key in alone if key.endswith("codes"))
    pairs = [np.unpackbits(np.frombuffer(part[codes], np.uint8)) for part in (found, alone)]
    assert (pairs[0] == pairs[1]).mean() > 0.99  # sums in f32 may be rounded otherwise


def test_sums_of_several_entries_lie_on_disk_where_those_of_one_do(tmp_path):
    _, many, one = _pair(width=64)
    recipe = Recipe("test", (Rule("*", Form("dequant", "i3", 32, method="gptq")),))
    rows = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    parts = {}
    for name, given in (("many", rows), ("one", rows[:1])):
        path = tmp_path / f"{name}.npy"
        np.save(path, (given.T @ given).astype(np.float64))
        mapped = np.load(path, mmap_mode="r")
        parts[name] = moments.Moments({f"fc@{name}": mapped}, {}, 1, 2)
    with open_entries({"many": many, "one": one}) as model:
        found = moments._spread(model, recipe, parts, tmp_path)
    matrix = found.of["fc@one"]
    assert matrix is found.of["fc@many"] and isinstance(matrix, np.memmap)
    np.testing.assert_allclose(matrix, rows.T @ rows + rows[:1].T @ rows[:1], rtol=1e-5)


def test_a_calibration_says_which_entry_it_is_of(tmp_path):
    _, many, one = _pair(width=64)
    recipe = Recipe("test", (Rule("*", Form("dequant", "i3", 32, method="gptq")),))
    rows = [(np.ones((4, 64), np.float32),)]
    for given, said in (
        (rows, r"several entries \(many, one\), and the calibration does not say which one"),
        ({"man": rows}, r"inputs of an entry 'man'[\s\S]*did you mean 'many'"),
        ({}, "inputs of no entry"),
        ({"many": []}, "the calibration has no inputs"),
    ):
        with pytest.raises(UserError, match=said):
            lowc.compile({"many": many, "one": one}, recipe, calibration=given)
    with pytest.raises(UserError, match=r"an entry 'main'[\s\S]*leave its name out"):
        lowc.compile(many, recipe, calibration={"main": rows})


def _stored(artifact):
    index = rt.ParameterIndex()
    index.load(str(artifact.parameters_path))
    return {key: entry.length for key, entry in index.items() if entry.is_file}


# -- MLIR ------------------------------------------------------------------------------------------


def _scales(value, op="mulf"):
    """Return a module that has a global, and a helper that reads it."""
    return f"""
    util.global private @w = dense<{value}.0> : tensor<2xf32>
    func.func private @help(%x: tensor<2xf32>) -> tensor<2xf32> {{
      %w = util.global.load @w : tensor<2xf32>
      %y = arith.{op} %x, %w : tensor<2xf32>
      return %y : tensor<2xf32>
    }}
    func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {{
      %y = call @help(%x) : (tensor<2xf32>) -> tensor<2xf32>
      return %y : tensor<2xf32>
    }}
    """


def _counts(step, begin="= dense<1.0> "):
    return f"""
    util.global private mutable @count {begin}: tensor<2xf32>
    func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {{
      %old = util.global.load @count : tensor<2xf32>
      %step = arith.constant dense<{step}.0> : tensor<2xf32>
      %new = arith.addf %old, %step : tensor<2xf32>
      util.global.store %new, @count : tensor<2xf32>
      return %new : tensor<2xf32>
    }}
    """


def _files(folder, **texts):
    found = {}
    for name, text in texts.items():
        found[name] = folder / f"{name}.mlir"
        found[name].write_text(text)
    return found


X = np.ones(2, np.float32)


def test_globals_of_one_name_must_be_equal(tmp_path):
    models = _files(tmp_path, a=_scales(5), b=_scales(7))
    with pytest.raises(UserError, match=r"'@w'[\s\S]*'a' and 'b' have different weights"):
        lowc.compile(models)


def test_private_functions_stay_those_of_their_model(tmp_path):
    # One helper of each, and an entry that is called like them.
    models = _files(tmp_path, a=_scales(5), help=_scales(5, "addf"), main=_scales(5, "subf"))
    program = lowc.load(lowc.compile(models))
    assert [program[name](X)[0] for name in models] == [5, 6, -4]
    kinds = {name: list(program[name].report["energy"]["operations"]) for name in models}
    assert kinds == {"a": ["mulf.f32"], "help": ["addf.f32"], "main": ["subf.f32"]}


def test_a_global_may_be_called_like_an_entry(tmp_path):
    models = _files(tmp_path, w=_scales(5), b=_scales(5))
    program = lowc.load(lowc.compile(models))
    assert [program.w(X)[0], program.b(X)[0]] == [5, 5]


def test_state_of_mlir_is_one_and_can_be_reset(tmp_path):
    program = lowc.load(lowc.compile(_files(tmp_path, a=_counts(1), b=_counts(10))))
    assert [program.a(X)[0], program.b(X)[0], program.a(X)[0]] == [2, 12, 13]
    program.reset()
    assert program.b(X)[0] == 11


def test_state_without_an_initial_value_is_refused(tmp_path):
    models = _files(tmp_path, a=_counts(1, ""), b=_scales(5))
    with pytest.raises(UserError, match=r"'@count'[\s\S]*needs an initial value"):
        lowc.compile(models)
    with pytest.raises(UserError, match="which cannot be compared"):
        lowc.compile(_files(tmp_path, a=_counts(1, ""), b=_counts(1, "")))


def test_different_weights_of_one_name_are_refused(tmp_path):
    _, many, _ = _pair(0)
    _, _, one = _pair(1)
    with pytest.raises(UserError, match=r"fc\.\w+'[\s\S]*'many' and 'one' have different weights"):
        lowc.compile({"many": many, "one": one}, output=tmp_path / "model.vmfb")


@pytest.mark.parametrize("name", ["", "a b", "_x", "class", "reset", "bound", "path"])
def test_names_that_no_entry_can_have(name):
    with pytest.raises(UserError, match="an entry cannot be called"):
        check_names({name: None})


def test_what_a_module_has_is_reserved(compiled):
    program = lowc.load(compiled[1])
    assert {name for name in vars(program) if not name.startswith("_")} <= RESERVED
