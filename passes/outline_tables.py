"""Products of planes of signs by look-up as kernels, for ``lowc-outline-kernels``.

What it takes is what ``lowc-lower-lut`` makes: products of binary codes, ternary weights and
integers.  It becomes two dispatches, one that makes the tables of the activation and one that looks
up and adds.
"""

from typing import Any

from iree.compiler import ir

from . import (
    add_operands,
    annotations,
    dispatch_records,
    epilogues,
    integer_tables,
    outline_planes,
    shared_panels,
    table_products,
    trit_tables,
)
from .base import Refusal
from .contraction import defining
from .epilogues import Chain
from .formats.tables import TableFormat
from .kernels import tiles
from .kernels.table_matmul import (
    Scaling,
    TableMatmul,
    looks_up_four,
    looks_up_trits,
    makes_tables,
    refusal,
)
from .kernels.table_rows import TableRows
from .kernels.trit_rows import TritRows
from .table_products import TableProduct

_KINDS: dict[str, Any] = {
    made_by.KIND: made_by for made_by in (table_products, integer_tables, trit_tables)
}


# A product by look-up and the kernel that makes it (its rows have the one for tables).
Plan = outline_planes.Plan[TableProduct, TableMatmul]


def takes(op: Any) -> bool:
    """Whether `op` is the last operation of a product by look-up."""
    return _kind(op) in _KINDS


def match(op: Any, unit: str) -> Plan | Refusal:
    """Describe the kernels for `op`, or say why there are none.  Changes nothing."""
    if unit not in tiles.ISAS or unit == "portable":
        return Refusal("kernels of look-ups are for CPUs with AVX2")
    product: TableProduct | Refusal = _KINDS[_kind(op)].match(op)
    if isinstance(product, Refusal):
        return product
    matrices = product.matrices
    sizes = outline_planes.sizes_of(matrices)
    if isinstance(sizes, Refusal):
        return sizes
    batch, m, n, k = sizes
    fmt, isa = TableFormat(product.entry_bits, product.span), tiles.ISAS[unit]
    scaling = _scaling(product, isa, n)
    if scaling.kind == "trits":
        return _of_fives(product, sizes, fmt, isa)
    why = refusal(fmt, product.group, k)
    if why:
        return Refusal(why)
    is_shared = shared_panels.panels_on(op) is not None  # stored in planes for another product
    if scaling.kind == "ternary" and looks_up_trits(isa, fmt, m) and not is_shared:
        return _of_fours(product, sizes, fmt, isa)
    has_sums = scaling.kind == "bits"
    rows = TableRows(
        None if m is None else batch * m, k, fmt, isa, looks_up_four(isa, fmt), has_sums
    )
    words = product.planes * rows.spans * fmt.span // 32
    tile = tiles.choose_tables(isa, batch, m, n, product.planes, rows.folded, words)
    if rows.by_four:
        sums = product.planes if scaling.kind == "planes" else 1
        tile = tiles.choose_permuted_tables(isa, batch, m, n, k, sums, words)
    chain = epilogues.match(op, matrices)
    epilogue = chain.epilogue if isinstance(chain, Chain) else None
    rounds = makes_tables(rows, m)
    kernel = TableMatmul(
        batch, m, n, rows, product.planes, product.group, tile, epilogue, scaling, rounds
    )
    return Plan(product, kernel, chain)


