"""The forms that a matmul can take, and the rules that assign them.

A form says how a product is calculated; a rule gives a form to the matmuls whose name matches its
glob.  Recipes (TOML files, ``compiler/recipe.py``) are lists of rules.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError, nearest

FORMS = {
    "exact": "the multiplication that the model was exported with",
    "dequant": "weights in few bits, made floats again inside the product",
    "lmul": "each multiplication is one integer addition of bit patterns, with an offset (L-Mul)",
    "pam": "each multiplication is one integer addition of bit patterns (piecewise affine)",
    "lut": "integer weights bit by bit, by look-up in tables of sums of activations",
    "shift": "weights that are powers of two: shifts and additions (DeepShift, ShiftAddViT)",
    "signed-digits": "integer weights as signed powers of two: 8-bit activations shifted and added",
    "ternary": "weights of -1, 0 and 1 with one scale: additions, and a multiplication at the end",
    "bipolar": "both operands as planes of signs: XOR and counts of bits (MatAdd)",
    "binary": "weights as sums of planes of signs with power-of-two scales: shifts and additions",
}
INTEGER_BITS = {f"i{bits}": bits for bits in range(2, 9)}
FLOAT_BITS = {"f8E4M3FN": 8, "f8E5M2": 8, "f4E2M1": 4, "nf4": 4}
WEIGHT_BITS = {**INTEGER_BITS, **FLOAT_BITS}
ACTIVATIONS = ("f32", "i8")
ACTIVATION_SCALES = ("row", "group")
METHODS = {"dequant": ("rtn", "gptq"), "binary": ("auto", "bcq", "gptq"), "lut": ("rtn", "gptq")}
TABLE_BITS = {"i6": 6, "i7": 7, "i8": 8}
TABLES = ("none", *TABLE_BITS)
SPANS = (16, 32, 64, 128)
PACKINGS = ("bits", "trits")
MOST_PLANES, MOST_TERMS = 4, 3
SCALES = {"bipolar": ("f32", "power"), "dequant": ("f32", "f16")}
SPECIALS = ("finite", "full")
CARRIERS = ("f32", "bf16", "f16", "f8E4M3FN", "f8E5M2")
MANTISSA_BITS = {"f32": 23, "bf16": 7, "f16": 10, "f8E4M3FN": 3, "f8E5M2": 2}
STORED_FLOATS = {"bf16": 16, "f8E4M3FN": 8, "f8E5M2": 8}
SCOPES = ("matmul", "elementwise", "embedding")
_ADDED = ("mantissa-bits", "specials", "gain", "carrier", "accumulate", "weights", "of")
KEYS: dict[str, tuple[str, ...]] = {
    "exact": ("of",),
    "dequant": (
        "weights",
        "group",
        "symmetric",
        "scales",
        "activations",
        "activation-scale",
        "method",
        "of",
    ),
    "lmul": _ADDED,
    "pam": _ADDED,
    "lut": ("weights", "group", "symmetric", "tables", "span", "method"),
    "shift": (),
    "signed-digits": ("weights", "group", "activations", "activation-scale"),
    "ternary": ("tables", "span", "packing"),
    "bipolar": ("planes", "scales"),
    "binary": ("planes", "group", "outputs", "terms", "tables", "span", "method"),
}
# What rules of a form can be for; all others are for matmuls alone.
SCOPES_OF: dict[str, tuple[str, ...]] = {
    "exact": ("matmul", "embedding"),
    "dequant": ("matmul", "embedding"),
    "lmul": ("matmul", "elementwise"),
    "pam": ("matmul", "elementwise"),
}
# Where a form's default is not that of :class:`Form`.
DEFAULTS: dict[str, dict[str, Any]] = {
    "binary": {"group": 128, "method": "auto"},
    "lut": {"group": 128},
    "bipolar": {"planes": 1},
    "signed-digits": {"weights": "i8", "group": 0, "activations": "i8"},
}

# IREE's code generator cannot load a part of a vector of 4-bit elements (seen in 3.13): a group is
# a whole number of vectors, of 16 elements where it is short and of 64 where it is long.
SHORT_GROUP, LONG_GROUP = 16, 64
LARGEST_SIZE = 1 << 31  # of a dimension; more fits no attribute


def round_up_group(size: int) -> int:
    """Return the smallest group that code can be generated for and that holds `size` weights."""
    multiple = SHORT_GROUP if size <= LONG_GROUP else LONG_GROUP
    return -(-size // multiple) * multiple


# Signs are read from words of 32: a group of binary codes is a part of a word, or whole words.
_WORD = 32


def cut_binary(k: int, group: int, span: int | None) -> tuple[int, int]:
    """Return group and span for a binary-coded weight whose sums are over `k`.

    `group` 0 is all of K.  One group for all of K, or more, is filled up to whole spans (`span`
    None is for none) if there are several, else to whole words.
    """
    unit = max(span, _WORD) if span is not None and k > span else _WORD
    whole = -(-k // unit) * unit
    group = min(group or whole, whole)
    return group, min(span or group, group)


@dataclass(frozen=True)
class Form:
    """How one matmul is calculated.

    Attributes
    ----------
    form : str
        A key of :data:`FORMS`.
    weights : str
        Storage of the weight: a key of :data:`WEIGHT_BITS` (dequant; signed-digits: of the
        integer ones) or of :data:`STORED_FLOATS`
        (lmul, pam; empty leaves it in f32).
    group : int
        Weights along K that share one scale: 16, 32, 48 or a multiple of 64; 0 means all of K.
        binary, lut: 1, 2, 4, 8, 16 or a multiple of 32.
    symmetric : bool
        Without a zero point, if true.
    activations : str
        What the other operand is rounded to; ``f32`` leaves it as it is, ``i8`` makes the products
        integer ones (``formats/activations.py``).
    activation_scale : str
        Of ``i8`` activations: one scale per ``row`` or per ``group`` of the weight.
    method : str
        How the codes are chosen: ``rtn`` rounds to nearest, ``gptq`` column by column with error
        feedback, which needs inputs of a calibration; ``bcq`` (binary) takes alphas by least
        squares and signs by the nearest sum in turns (``formats/binary_codes.py``); ``auto``
        (binary) is ``gptq`` where there is a calibration, else ``bcq``.
    mantissa_bits : int
        lmul, pam: leading mantissa bits of each operand that are kept; 0 keeps all.
    specials : str
        lmul, pam: ``finite`` clamps magnitudes so that one addition does; ``full`` also has the
        rules for zero, NaN, infinity, underflow and overflow (``formats/lmul.py``).
    gain : bool
        lmul, pam: divide the sum by the slope of the approximate product.
    carrier : str
        lmul, pam: the format that operands are rounded to before they are added.
    accumulate : str
        lmul, pam: the format that the sum is rounded to after each addition.
    of : str
        One of :data:`SCOPES`: what the rule is for.  lmul, pam: ``elementwise`` rules apply to
        multiplications outside matmuls; exact, dequant: ``embedding`` rules to look-ups of rows.
    planes : int
        binary, bipolar: planes of signs, 1…4.
    outputs : int
        binary: output channels that share scales; 0 means all of N.
    terms : int
        binary: powers of two that a scale is the sum of, 1…3.
    tables : str
        binary, ternary, lut: bits of the entries of tables that partial sums are looked up in
        (``formats/tables.py``); ``none`` adds activations themselves.
    span : int
        binary, ternary, lut: inputs whose tables share a power of two, one of :data:`SPANS`.
    packing : str
        ternary: ``bits`` stores a weight in 2 bits, ``trits`` five in a byte, looked up at once.
    scales : str
        What scales are rounded to, one of :data:`SCALES`: those of groups (dequant,
        ``formats/half_scales.py``), those of rows (bipolar).
    """

    form: str = "exact"
    weights: str = ""
    group: int = 32
    symmetric: bool = True
    activations: str = "f32"
    activation_scale: str = "row"
    method: str = "rtn"
    mantissa_bits: int = 0
    specials: str = "finite"
    gain: bool = False
    carrier: str = "f32"
    accumulate: str = "f32"
    of: str = "matmul"
    planes: int = 0
    outputs: int = 1
    terms: int = 3
    tables: str = "i8"
    span: int = 64
    packing: str = "bits"
    scales: str = "f32"

    @property
    def bits(self) -> int:
        """Bits of one stored weight, without its scale."""
        return WEIGHT_BITS[self.weights]

    @property
    def has_integer_weights(self) -> bool:
        """Whether codes are numbers, not patterns of a float format or places in a table."""
        return self.weights in INTEGER_BITS

    @property
    def stores_codes(self) -> bool:
        """Whether the weight is stored as codes and scales, which ``dequant`` makes floats of."""
        return self.form in ("dequant", "signed-digits")

    @property
    def takes_inputs(self) -> bool:
        """Whether the codes depend on what the matmul reads, where a calibration tells it."""
        return self.method in ("gptq", "auto")

    @property
    def needs_inputs(self) -> bool:
        """Whether the codes cannot be chosen from the weight alone."""
        return self.method == "gptq"

    def check(self, where: str) -> None:
        """Raise a UserError, located at `where`, unless this is a possible form."""
        _known(self.form, FORMS, "form", where)
        self._check_scope(where)
        if self.form in ("exact", "shift"):
            return
        if self.form in ("lmul", "pam"):
            self._check_added(where)
            return
        if self.form == "binary":
            self._check_binary(where)
            return
        if self.form == "bipolar":
            _known(self.scales, SCALES[self.form], "scales", where)
            _within("planes", self.planes, MOST_PLANES, where, "1 is the sign alone; the default")
            return
        if self.form == "signed-digits":
            self._check_digits(where)
            return
        if self.form == "ternary":
            self._check_tables(where)
            self._check_packing(where)
            return
        if self.form == "lut":
            self._check_lut(where)
            return
        self._check_dequant(where)

    def _check_scope(self, where: str) -> None:
        scopes = SCOPES_OF.get(self.form, SCOPES[:1])
        _known(self.of, SCOPES, "of", where)
        if self.of not in scopes:
            raise UserError(
                f"of = '{self.of}' is not for form '{self.form}'", where=where,
                hint=f"it is for {' and '.join(scopes)} rules",
            )  # fmt: skip

    def _check_dequant(self, where: str) -> None:
        if self.of == "embedding" and (self.activations != "f32" or self.method != "rtn"):
            raise UserError(
                "what is looked up has no activations, nor inputs that tell how to round it",
                where=where, hint='leave activations and method out where of = "embedding"',
            )  # fmt: skip
        _known(self.weights, WEIGHT_BITS, "weights", where)
        _known(self.scales, SCALES[self.form], "scales", where)
        _known(self.activations, ACTIVATIONS, "activations", where)
        _known(self.activation_scale, ACTIVATION_SCALES, "activation-scale", where)
        _known(self.method, METHODS[self.form], "method", where)
        if not self.has_integer_weights and not self.symmetric:
            raise UserError(
                f"weights = '{self.weights}' have no zero point", where=where,
                hint="symmetric = true, or integer weights such as 'i4'",
            )  # fmt: skip
        if not self.has_integer_weights and self.activations == "i8":
            raise UserError(
                f"activations = 'i8' need integer weights, not '{self.weights}'", where=where,
                hint="activations = \"f32\", or integer weights such as 'i4'",
            )  # fmt: skip
        if not self.has_integer_weights and self.method == "gptq":
            raise UserError(
                f"method = 'gptq' needs integer weights, not '{self.weights}'", where=where,
                hint="method = \"rtn\", or integer weights such as 'i4'",
            )  # fmt: skip
        if self.activations == "f32" and self.activation_scale != "row":
            raise UserError(
                "activations = 'f32' have no scale", where=where,
                hint="activations = \"i8\", or leave activation-scale out",
            )  # fmt: skip
        self._check_code_group(where)

    def _check_digits(self, where: str) -> None:
        _known(self.weights, INTEGER_BITS, "weights", where)
        _known(self.activations, ("i8",), "activations", where)
        _known(self.activation_scale, ACTIVATION_SCALES, "activation-scale", where)
        self._check_code_group(where)

    def _check_code_group(self, where: str) -> None:
        if self.group < 0 or self.group != round_up_group(self.group):
            raise UserError(
                f"group = {self.group} is not 16, 32, 48 or a multiple of 64",
                where=where,
                hint="16, 32, 64 and 128 are usual; 0 means one group for all of K",
            )

    def _check_added(self, where: str) -> None:
        if self.weights:
            _known(self.weights, STORED_FLOATS, "weights", where)
        _known(self.specials, SPECIALS, "specials", where)
        _known(self.carrier, CARRIERS, "carrier", where)
        _known(self.accumulate, CARRIERS, "accumulate", where)
        most = MANTISSA_BITS[self.carrier]
        if not 0 <= self.mantissa_bits <= most:
            raise UserError(
                f"mantissa-bits = {self.mantissa_bits} is not 0 to {most}, what {self.carrier} has",
                where=where,
                hint="0 keeps all bits; 4 and 3 are the paper's",
            )
        if self.specials == "finite" and self.carrier not in ("f32", "bf16"):
            raise UserError(
                f"carrier = '{self.carrier}' has too short a range for specials = 'finite'",
                where=where,
                hint='specials = "full"',
            )
        if self.of == "elementwise" and (self.weights or self.gain or self.accumulate != "f32"):
            raise UserError(
                "weights, gain and accumulate are about sums of products", where=where,
                hint='leave them out where of = "elementwise"',
            )  # fmt: skip

    def _check_binary(self, where: str) -> None:
        _known(self.method, METHODS[self.form], "method", where)
        if not self.planes:
            raise UserError("the rule has no 'planes'", where=where, hint=_OF_PAPER)
        _within("planes", self.planes, MOST_PLANES, where, _OF_PAPER)
        _within("terms", self.terms, MOST_TERMS, where, _OF_PAPER)
        if not 0 <= self.outputs < LARGEST_SIZE:
            what = "negative" if self.outputs < 0 else "no size of a weight"
            raise UserError(
                f"outputs = {self.outputs} is {what}", where=where,
                hint="1 is a scale for each output channel; 0 means one for all of N",
            )  # fmt: skip
        self._check_tables(where)
        self._check_sign_groups(where)

    def _check_lut(self, where: str) -> None:
        _known(self.weights, ("i2", "i3", "i4"), "weights", where)
        _known(self.method, METHODS[self.form], "method", where)
        self._check_tables(where)
        if self.tables == "none":
            raise UserError(
                "tables = 'none' is no look-up", where=where,
                hint='tables = "i8", or form = "dequant"',
            )  # fmt: skip
        self._check_sign_groups(where)

    def _check_packing(self, where: str) -> None:
        _known(self.packing, PACKINGS, "packing", where)
        if self.packing == "trits" and self.tables == "none":
            raise UserError(
                "packing = 'trits' is for look-ups", where=where,
                hint='tables = "i7", or packing = "bits"',
            )  # fmt: skip

    def _check_sign_groups(self, where: str) -> None:
        is_part = self.group in (1, 2, 4, 8, 16)
        if self.group < 0 or (not is_part and self.group % _WORD):
            raise UserError(
                f"group = {self.group} is not 1, 2, 4, 8, 16 or a multiple of {_WORD}",
                where=where,
                hint="128 is usual; 0 means one group for all of K",
            )
        if self.tables == "none":
            return
        if self.group in (1, 2):
            raise UserError(
                f"group = {self.group} is too short for tables, which have 4 inputs", where=where,
                hint='tables = "none", or a group of 4 or more',
            )  # fmt: skip
        if self.group % min(self.span, self.group or self.span):
            raise UserError(
                f"group = {self.group} is no multiple of span = {self.span}", where=where,
                hint="a span lies in one group",
            )  # fmt: skip

    def _check_tables(self, where: str) -> None:
        _known(self.tables, TABLES, "tables", where)
        if self.span not in SPANS:
            raise UserError(
                f"span = {self.span} is not {', '.join(map(str, SPANS[:-1]))} or {SPANS[-1]}",
                where=where, hint="64 is usual",
            )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that this form uses."""
        used = ("form", *(key.replace("-", "_") for key in KEYS[self.form]))
        unused = {"span"} if self.tables == "none" else set()
        if self.of == "matmul" and self.form in ("exact", "dequant"):
            unused.add("of")
        if self.form == "dequant" and self.scales == "f32":
            unused.add("scales")
        return {key: getattr(self, key) for key in used if key not in unused}


