"""Which panels each workgroup of a product has that reads prepared rows: all of them, each once.

What kernels compute of the number of threads is folded by MLIR here, not calculated again.
"""

import itertools

import pytest
from iree.compiler import ir
from iree.compiler.passmanager import PassManager
from lowc.passes.formats.tables import TableFormat
from lowc.passes.kernels import emit
from lowc.passes.kernels.table_matmul import Scaling
from lowc.passes.kernels.tiles import Tile
from products import integers, lookups

THREADS = range(1, 65)


def integer(m, n, *, unit="avx512vbmi", batch=1, dynamic=False, tile=None):
    """A product by 8-bit weights with a scale per row."""
    return integers.kernel(
        unit, (m, n, 4096), 8, 4096, per_group=False, batch=batch, dynamic=dynamic, tile=tile
    )


def planes(m, n, *, unit="avx512vbmi", batch=1, dynamic=False):
    """A product by two planes of signs."""
    return lookups.kernel(unit, (m, n, 4096), 2, 128, batch=batch, dynamic=dynamic)


def fives(m, n, *, unit="avx512vbmi", batch=1, dynamic=False):
    """A product by ternary weights, five in a byte."""
    fmt = TableFormat(7, 320)
    return lookups.kernel(
        unit, (m, n, 4096), 1, 4096, fmt, batch=batch, dynamic=dynamic, scaling=Scaling("trits")
    )  # fmt: skip


def folded(make):
    """Return the numbers that the indices have which `make` builds of constants."""
    with ir.Context() as context, ir.Location.unknown():
        context.allow_unregistered_dialects = True
        module = ir.Module.parse("func.func @f() { return }")
        entry = module.body.operations[0].regions[0].blocks[0]
        with ir.InsertionPoint.at_block_begin(entry):
            values = make()
            ir.Operation.create("test.use", operands=values)
        PassManager.parse("builtin.module(func.func(canonicalize))").run(module.operation)
        use = next(op for op in entry.operations if op.operation.name == "test.use")
        constants = [value.owner for value in use.operation.operands]
        return [ir.IntegerAttr(constant.attributes["value"]).value for constant in constants]


def shares(one, threads):
    """Return how many panels each workgroup along x has, for each number of threads.

    Where weights are not read once, threads do not matter.
    """
    count = len(threads)
    if one.reads_once:
        groups = folded(lambda: [one.groups_for(emit.index(number)) for number in threads])
    else:
        groups = [one.portions] * count
    firsts = iter(
        folded(
            lambda: [
                one.first_panel(emit.index(group), emit.index(number))
                for number in groups
                for group in range(number + 1)
            ]
        )
    )
    found = []
    for number in groups:
        begins = [min(next(firsts), one.panels) for _ in range(number + 1)]
        assert (begins[0], begins[-1]) == (0, one.panels)
        found.append([after - before for before, after in itertools.pairwise(begins)])
    return found


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize(("m", "dynamic"), [(1, False), (2, False), (40, False), (1, True)])
@pytest.mark.parametrize("make", [integer, planes, fives])
def test_every_panel_is_somebodys_once(make, m, dynamic, batch):
    for n in (20, 544):
        one = make(m, n, batch=batch, dynamic=dynamic)
        assert one.reads_once == (m < 40 and not dynamic)
        for threads, found in zip(THREADS, shares(one, THREADS), strict=True):
            assert min(found) > 0  # none comes for nothing
            assert sum(found) == one.panels
            if one.reads_once:
                assert max(found) - min(found) <= 1
                # As many as threads get, of all batches, or as there are panels.
                wanted = threads * one.shares
                assert len(found) == min(one.panels, -(-wanted // batch))


@pytest.mark.parametrize("unit", ["avx512vbmi", "avx512", "avx2", "portable"])
def test_no_cliff_at_odd_numbers_of_columns(unit):
    for n in range(32, 1400, 32 * 7):
        made = [integer(m, n, unit=unit) for m in (1, 2)]
        made += [make(1, n, unit=unit) for make in (planes, fives) if unit != "portable"]
        for one in made:
            for found in shares(one, range(1, 17)):
                assert max(found) - min(found) <= 1, (one.name, found)


def test_two_threads_of_few_columns():
    """Shares of portions of up to 16 panels were 12 and 5, 20 and 13, 4 and 2, 8 and 4."""
    made = [integer(1, 544), integer(1, 1056), planes(1, 384), fives(1, 768)]
    assert [shares(one, [2])[0] for one in made] == [[9, 8], [17, 16], [3, 3], [6, 6]]


def test_a_tile_of_all_panels_is_shared_out_too():
    one = integer(1, 1024, tile=Tile(16, 1, 2, 0, 32, 1))
    assert shares(one, [1, 2, 4]) == [[32], [16, 16], [8] * 4]


def test_a_device_without_threads_has_one():
    assert shares(integer(1, 1024), [0, 1]) == [[32], [32]]