def _of_fives(
    product: TableProduct, sizes: tuple[int, int | None, int, int], fmt: TableFormat, isa: tiles.Isa
) -> Plan:
    """Describe the kernels for ternary weights that are five in a byte."""
    batch, m, n, k = sizes
    rows = TritRows(None if m is None else batch * m, k, fmt, isa)
    tile = tiles.choose_fives(isa, batch, m, n, -(-rows.spans * rows.quads // 4))
    chain = epilogues.match(product.op, product.matrices)
    epilogue = chain.epilogue if isinstance(chain, Chain) else None
    kernel = TableMatmul(batch, m, n, rows, 1, product.group, tile, epilogue, Scaling("trits"))
    return Plan(product, kernel, chain)


def _of_fours(
    product: TableProduct, sizes: tuple[int, int | None, int, int], fmt: TableFormat, isa: tiles.Isa
) -> Plan:
    """Describe the kernels for one row and ternary weights that are looked up four at once."""
    batch, m, n, k = sizes
    rows = TableRows(batch, k, fmt, isa, for_trits=True)
    tile = tiles.choose_trits(isa, batch, n, rows.spans * rows.quads // 4)
    chain = epilogues.match(product.op, product.matrices)
    epilogue = chain.epilogue if isinstance(chain, Chain) else None
    scaling, rounds = Scaling("quads"), makes_tables(rows, m)
    kernel = TableMatmul(batch, m, n, rows, 1, product.group, tile, epilogue, scaling, rounds)
    return Plan(product, kernel, chain)


def stored_as(plan: Plan) -> str:
    """Return what ternary weights are called, whatever their panels; "" for others, of one kind."""
    if plan.kernel.scaling.kind not in ("ternary", "quads"):
        return ""
    load = defining(plan.product.signs)
    return ir.FlatSymbolRefAttr(load.attributes["global"]).value


def panels_as(plan: Plan) -> str:
    """Return what a ternary weight is in that other products can read too; "" for quads."""
    return "" if plan.kernel.scaling.kind == "quads" else "two planes of signs"


def product_of(op: Any) -> TableProduct | Refusal:
    """Describe the product alone.  Changes nothing."""
    found: TableProduct | Refusal = _KINDS[_kind(op)].match(op)
    return found


def bits_of(plan: Plan) -> float:
    """Return the stored bits of a weight."""
    return plan.kernel.bits_per_weight


def rewrite(module: ir.Module, plan: Plan) -> None:
    """Dispatch to the kernels, with the weight in panels."""
    product, kernel = plan.product, plan.kernel
    chain = dispatch_records.as_chain(plan.chain)
    with ir.InsertionPoint(product.op), product.op.location:
        weight = load_weight(module, plan)
    bits = bits_of(plan)
    rows = None if kernel.rounds else kernel.rows
    dispatch_records.replace(module, product, rows, kernel, weight, bits, chain)


def _kind(op: Any) -> str:
    return str(annotations.product_facts(op).get("kind", ""))


def _scaling(product: TableProduct, isa: tiles.Isa, n: int) -> Scaling:
    if product.symmetric is not None:
        return Scaling("bits", product.symmetric)
    if _kind(product.op) == trit_tables.KIND:
        return Scaling("trits")
    if add_operands.derivation_of(product.signs).get("coding") == "ternary":
        return Scaling("ternary")
    columns = tiles.TABLE_VECTORS * isa.lanes
    return Scaling("planes", shared=product.outputs >= n or product.outputs % columns == 0)


def load_weight(module: ir.Module, plan: Plan) -> list[ir.Value]:
    """Load the weight's signs, scales and zeros as the kernel reads them, at the current place."""
    product, kernel = plan.product, plan.kernel
    size = {"words": kernel.words} if kernel.rows.by_four else {"quads": 2 * kernel.pairs}
    if kernel.scaling.kind in ("trits", "quads"):
        name = "fives" if kernel.scaling.kind == "trits" else "quads"
        size = {name: kernel.rows.spans * kernel.rows.quads}
    kinds = {"bits": "bit-plane-panels", "trits": "trit-panels", "quads": "trit-quad-panels"}
    panels: dict[str, Any] = {
        "kind": kinds.get(kernel.scaling.kind, "binary-panels"),
        "columns": kernel.tile.columns,
        **size,
    }
    if kernel.scaling.shared:
        panels["shared"] = True
    head = [kernel.batch, kernel.panels]
    parts = [
        (
            name,
            [*head, *shape],
            ir.IntegerType.get_signless(width) if width else ir.F32Type.get(),
        )
        for name, shape, width in kernel.parts
    ]
    shape = [kernel.batch, kernel.n, kernel.rows.k]
    return outline_planes.load_weight(module, product.signs, shape, panels, parts)