@dataclass(frozen=True)
class Rule:
    """`form` for every matmul whose name matches the glob `match`."""

    match: str
    form: Form

    @classmethod
    def from_dict(cls, data: Any, where: str) -> Rule:
        """Read a rule as it stands in a recipe; `where` names file and line.

        Raises
        ------
        UserError
            Unknown key, form, or word; wrong type; impossible combination.
        """
        if not isinstance(data, dict):
            raise UserError("a rule is a table", where=where)
        fields = {field.name.replace("_", "-"): field for field in dataclasses.fields(Form)}
        values: dict[str, Any] = {}
        for key, value in data.items():
            if key == "match":
                continue
            if key not in fields:
                hint = nearest(key, [*fields, "match"])
                raise UserError(f"the key '{key}' is unknown", where=where, hint=hint)
            field = fields[key]
            if type(value).__name__ != field.type:
                raise UserError(
                    f"{key} = {value!r} has the type {type(value).__name__}, not {field.type}",
                    where=where,
                )
            values[field.name] = value
        match = data.get("match")
        if not isinstance(match, str) or not match:
            raise UserError("the rule has no 'match' glob", where=where, hint='match = "*"')
        if "form" not in values:
            raise UserError(
                "the rule has no 'form'", where=where, hint="known: " + ", ".join(FORMS)
            )
        form = Form(**{**DEFAULTS.get(values["form"], {}), **values})
        form.check(where)
        allowed = {"form", *(key.replace("-", "_") for key in KEYS[form.form])}
        extra = [key.replace("_", "-") for key in values if key not in allowed]
        if extra:
            raise UserError(
                f"form '{form.form}' takes no '{extra[0]}'", where=where,
                hint=f"it takes {', '.join(KEYS[form.form])}" if KEYS[form.form] else "",
            )  # fmt: skip
        if "span" in values and form.tables == "none":
            raise UserError(
                "tables = 'none' have no span", where=where,
                hint='tables = "i8", or leave span out',
            )  # fmt: skip
        return cls(match, form)

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as :meth:`from_dict` reads it."""
        fields = {key.replace("_", "-"): value for key, value in self.form.to_dict().items()}
        return {"match": self.match, **fields}


def first_match(rules: Sequence[Rule], name: str, scope: str = "matmul") -> Rule | None:
    """Return the first rule for `scope` (one of :data:`SCOPES`) whose glob matches `name`."""
    meant = (rule for rule in rules if rule.form.of == scope)
    return next((rule for rule in meant if is_for(rule, name)), None)


def is_for(rule: Rule, name: str) -> bool:
    """Whether the glob of `rule` matches `name`, with or without the entry that it ends in."""
    return any(fnmatch.fnmatchcase(part, rule.match) for part in (name, name.partition("@")[0]))


def rules_to_text(rules: Sequence[Rule]) -> str:
    """Return rules as one line of JSON, the text form of a pass option."""
    return json.dumps([rule.to_dict() for rule in rules], separators=(",", ":"))


def rules_from_text(text: str, where: str) -> tuple[Rule, ...]:
    """Undo :func:`rules_to_text`; raises UserError."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UserError(f"the rules are not JSON ({error})", where=where) from error
    if not isinstance(data, list):
        raise UserError("the rules are not a list", where=where)
    return tuple(Rule.from_dict(rule, f"{where}, rule {i + 1}") for i, rule in enumerate(data))


_OF_PAPER = "2 and 3 planes of signs and 3 terms are the paper's"


def _within(key: str, value: int, most: int, where: str, hint: str) -> None:
    if not 1 <= value <= most:
        raise UserError(f"{key} = {value} is not 1 to {most}", where=where, hint=hint)


def _known(word: str, words: Any, key: str, where: str) -> None:
    if word not in words:
        raise UserError(f"{key} = '{word}' is unknown", where=where, hint=nearest(word, words))
