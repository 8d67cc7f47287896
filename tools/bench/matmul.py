"""``lowc bench matmul``: one product under one form, beside peers and the physical limit."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import click

from ...compiler import machine
from ...compiler.recipe import built_in_names, load_recipe
from ...compiler.target import load_target
from ...errors import UserError
from ...passes.forms import FORMS, Rule
from .. import output
from ..report.plots import check_plot_path
from . import limits, opponents, peers, show
from .measure import Bench
from .products import Product, Shape
from .record import keep as keep_record
from .record import new_record


@click.command("matmul")
@click.option(
    "--form", default="exact", show_default=True,
    help=f"One of {', '.join(FORMS)}, or a built-in recipe such as w4a8, whose last rule counts.",
)  # fmt: skip
@click.option("--weights", help="Storage of the weight: i2 … i8, nf4 (dequant), bf16, f8E4M3FN …")
@click.option("--group", type=int, help="dequant, binary, lut: weights that share a scale.")
@click.option(
    "--zero-points/--symmetric", default=None, help="dequant, lut: with zero points or none."
)
@click.option("--planes", type=int, help="binary, bipolar: planes of signs, bits of a number.")
@click.option("--scales", help="dequant: f32 or f16; bipolar: f32, or power for powers of two.")
@click.option("--outputs", type=int, help="binary: output channels that share scales.")
@click.option("--terms", type=int, help="binary: powers of two that a scale is the sum of.")
@click.option("--tables", help="binary, ternary, lut: none, or entries of i6, i7, i8.")
@click.option("--packing", help="ternary: bits, or trits for five weights in a byte.")
@click.option("--span", type=int, help="binary, ternary, lut: inputs whose tables share a scale.")
@click.option("--activations", help="dequant: f32, or i8 for integer products.")
@click.option("--activation-scale", help="dequant: a scale per row or group of i8 activations.")
@click.option("--mantissa-bits", type=int, help="lmul, pam: leading bits that are kept.")
@click.option("--specials", help="lmul, pam: finite or full.")
@click.option("--gain", is_flag=True, help="lmul, pam: divide by the slope.")
@click.option("--carrier", help="lmul, pam: the format that is added in.")
@click.option("--accumulate", help="lmul, pam: the format of the sum.")
@click.option("--m", type=click.IntRange(min=1), help="Rows of the left operand.")
@click.option("--n", type=click.IntRange(min=1), help="Columns of the right operand.")
@click.option("--k", type=click.IntRange(min=1), help="What is summed over.")
@click.option("--batch", type=click.IntRange(min=1), help="Independent products at once.")
@click.option(
    "--shape", "shapes", multiple=True, metavar="[B×]M×N×K",
    help="A shape, such as 128x384x1536; may be given several times.",
)  # fmt: skip
@click.option(
    "--no-weight", is_flag=True, help="A product of two activations; always so with a batch."
)
@click.option("--target", help="The target to compile for; by default that of the device.")
@click.option(
    "--device", default="auto", show_default=True,
    help="Where to run: cpu, vulkan, cuda, vulkan://0, vulkan://UUID … ('lowc doctor' lists them).",
)  # fmt: skip
@click.option(
    "--against", default="torch,iree", show_default=True,
    help=f"Peers, separated by commas: {', '.join(peers.PEERS)}.",
)  # fmt: skip
@click.option("--rotate", is_flag=True, help="Take turns among weights, more than caches hold.")
@click.option(
    "--threads", type=click.IntRange(min=0), default=0, help="Threads for each; 0 means all cores."
)
@click.option(
    "--blocks", type=click.IntRange(min=1), default=15, show_default=True,
    help="Blocks of calls for each.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw bars into this file.")
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False),
    help="Keep the result, with machine and date, as a JSON file in this folder.",
)  # fmt: skip
def matmul_command(
    m: int | None, n: int | None, k: int | None, batch: int | None, shapes: tuple[str, ...],
    no_weight: bool, target: str | None, device: str, against: str, rotate: bool, threads: int,
    blocks: int, as_json: bool, plot: Path | None, keep: Path | None, **form: Any,
) -> None:  # fmt: skip
    """Time one matmul under one form beside its peers and beside what the machine allows.

    The product goes the whole road of ``lowc compile``.  Calls of all contenders alternate in
    blocks, as do those of small kernels that measure the limits: the rate of multiply-adds, that of
    additions, and the bandwidth.  ``error`` is relative to the exact product; what has a form is
    compared with its NumPy definition too, and refused when it differs.

    Peers that multiply by weights in few bits get those of the form, code by code, and the best of
    them is named; how far they are from the product of these weights tells whether they rounded
    their activations.  ``iree`` is stock IREE under the best of several sets of flags, on the
    product that lowc rewrote if its weights have few bits, else in f32; ``iree-form`` is always on
    that product, with the flags of the target.  Operands lie on the device before the clock starts.
    """
    from ...compiler.device_targets import chosen

    # What is misspelt is said before what is missing.
    rule, target = _rule(form), chosen(target, device)
    load_target(target)
    names = tuple(part.strip() for part in against.split(",") if part.strip())
    opponents.check_names(names, tuple(peers.PEERS))
    wanted = _shapes(shapes, m, n, k, batch)
    _check_files(plot, keep)
    threads = threads or len(os.sched_getaffinity(0))
    products = [Product(shape, not no_weight and shape.batch == 1) for shape in wanted]
    contenders = sum(offer.takes(rule.form) for name in names for offer in peers.PEERS[name])
    for product in products:
        _check_memory(product, contenders + 1, rotate)
    with tempfile.TemporaryDirectory(prefix="lowc-bench-") as folder:
        probes = limits.Limits(threads, Path(folder)) if _is_cpu(target) else None
        bench = Bench(rule, target, threads, rotate, names, probes, device)
        outcomes = [bench.measure(product, blocks) for product in products]
    record = new_record(
        form=rule.form.to_dict(), target=target, device=device, threads=threads, rotated=rotate,
        has_weight=[product.has_weight for product in products],
        products=[outcome.to_dict() for outcome in outcomes],
    )  # fmt: skip
    if keep is not None:
        output.remark(f"kept in {keep_record(record, keep, _stem(rule, wanted, rotate, target))}")
    if plot is not None:
        show.draw_bars(plot, record)
    if as_json:
        output.result_json(record)
        return
    show.print_record(record)


def _rule(given: dict[str, Any]) -> Rule:
    """Return the one rule that the options stand for."""
    where = "the options of the form"
    chosen = {key.replace("_", "-"): value for key, value in given.items() if value is not None}
    has_zeros, has_gain = chosen.pop("zero-points", None), chosen.pop("gain")
    data = _base(chosen.pop("form")) | chosen
    if has_zeros is not None:
        if data["form"] not in ("dequant", "lut"):
            raise UserError(f"form '{data['form']}' takes no zero points", where=where)
        data["symmetric"] = not has_zeros
    if has_gain:
        data["gain"] = True
    return Rule.from_dict({**data, "match": "*"}, where)


def _base(form: str) -> dict[str, Any]:
    """Return the rule that the options add to: a bare form, or the last rule of a recipe."""
    if form in FORMS or form not in built_in_names():
        return {"form": form}
    rules = load_recipe(form).rules
    return rules[-1].to_dict() if rules else {"form": "exact"}


def _shapes(
    texts: tuple[str, ...], m: int | None, n: int | None, k: int | None, batch: int | None
) -> list[Shape]:
    """Return the shapes of ``--shape``, and the one of ``--m --n --k --batch`` before them."""
    shapes = [Shape.parse(text) for text in texts]
    if m and n and k:
        return [Shape(batch or 1, m, n, k), *shapes]
    if m or n or k or batch:
        raise UserError("a shape needs --m, --n and --k", hint="or --shape 128x384x1536")
    if not shapes:
        raise UserError(
            "there is no shape", hint="--m 128 --n 384 --k 1536, or --shape 128x384x1536"
        )
    return shapes


def _check_files(plot: Path | None, keep: Path | None) -> None:
    """Refuse files that could not be written, before anything is timed.

    The folder of a plot must be there; what is kept gets a folder if there is none.
    """
    if plot is not None:
        check_plot_path(plot)
        if plot.is_dir():
            raise UserError("it is a folder", where=f"--plot {plot}", hint="name a file: bars.svg")
        if not plot.parent.is_dir():
            raise UserError(
                f"there is no folder '{plot.parent}'", where="--plot", hint="make it first"
            )
        _check_writable(plot.parent, "--plot")
    if keep is not None:
        there = next(path for path in (keep, *keep.absolute().parents) if path.exists())
        if not there.is_dir():
            raise UserError(f"'{there}' is no folder", where="--keep", hint="name another one")
        _check_writable(there, "--keep")


def _check_writable(folder: Path, where: str) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"the folder '{folder}' cannot be written to: {error.strerror}", where=where,
            hint="name another place",
        ) from error  # fmt: skip


def _check_memory(product: Product, contenders: int, rotate: bool) -> None:
    """Refuse a product that does not fit: operands, results and copies of all contenders."""
    memory = machine.memory_here()
    rotated = limits.CACHES_TO_FILL * limits.cache_bytes() if rotate else 0
    needed = (contenders + 3) * (product.bytes_f32 + rotated)
    if memory is not None and needed > memory[1]:
        raise UserError(
            f"{product.shape} needs about {output.size_text(needed)} of memory, "
            f"{output.size_text(memory[1])} are there",
            hint="a smaller shape, fewer peers, or no --rotate",
        )


def _is_cpu(target: str) -> bool:
    return target.partition(":")[0] == "cpu"


def _stem(rule: Rule, shapes: list[Shape], rotate: bool, target: str) -> str:
    """Return the beginning of the file's name: form, shape, and what else tells runs apart."""
    device = "" if _is_cpu(target) else target.partition(":")[0]
    form = rule.form
    bits = f"m{form.mantissa_bits}" if form.mantissa_bits else ""
    place = str(shapes[0]) if len(shapes) == 1 else f"{len(shapes)}-shapes"
    activations = "a8" if form.activations == "i8" else ""
    group = f"g{form.group}" if form.form in ("dequant", "binary", "lut") else ""
    group += f"-{form.scales}" if form.form == "dequant" and form.scales != "f32" else ""
    planes = f"{form.planes}-{form.tables}" if form.form == "binary" else ""
    planes = form.packing if form.packing == "trits" else planes
    planes = f"{form.planes}-{form.scales}" if form.form == "bipolar" else planes
    parts = (
        "matmul", form.form, form.weights, planes, activations, group, bits, place,
        "rotated" if rotate else "", device,
    )  # fmt: skip
    return "-".join(part for part in parts if part)
