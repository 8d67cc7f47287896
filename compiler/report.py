"""What became of every matmul, read from the annotations that the passes left."""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from iree.compiler import ir

from ..passes import annotations
from ..passes.assign_forms import form_of
from ..passes.base import Remark, RemarkKind
from ..passes.build import element_of
from ..passes.contraction import Contraction, Weight, defining, find_weight, match_product
from ..passes.count_operations import Tally, tallies_of_entries, tally_of
from ..passes.forms import Form
from ..passes.parameters import stored_bits
from . import energy


def matmul_rows(module: ir.Module, measured: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return one row per named matmul, in the order of the program.

    ``shape`` is batch x M x N x K; ``bits_per_weight`` counts scales and zero points and is None
    for a product of two activations; ``predicted_seconds`` and ``tile_reason`` are None where
    nothing chose a tile.  ``calibrated`` says whether codes were chosen by the inputs of a
    calibration, of which `measured` are the matmuls, and is None where the method looks at weights
    alone.  ``operations`` (scalar operations of a call by kind), ``bits_moved``
    and ``energy_picojoules`` (arithmetic and guards) are counted from the IR, and None where
    nothing was; what a weight costs to dequantise is in the sum of the model only.
    ``operations_exact`` are the f32 multiplications and additions of the matmul, and of an
    element-wise row all operations as exported; ``energy_exact_picojoules`` is their price.
    """
    counted = _tallies(module)
    table = energy.load_table()
    rows: dict[str, dict[str, Any]] = {}
    for op in annotations.reported(module):
        name = annotations.text(op, annotations.MATMUL)
        form = annotations.from_attribute(op.attributes[annotations.FORM])
        kind = annotations.text(op, annotations.KIND)
        bits, shape = _bits(module, op, kind), annotations.text(op, annotations.SHAPE)
        rows.setdefault(
            name,
            {
                "name": name,
                "kind": kind,
                "shape": shape,
                "form": form["form"] if _is_rewritten(op) else "exact",
                "requested": form["form"],
                "lowering": annotations.text(op, annotations.LOWERING),
                "tile": annotations.text(op, annotations.TILE) or None,
                "tile_reason": annotations.text(op, annotations.WHY) or None,
                "predicted_seconds": _predicted(op),
                "bits_per_weight": bits,
                "calibrated": _is_calibrated(op, form, name in measured),
                **energy_columns(_exact_operations(op, kind, shape), counted.get(name), table),
            },
        )
    return list(rows.values())


def embedding_rows(module: ir.Module) -> list[dict[str, Any]]:
    """Return one row per look-up of rows of a parameter; ``shape`` is the table's."""
    return [
        {
            "name": annotations.text(op, annotations.LOOKUP),
            "shape": annotations.text(op, annotations.SHAPE),
            "form": form_of(op).form if annotations.BITS in op.attributes else "exact",
            "requested": form_of(op).form,
            "lowering": annotations.text(op, annotations.LOWERING),
            "bits_per_weight": float(
                ir.FloatAttr(op.attributes[annotations.BITS]).value
                if annotations.BITS in op.attributes
                else element_of(op.results[0]).width
            ),
        }
        for op in annotations.look_ups(module)
    ]


def energy_columns(
    exact: Mapping[str, int], tally: Tally | None, table: energy.Table
) -> dict[str, Any]:
    """Return what a row says about operations, bits and energy."""
    columns: dict[str, Any] = {
        "operations": None,
        "operations_exact": dict(sorted(exact.items())),
        "bits_moved": None,
        "energy_picojoules": None,
        "energy_exact_picojoules": energy.price(exact, table).compute_pj,
    }
    if tally is not None:
        columns |= {
            "operations": dict(sorted(tally.operations.items())),
            "bits_moved": tally.bits,
            "energy_picojoules": energy.price(tally.operations, table).compute_pj,
        }
    return columns


def facts(
    module: ir.Module,
    remarks: Iterable[Remark],
    exported: Tally | Mapping[str, Tally],
    measured: Collection[str] = (),
) -> dict[str, Any]:
    """Return all that is known after the passes; `exported` was counted before them.

    `measured` are the matmuls whose inputs a calibration has measured.  Of a model of entries
    `exported` is a mapping of them, and so is ``energy``: a call is of one entry.
    """  # fmt: skip
    table = energy.load_table()
    if isinstance(exported, Mapping):
        counted = tallies_of_entries(module)
        costs: dict[str, Any] = {
            name: energy.summary(tally, counted[name], table) for name, tally in exported.items()
        }
    else:
        costs = energy.summary(exported, tally_of(module.operation) or Tally(), table)
    return {
        "matmuls": matmul_rows(module, measured),
        "embeddings": embedding_rows(module),
        "remarks": remark_rows(remarks),
        "caches": _caches(module),
        "energy": costs,
    }


def _caches(module: ir.Module) -> list[dict[str, Any]]:
    """Return what ``lowc-quantize-caches`` noted of keys and values: names, formats, bytes."""
    found = annotations.text(module.operation, annotations.CACHES)
    return list(json.loads(found)) if found else []


def of_entry(said: Mapping[str, Any], name: str, entries: Collection[str]) -> dict[str, Any]:
    """Return what :func:`facts` says of one entry: its energy, its rows, and those of no entry."""

    def is_of(what: str) -> bool:
        end = what.rpartition("@")[2]
        return end == name or end not in entries

    return {
        **said,
        "matmuls": [row for row in said["matmuls"] if is_of(row["name"])],
        "embeddings": [row for row in said["embeddings"] if is_of(row["name"])],
        "remarks": [row for row in said["remarks"] if is_of(row["subject"])],
        "energy": said["energy"][name],
    }


def remark_rows(remarks: Iterable[Remark]) -> list[dict[str, str]]:
    """Return what passes applied, refused or warn of; notes are left out."""
    return [
        {
            "pass": remark.pass_name,
            "kind": str(remark.kind),
            "subject": remark.subject,
            "message": remark.message,
        }
        for remark in remarks
        if remark.kind is not RemarkKind.NOTE
    ]


def _tallies(module: ir.Module) -> dict[str, Tally]:
    """Return what was counted for each matmul; of several ways to calculate it, the longest."""
    found: dict[str, Tally] = {}
    for op in annotations.reported(module):
        name, tally = annotations.text(op, annotations.MATMUL), tally_of(op)
        if tally is None:
            continue
        if name not in found or tally.operations.total() > found[name].operations.total():
            found[name] = tally
    return found


def _exact_operations(op: Any, kind: str, shape: str) -> dict[str, int]:
    """Return the scalar operations of `op` as it was exported, by kind."""
    each = {"addf.f32": 1, "mulf.f32": 1}
    if kind == "elementwise":
        each = json.loads(annotations.text(op, annotations.PRODUCT))["exact"]
    iterations = energy.iterations_of(shape)
    return {name: number * iterations for name, number in each.items()}


def _is_calibrated(op: Any, form: Mapping[str, Any], measured: bool) -> bool | None:
    takes_inputs = Form(**form).takes_inputs and _is_rewritten(op)
    return measured if takes_inputs else None


def _predicted(op: Any) -> float | None:
    if annotations.PREDICTED not in op.attributes:
        return None
    return float(ir.FloatAttr(op.attributes[annotations.PREDICTED]).value)


def _is_rewritten(op: Any) -> bool:
    """Whether a matmul has the form that it was assigned: it was not refused."""
    return annotations.BITS in op.attributes or annotations.PRODUCT in op.attributes


def _bits(module: ir.Module, op: Any, kind: str) -> float | None:
    """Return the bits that one weight of `op` is stored in."""
    if kind != "weight":
        return None
    if annotations.BITS in op.attributes:
        return float(ir.FloatAttr(op.attributes[annotations.BITS]).value)
    if op.name == "flow.dispatch":  # of a kernel that reads the weight as it is, in panels
        loads = (value for value in op.operands if _is_load(value))
        return next((float(element_of(value).width) for value in loads), None)
    found = match_product(op)
    weight = find_weight(found) if isinstance(found, Contraction) else found
    return float(stored_bits(module, weight)) if isinstance(weight, Weight) else None


def _is_load(value: Any) -> bool:
    op = defining(value)
    return op is not None and op.name == "util.global.load"
