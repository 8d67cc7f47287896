"""``lowc report energy``: operations of a model, and what they cost in joules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import UserError
from .. import output
from .plots import check_plot_path, draw

if TYPE_CHECKING:
    from ...compiler.energy import Table

# What is replaced → what replaces it, as kinds of operations: the figures of the L-Mul paper.
ARITHMETIC = (
    ("f16 multiplication → i16 addition", ("mulf.f16",), ("addi.i16",)),
    ("f32 multiplication → i32 addition", ("mulf.f32",), ("addi.i32",)),
    ("f32 dot product, f32 sums", ("mulf.f32", "addf.f32"), ("addi.i32", "addf.f32")),
    ("f16 dot product, f16 sums", ("mulf.f16", "addf.f16"), ("addi.i16", "addf.f16")),
)
_TOP = 8


@click.command("energy")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--recipe", "recipes", multiple=True, help="Beside f32; may be given several times.")
@click.option("--target", default="cpu", show_default=True, help="The target to compile for.")
@click.option(
    "--table", "table_name", metavar="FILE",
    help="Prices: a .toml file, or a built-in name (default: horowitz-45nm).",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the recipes: .png, .svg, .pdf.")
def energy_command(
    model: Path | None, recipes: tuple[str, ...], target: str, table_name: str | None,
    as_json: bool, plot: Path | None,
) -> None:  # fmt: skip
    """Count the operations of MODEL and price them; without MODEL, compare the prices alone.

    MODEL is a compiled .vmfb, of which each entry is counted apart, or a .pt2 or .mlir, which is
    taken through the passes of each recipe but not compiled.  Operations are counted from the
    rewritten IR, for one call.  "core" is multiplying and accumulating, "guards" the comparisons,
    selections and shifts around it.  Memory is what it costs if every tensor of every operation
    goes through it: an upper bound.
    """
    from ...compiler.energy import DEFAULT, load_table

    if plot is not None:
        check_plot_path(plot)
        if model is None:
            raise UserError("there is nothing to plot", hint="lowc report energy MODEL --plot FILE")
    table = load_table(table_name or DEFAULT)
    reports = [] if model is None else _reports(model, recipes, target, table)
    arithmetic = arithmetic_rows(table)
    data = {
        "table": table.name,
        "source": table.source,
        "arithmetic": arithmetic,
        "model": model.name if model else None,
        "recipes": reports,
    }
    if plot is not None:
        draw(plot, lambda figure: _fill(figure, reports))
    if as_json:
        output.result_json(data)
        return
    _print_arithmetic(arithmetic, table)
    if model is not None:
        for of_entry in _by_entry(reports):
            entry = of_entry[0]["entry"]
            _print_model(f"{model.name}, {entry}" if entry else model.name, of_entry, table)


def arithmetic_rows(table: Table) -> list[dict[str, Any]]:
    """Return what the papers replace by what, priced by `table`; None where it has no price."""
    from ...compiler.energy import price, saving

    rows = []
    for what, old, new in ARITHMETIC:
        estimates = [price(dict.fromkeys(kinds, 1), table) for kinds in (old, new)]
        known = not any(estimate.unpriced for estimate in estimates)
        before, after = (estimate.compute_pj for estimate in estimates)
        rows.append(
            {
                "what": what,
                "picojoules_before": before if known else None,
                "picojoules_after": after if known else None,
                "saving": saving(after, before) if known else None,
            }
        )
    return rows


# -- what to report --------------------------------------------------------------------------------


def _reports(
    model: Path, recipes: tuple[str, ...], target: str, table: Table
) -> list[dict[str, Any]]:
    if model.suffix == ".vmfb":
        if recipes:
            raise UserError(
                "a compiled module has its one recipe", where=str(model),
                hint="leave --recipe out, or pass the model that it was compiled from",
            )  # fmt: skip
        return [_priced(report, table, str(model)) for report in _of_module(model)]
    from ...compiler.analysis import analyse
    from ...compiler.frontend import open_model
    from ...compiler.recipe import load_recipe
    from ...compiler.target import load_target

    chosen = [load_recipe(name) for name in dict.fromkeys(("f32", *recipes))]
    goal = load_target(target)
    found = []
    output.remark(f"importing {model}")
    with open_model(model) as imported:
        for recipe in chosen:
            output.remark(f"running the passes of recipe {recipe.name}")
            found.append(_priced(analyse(imported.copy(), recipe, goal), table, str(model)))
    return found


def _of_module(path: Path) -> list[dict[str, Any]]:
    """Return the report of each entry."""
    import iree.runtime as rt

    from ...runtime.vmfb import check_file, read_module

    check_file(path)
    _module, manifests = read_module(path, rt.VmInstance())
    return [
        {
            "recipe": manifest.recipe,
            "target": manifest.target,
            "entry": manifest.entry_point if manifest.entries else None,
            **manifest.report,
        }
        for manifest in manifests
    ]


def _priced(report: dict[str, Any], table: Table, where: str) -> dict[str, Any]:
    """Return the energy of a report by `table`, whichever it was made with."""
    from ...compiler.energy import price, summary, tallies_of

    exported, counted = tallies_of(report.get("energy"), where)
    try:
        rows = [
            {
                **{key: row[key] for key in ("name", "shape", "form", "operations", "bits_moved")},
                "energy_picojoules": price(row["operations"] or {}, table).compute_pj,
                "energy_exact_picojoules": price(row["operations_exact"], table).compute_pj,
            }
            for row in report["matmuls"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError("the report in the module is damaged", where=where) from error
    return {
        "recipe": report["recipe"],
        "target": report["target"],
        "entry": report.get("entry"),
        "energy": summary(exported, counted, table),
        "matmuls": rows,
    }


# -- text ------------------------------------------------------------------------------------------


def _print_arithmetic(rows: list[dict[str, Any]], table: Table) -> None:
    from ...compiler.energy import change_text, joules_text

    output.result(f"the arithmetic, by the table {table.name} ({table.source})\n")
    texts = [
        [row["what"], "", "", "no price"] if row["picojoules_before"] is None
        else [row["what"], joules_text(row["picojoules_before"]),
              joules_text(row["picojoules_after"]), change_text(row["saving"])]
        for row in rows
    ]  # fmt: skip
    output.table(
        ["one operation", "before", "after", "saving"], texts, right=["before", "after", "saving"]
    )


def _print_model(name: str, reports: list[dict[str, Any]], table: Table) -> None:
    from ...compiler.energy import change_text, joules_text

    dynamic = any(report["energy"]["dynamic"] for report in reports)
    each = "per call, per unit of the dynamic sizes (each taken as 1)" if dynamic else "per call"
    output.result(f"\n{name}, {each}\n")
    columns = _columns(reports)
    rows = []
    for title, energy in columns:
        pj = energy["picojoules"]
        both = pj["arithmetic"] + pj["guards"]
        weights = pj["memory_of_weights"]
        rows.append(
            [
                title, joules_text(pj["arithmetic"]), change_text(energy.get("core_saving")),
                joules_text(pj["guards"]), joules_text(both), change_text(energy.get("saving")),
                joules_text(weights), joules_text(pj["memory"] - weights),
            ]
        )  # fmt: skip
    headers = [
        "recipe", "core", "saving", "guards", "core + guards", "saving", "weights from memory",
        "activations ≤",
    ]  # fmt: skip
    output.table(headers, rows, right=headers[1:])
    _print_kinds(columns, table)
    for report in reports:
        _print_top(report)
    _print_what_is_missing(reports, table)


def _by_entry(reports: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    groups: dict[str | None, list[dict[str, Any]]] = {}
    for report in reports:
        groups.setdefault(report["entry"], []).append(report)
    return list(groups.values())


def _columns(reports: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return titles and energies: as exported, unless a recipe is just that, then each recipe."""
    named = [(report["recipe"], report["energy"]) for report in reports]
    exported = reports[0]["energy"]["exported"]
    if any(exported["picojoules"] == energy["picojoules"] for _, energy in named):
        return named
    return [("as exported", exported), *named]


