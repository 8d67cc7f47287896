"""Measure one product: compile, check and time all that take part, and the limits beside them."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...passes.forms import Form, Rule
from .. import output
from . import check, limits, peers
from .contender import Contender, Setup
from .products import Product, Shape


@dataclass(frozen=True)
class Row:
    """One contender on one shape.

    ``limit_ms`` is the least time that its operations and bytes take here, ``limited_by`` says
    which; ``over_limit`` is how many times as long it took, ``reached`` the share of the limit that
    is, its inverse; ``error`` is ``||found - exact|| / ||exact||`` on a sample,
    ``definition_error`` the same against the NumPy definition of its form, or for peers against the
    exact product of the weights that they have; ``alike`` says that these weights are those of the
    form, and the activations in no fewer bits.
    """

    name: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    ratio: float
    gflops: float
    gigabytes_per_second: float
    limit_ms: float | None
    limited_by: str
    over_limit: float | None
    reached: float | None
    error: float
    definition_error: float
    alike: bool
    lowering: str


@dataclass(frozen=True)
class Outcome:
    """All rows of one shape, best measured rates per second, and who could not take part."""

    shape: Shape
    rows: list[Row]
    rates: dict[str, float]
    skipped: dict[str, str]

    @property
    def best_peer(self) -> Row | None:
        """The fastest of the others that have the weights of the form, and its precision."""
        return min((row for row in self.rows[1:] if row.alike), key=_time, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "shape": str(self.shape),
            "rows": [asdict(row) for row in self.rows],
            "best_peer": self.best_peer.name if self.best_peer else None,
            "rates": self.rates,
            "skipped": self.skipped,
        }


@dataclass(frozen=True)
class Bench:
    """What stays the same from shape to shape."""

    rule: Rule
    target: str
    threads: int
    rotate: bool
    names: tuple[str, ...]
    limits: limits.Limits | None
    device: str = "auto"

    def measure(self, product: Product, blocks: int) -> Outcome:
        """Compile, check and time all contenders on one product."""
        from ...runtime.timing import time_interleaved

        # The folder ends with the shape: rotated weights take much room.
        with tempfile.TemporaryDirectory(prefix="lowc-bench-") as folder:
            contenders, skipped = self._contenders(product, Path(folder))
            errors, wrong = find_errors(contenders, product)
            skipped |= wrong
            contenders = [contender for contender in contenders if contender.name in errors]
            demands = [contender.demand for contender in contenders]
            probes = self.limits.runners(demands) if self.limits else {}
            output.remark(f"timing {', '.join(contender.name for contender in contenders)}")
            runners = {contender.name: contender.rotating() for contender in contenders}
            times = time_interleaved({**runners, **probes}, blocks=blocks)
        rates = {}
        if self.limits is not None:
            rates = self.limits.rates({name: times[name] for name in probes})
        first = times[contenders[0].name].median
        rows = [
            _row(
                contender,
                times[contender.name],
                first,
                rates,
                errors[contender.name],
                product,
                self.rule.form,
            )
            for contender in contenders
        ]
        return Outcome(product.shape, rows, rates, skipped)

    def _contenders(self, product: Product, folder: Path) -> tuple[list[Contender], dict[str, str]]:
        from ...compiler.frontend import open_model

        output.remark(f"importing {product.shape}")
        with open_model(product.program()) as model:
            setup = Setup(
                product, self.rule, model, self.target, self.threads, folder, self.rotate,
                self.device,
            )  # fmt: skip
            output.remark("preparing lowc")
            found, skipped = [peers.ours(setup)], {}
            for name in self.names:
                for offered in peers.contenders(setup, name):
                    if isinstance(offered, tuple):
                        skipped[offered[0]] = offered[1]
                    else:
                        found.append(offered)
        return found, skipped


def find_errors(
    contenders: list[Contender], product: Product
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Call every copy once and check what it gives.

    Returns both relative errors by name, and why peers are left out.  A wrong result of a form of
    lowc's is an error.
    """
    sample = check.Sample.of(product)
    exact = check.exact(sample)
    errors: dict[str, tuple[float, float]] = {}
    wrong: dict[str, str] = {}
    for contender in contenders:
        found = [sample.take(contender.array(call())) for call in contender.calls]
        error = check.relative_error(found[0], exact)
        if contender.form is None:
            expected = check.product(contender.weights, sample)
            distance = max(check.relative_error(result, expected) for result in found)
            if not distance <= contender.tolerance:
                wrong[contender.name] = (
                    f"its result is wrong: it differs from the product by {distance:.2g}, "
                    f"its rounding explains {contender.tolerance:.2g}"
                )
                continue
            errors[contender.name] = error, distance
            continue
        defined = check.definition(contender.form, sample)
        bound = check.rounding(contender.form, sample)
        for result in found:
            check.check(contender.name, result, defined, bound)
        errors[contender.name] = error, check.relative_error(found[0], defined)
    return errors, wrong


def _time(row: Row) -> float:
    return row.median_ms


def _row(
    contender: Contender, timing: Any, first: float, rates: dict[str, float],
    errors: tuple[float, float], product: Product, form: Form,
) -> Row:  # fmt: skip
    limit = limits.limit_of(contender.demand, rates) if rates else None
    milliseconds = timing.median * 1e3
    return Row(
        name=contender.name,
        median_ms=milliseconds,
        p10_ms=timing.p10 * 1e3,
        p90_ms=timing.p90 * 1e3,
        ratio=timing.median / first,
        gflops=2 * product.shape.products / timing.median / 1e9,
        gigabytes_per_second=contender.demand.moved / timing.median / 1e9,
        limit_ms=limit.milliseconds if limit else None,
        limited_by=limit.by if limit else "",
        over_limit=milliseconds / limit.milliseconds if limit else None,
        reached=limit.milliseconds / milliseconds if limit else None,
        error=errors[0],
        definition_error=errors[1],
        alike=(contender.form or contender.weights) == form and not contender.is_rougher,
        lowering=contender.lowering,
    )
