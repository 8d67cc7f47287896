"""``lowc-assign-forms``: give every named matmul the form that the recipe's rules choose."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir

from . import annotations, look_ups
from .base import Pass, Refusal, RemarkKind
from .contraction import module_path
from .formats.floats import FORMATS
from .forms import SCOPES, Form, Rule, first_match, is_for, rules_from_text
from .name_matmuls import entry_suffix, unique


@dataclass(frozen=True)
class AssignForms(Pass):
    """Annotate each named matmul with the form of the first rule whose glob matches its name.

    A matmul that no rule matches is left ``exact``.  Rules with ``of = "elementwise"`` are for
    multiplications outside matmuls, which are called after their module with ``:mul`` behind it;
    only those that such a rule matches are named.

    Rules with ``of = "embedding"`` are for look-ups of rows of a parameter (:mod:`.look_ups`),
    which are called as matmuls are: ``model.embed_tokens``.

    A rule that decides nothing is warned of, unless it is all wildcards (``*:*``) and exact or for
    embeddings: that one is for whatever a model may have.

    Parameters
    ----------
    rules : str
        The recipe's rules as a JSON list, in order.

    Before::

        %y = linalg.matmul {lowc.matmul = "fc", lowc.kind = "weight"} …

    After ``lowc-assign-forms{rules='[{"match":"*","form":"dequant","weights":"i4"}]'}``::

        %y = linalg.matmul {lowc.matmul = "fc", lowc.kind = "weight",
                            lowc.form = {form = "dequant", group = 32 : i64, weights = "i4", …}} …
    """

    rules: str = "[]"
    name: ClassVar[str] = "lowc-assign-forms"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Annotate; change nothing else."""
        rules = rules_from_text(self.rules, self.name)
        names: dict[str, list[str]] = {scope: [] for scope in SCOPES}
        for op in annotations.matmuls(module):
            name = annotations.text(op, annotations.MATMUL)
            names["matmul"].append(name)
            rule = first_match(rules, name)
            form = rule.form if rule else Form()
            op.attributes[annotations.FORM] = annotations.to_attribute(form.to_dict(), op.context)
            because = f"rule '{rule.match}'" if rule else "no rule matches"
            if form.form == "exact":
                annotations.set_text(op, annotations.LOWERING, f"exact ({because})")
            remark(RemarkKind.NOTE, op, name, f"form {form.form} ({because})")
        if any(rule.form.of == "elementwise" for rule in rules):
            names["elementwise"] = _assign_elementwise(module, rules, remark)
        names["embedding"] = _assign_embeddings(module, rules, remark)
        for rule in rules:
            why = _why_unused(rule, rules, names[rule.form.of])
            if why:
                remark(RemarkKind.WARNING, None, f"rule '{rule.match}'", why)


def _why_unused(rule: Rule, rules: Sequence[Rule], names: Sequence[str]) -> str:
    """Say why `rule` decides for none of those `names`, or nothing if it does."""
    if any(first_match(rules, name, rule.form.of) is rule for name in names):
        return ""
    is_for_any = rule.form.form == "exact" or rule.form.of == "embedding"
    if is_for_any and not any(letter.isalnum() for letter in rule.match):
        return ""
    if any(is_for(rule, name) for name in names):
        return "earlier rules decide for all that it matches"
    return f"no {_CALLED[rule.form.of]} has such a name"


_CALLED = {
    "matmul": "matmul",
    "elementwise": "multiplication outside matmuls",
    "embedding": "embedding",
}


def _assign_embeddings(
    module: ir.Module, rules: Sequence[Rule], remark: Callable[..., None]
) -> list[str]:
    """Name and annotate the look-ups of rows; return their names."""
    names = []
    taken: Counter[str] = Counter()
    for op in annotations.operations(module):
        found = look_ups.match(module, op)
        if isinstance(found, Refusal):
            continue
        base = module_path(op.location) or found.source.removesuffix(".weight")
        name = unique(base, entry_suffix(op), taken)
        names.append(name)
        rule = first_match(rules, name, "embedding")
        form = rule.form if rule else Form(of="embedding")
        annotations.set_text(op, annotations.LOOKUP, name)
        annotations.set_text(op, annotations.SHAPE, f"{found.rows}x{found.columns}")
        op.attributes[annotations.FORM] = annotations.to_attribute(form.to_dict(), op.context)
        because = f"rule '{rule.match}'" if rule else "no rule matches"
        if form.form == "exact":
            annotations.set_text(op, annotations.LOWERING, f"as exported ({because})")
        remark(RemarkKind.NOTE, op, name, f"form {form.form} ({because})")
    return names


def _assign_elementwise(
    module: ir.Module, rules: Sequence[Rule], remark: Callable[..., None]
) -> list[str]:
    """Name and annotate the element-wise multiplications that a rule is for.

    Return the names that the globs were compared with.
    """
    names = []
    taken: Counter[str] = Counter()
    for op in annotations.operations(module):
        if annotations.MATMUL in op.attributes or not elementwise_multiplications(op):
            continue
        base = f"{module_path(op.location) or 'main'}:mul"
        rule = first_match(rules, base, "elementwise")
        if rule is None:
            continue
        name = base if not taken[base] else f"{base}#{taken[base]}"
        names.append(base)
        taken[base] += 1
        shape = ir.RankedTensorType(op.results[0].type)
        sizes = ["?" if shape.is_dynamic_dim(i) else str(shape.shape[i]) for i in range(shape.rank)]
        annotations.set_text(op, annotations.MATMUL, name)
        annotations.set_text(op, annotations.KIND, "elementwise")
        annotations.set_text(op, annotations.SHAPE, "x".join(sizes))
        op.attributes[annotations.FORM] = annotations.to_attribute(rule.form.to_dict(), op.context)
        remark(RemarkKind.NOTE, op, name, f"form {rule.form.form} (rule '{rule.match}')")
    return names


def elementwise_multiplications(op: Any) -> list[Any]:
    """Return the float multiplications in the body of an element-wise ``linalg.generic``."""
    if op.name != "linalg.generic" or len(op.results) != 1:
        return []
    kinds = ir.ArrayAttr(op.attributes["iterator_types"])
    if any("parallel" not in str(kind) for kind in kinds):
        return []
    body = [inner.operation for inner in op.regions[0].blocks[0].operations]
    return [
        inner
        for inner in body
        if inner.name == "arith.mulf" and str(inner.results[0].type) in FORMATS
    ]


def form_of(op: object) -> Form:
    """Return the form that a matmul was assigned; ``exact`` if none."""
    attributes = op.attributes  # type: ignore[attr-defined]
    if annotations.FORM not in attributes:
        return Form()
    return Form(**annotations.from_attribute(attributes[annotations.FORM]))