def _print_kinds(columns: list[tuple[str, dict[str, Any]]], table: Table) -> None:
    kinds = {kind for _, energy in columns for kind in energy["operations"]}
    prices = {kind: table.price_of(kind) for kind in kinds}

    def cost(kind: str) -> float:
        found = prices[kind]
        most = max(energy["operations"].get(kind, 0) for _, energy in columns)
        return (found.picojoules if found else 0) * most

    rows = []
    for kind in sorted(kinds, key=lambda kind: (prices[kind] is None, -cost(kind), kind)):
        found = prices[kind]
        counts = [energy["operations"].get(kind, 0) for _, energy in columns]
        part, each = (found.part, f"{found.picojoules:g}") if found else ("", "no price")
        rows.append([kind, part, each, *(f"{number:,}" if number else "" for number in counts)])
    titles = [title for title, _ in columns]
    output.result("\noperations by kind\n")
    output.table(["kind", "part", "pJ each", *titles], rows, right=["pJ each", *titles])


def _print_top(report: dict[str, Any]) -> None:
    from ...compiler.energy import change_text, joules_text, saving

    rows = sorted(report["matmuls"], key=lambda row: -row["energy_picojoules"])
    if not rows:
        return
    most = f"the {_TOP} of {len(rows)} matmuls" if len(rows) > _TOP else "the matmuls"
    output.result(f"\nrecipe {report['recipe']}: {most} that cost most\n")
    output.table(
        ["matmul", "shape", "form", "core + guards", "as f32", "saving"],
        [
            [
                row["name"], row["shape"], row["form"], joules_text(row["energy_picojoules"]),
                joules_text(row["energy_exact_picojoules"]),
                change_text(saving(row["energy_picojoules"], row["energy_exact_picojoules"])),
            ]
            for row in rows[:_TOP]
        ],
        right=["core + guards", "as f32", "saving"],
    )  # fmt: skip


