"""A matmul of planes of signs by look-up in tables of sums of activations, for CPUs.

For a panel of columns, with rows r and planes i::

    for s in spans:                                        // one power of two each
      sum[r, i] = sum over the quads q of s of T[r, q][key[p, q, i]]           // integers, exact
      total[r] += 2^e[r, s] * sum over i of scale[p, g(s), i] * f32(sum[r, i])

Planes of binary codes have scales of their own.  Those of integers, and of ternary weights, are
joined before they are scaled (:class:`Scaling`)::

      D[r] = sum over i of 2^i sum[r, i] - z'[p, g(s)] * O[r, s]
      part[r] += 2^e[r, s] * f32(D[r])                     // of the spans of a group
      total[r] += half[p, g] * part[r]

in exactly the order of ``formats/bit_planes.py``.  How entries are looked up depends on the vector
unit: ``table_shuffles.py``, and ``table_permutes.py`` where it has VBMI and VNNI; five ternary
weights in a byte are looked up as one (``table_fives.py``), and with VBMI four of one row of
activations (``table_trits.py``).  How signs and scales are stored: ``formats/key_panels.py``,
``formats/sign_panels.py``, ``formats/trits.py``, ``formats/trit_quads.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from ..formats.binary_codes import WORD
from ..formats.tables import QUAD, TableFormat
from .epilogue import Epilogue
from .executable import Interface
from .record_matmul import RecordBody, RecordMatmul
from .table_fives import Fives
from .table_permutes import Permutes
from .table_rows import TableRows
from .table_shuffles import STEP, Shuffles
from .table_trits import TritQuads
from .tiles import Isa, Tile, has_short_tables, tables_together

SHORT = 1 << 15
FIVES_TOGETHER = 4  # panels, so that tables of 105 KB for 4096 inputs are read a fourth as often


@dataclass(frozen=True)
class Scaling:
    """How sums of planes become those of a product.

    Attributes
    ----------
    kind : str
        ``planes`` have a scale each for every group; ``bits`` are joined as those of integers, with
        half a scale for every group; ``ternary`` planes are added, and halved; ``trits`` are none,
        but five ternary weights in a byte, and ``quads`` four, which both planes' sums are of.
    symmetric : bool
        Of ``bits``: without zero points.
    shared : bool
        Of ``planes``: whether all columns of a panel have the same scales.
    """

    kind: Literal["planes", "bits", "ternary", "trits", "quads"] = "planes"
    symmetric: bool = True
    shared: bool = False

    @property
    def name(self) -> str:
        """The part of a kernel's symbol."""
        kinds = {"planes": "b", "bits": "i", "ternary": "t", "trits": "f", "quads": "q"}
        zeros = "" if self.symmetric else "z"
        return kinds[self.kind] + zeros + ("s" if self.shared else "")

    def factors(self, planes: int) -> list[int] | None:
        """Return what planes are multiplied by before they are joined; None if they are not."""
        if self.kind == "planes":
            return None
        return [1 << i if self.kind == "bits" else 1 for i in range(planes)]

    def tensors(self, groups: int, planes: int, columns: int) -> list[tuple[str, list[int], int]]:
        """Return name, shape behind ``[batch, panels]`` and width of what is stored.

        Widths are those of integers; 0 is f32.
        """
        if self.kind in ("ternary", "trits", "quads"):
            return []
        if self.kind == "bits":
            zeros = [] if self.symmetric else [("zeros", [groups, columns], 8)]
            return [("scales", [groups, columns], 0), *zeros]
        if self.shared:
            return [("scales", [groups, planes, 1], 0)]
        return [("scales", [groups, planes, columns // 2], 32)]


@dataclass(frozen=True)
class TableMatmul(RecordMatmul):
    """``C[batch, m, n]``: sums of looked up entries, exact over each span, scaled in f32.

    Bindings: records of the rows (:class:`.table_rows.TableRows`), panels of signs, what
    :meth:`Scaling.tensors` lists, and C.

    Attributes
    ----------
    batch, m, n, tile, epilogue, rounds
        As :class:`.record_matmul.RecordMatmul` has them.
    rows : TableRows
        The records: K, spans, where scales stand.
    planes, group : int
        Planes of signs, and how many inputs share a scale: whole spans, or all of K.
    scaling : Scaling
        How planes are scaled.
    """

    batch: int
    m: int | None
    n: int
    rows: TableRows
    planes: int
    group: int
    tile: Tile
    epilogue: Epilogue | None = None
    scaling: Scaling = Scaling()
    rounds: bool = False

    @property
    def groups(self) -> int:
        """Groups of K."""
        return -(-self.rows.k // self.group)

    @property
    def per_group(self) -> int:
        """Spans of a group."""
        return min(-(-self.group // self.rows.format.span), self.rows.spans)

    @property
    def has_parts(self) -> bool:
        """Whether spans are added up to a group before its scale comes."""
        return self.scaling.kind == "bits" and self.per_group > 1

    @property
    def sums_bytes(self) -> int:
        """Bytes on the stack that sums take, those of groups too."""
        return super().sums_bytes * (2 if self.has_parts else 1)

    @property
    def pairs(self) -> int:
        """Pairs of quads of all spans."""
        return self.rows.spans * self.rows.quads // 2

    @property
    def words(self) -> int:
        """Words of signs of all spans, where spans are whole words."""
        return self.rows.spans * self.rows.format.span // WORD

    @property
    def bits_per_weight(self) -> float:
        """Bits that a weight takes in panels, scales and what fills up K counted."""
        bits = sum(math.prod(shape) * (width or 32) for _, shape, width in self.parts)
        return bits / self.tile.columns / self.rows.k

    @property
    def parts(self) -> list[tuple[str, list[int], int]]:
        """Name, shape behind ``[batch, panels]`` and width of each tensor of the weight."""
        columns = self.tile.columns
        signs = ("keys", [self.pairs, self.planes, columns // 4], 32)
        if self.scaling.kind in ("trits", "quads"):
            signs = (self.scaling.kind, [self.rows.spans * self.rows.quads, columns // 4], 32)
        elif self.rows.by_four:
            signs = ("words", [self.words, self.planes, columns], 32)
        return [signs, *self.scaling.tensors(self.groups, self.planes, columns)]

    @property
    def weights(self) -> list[tuple[list[int], int]]:
        """Shapes and widths of :attr:`parts`."""
        return [(shape, width) for _, shape, width in self.parts]

    def together(self, rows: int) -> int:
        """Return how many panels are read side by side for a block of `rows`."""
        if self.rows.by_four:
            return 1
        if self.scaling.kind == "quads":
            return self.tile.panels
        if self.scaling.kind == "trits":
            return min(max(1, FIVES_TOGETHER // rows), self.tile.panels)
        return min(tables_together(self.rows.isa, rows, self.planes), self.tile.panels)

    @property
    def name(self) -> str:
        """A symbol that two kernels share only if they are the same."""
        m = "d" if self.m is None else str(self.m)
        tile = f"t{self.tile.rows}x{self.tile.vectors}g{self.tile.panels}c{self.tile.row_chunk}"
        after = "" if self.epilogue is None else f"_{self.epilogue.name}"
        kind = f"{self.scaling.name}{self.planes}g{self.group}"
        own = "own" if self.rounds else ""
        return f"{own}lookup_{kind}_{self.batch}x{m}x{self.n}_{self.rows.name}_{tile}{after}"

    def describe(self) -> str:
        """Say which kernel it is."""
        size = f"{self.tile.rows} x {self.tile.columns}"
        how = "vpermb, vpdpbusd" if self.rows.by_four else "vpshufb"
        if self.scaling.kind == "trits":
            how = "vpermi2b" if self.rows.isa.vbmi else "vpshufb, five at once"
        if self.scaling.kind == "quads":
            how = "vpermi2b, four at once"
        text = f"look-up kernel ({how}, i{self.rows.format.bits}), {size} sums in registers"
        text += ", makes its tables" if self.rounds else ""
        return text if self.epilogue is None else f"{text}, {self.epilogue.describe()}"

    def body(self, interface: Interface) -> RecordBody:
        """Return what builds the kernel's function, its buffers bound at the current place."""
        body = Permutes if self.rows.by_four else Shuffles
        made_by: Any = {"trits": Fives, "quads": TritQuads}.get(self.scaling.kind, body)
        found: RecordBody = made_by(self, interface)
        return found


def refusal(fmt: TableFormat, group: int, k: int) -> str:
    """Say why there is no kernel for tables of `fmt` and groups of a weight; "" if there is."""
    if fmt.span % (QUAD * STEP):
        return f"a span of {fmt.span} is no multiple of {QUAD * STEP}"
    if group < k and group % fmt.span:
        return f"a group of {group} is not whole spans of {fmt.span}"
    if fmt.span // QUAD * fmt.largest >= SHORT:
        return f"sums over spans of {fmt.span} do not fit 16 bits"
    return ""


def makes_tables(rows: TableRows, m: int | None) -> bool:
    """Whether each workgroup of a product with `m` rows makes their tables for itself.

    It takes 1.9 us of a workgroup for 4096 inputs where four quads are looked up at once (Zen 4);
    elsewhere more, and was not measured.
    """
    return (rows.by_four or rows.for_trits) and has_short_tables(m, rows.k)


def looks_up_trits(isa: Isa, fmt: TableFormat, m: int | None) -> bool:
    """Whether four ternary weights are looked up at once.

    It is for one row: sums that weights can choose are made for each row again.  A byte holds two
    entries, and 16 bits their sum over a span.
    """
    fits = fmt.bits < 8 and 2 * (fmt.span // QUAD) * fmt.largest < SHORT
    return m == 1 and isa.vbmi and fits


def looks_up_four(isa: Isa, fmt: TableFormat) -> bool:
    """Whether four quads are looked up at once: spans are whole words of signs."""
    return isa.vbmi and isa.vnni and fmt.span % WORD == 0