def _print_what_is_missing(reports: list[dict[str, Any]], table: Table) -> None:
    """Name every kind that no sum contains: it costs something all the same."""
    kinds = sorted({kind for report in reports for kind in report["energy"]["unpriced"]})
    reasons: dict[str, list[str]] = {}
    for kind in kinds:
        reasons.setdefault(table.why_unpriced(kind), []).append(kind)
    if reasons:
        output.result("\nwithout a price, and in no sum")
    for reason, group in reasons.items():
        output.result(f"  {', '.join(group)}\n    {reason}")
    unknown = sorted({op for report in reports for op in report["energy"].get("uncounted", {})})
    if unknown:
        output.result(f"\nnot counted, as nothing is known of them: {', '.join(unknown)}")


# -- plot ------------------------------------------------------------------------------------------


def _fill(figure: Any, reports: list[dict[str, Any]]) -> None:
    """Draw core, guards beside memory: one bar for the model as exported, one for each recipe."""
    columns = [
        (f"{title}, {of_entry[0]['entry']}" if of_entry[0]["entry"] else title, energy)
        for of_entry in _by_entry(reports)
        for title, energy in _columns(of_entry)
    ]
    titles = [title for title, _ in columns]
    energies = [energy["picojoules"] for _, energy in columns]
    left, right = figure.subplots(1, 2)
    weights = [pj["memory_of_weights"] / 1e6 for pj in energies]
    others = [(pj["memory"] - pj["memory_of_weights"]) / 1e6 for pj in energies]
    stacks = (
        (left, "arithmetic", [("multiply and accumulate", _micro(energies, "arithmetic")),
                              ("guards", _micro(energies, "guards"))]),
        (right, "memory, nothing fused", [("weights", weights), ("activations", others)]),
    )  # fmt: skip
    for axes, title, parts in stacks:
        below = [0.0] * len(titles)
        for label, values in parts:
            axes.bar(titles, values, bottom=below, label=label)
            below = [start + value for start, value in zip(below, values, strict=True)]
        axes.set_title(title)
        axes.set_ylabel("µJ per call")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=2)


def _micro(energies: list[dict[str, float]], part: str) -> list[float]:
    return [pj[part] / 1e6 for pj in energies]
