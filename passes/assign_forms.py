"""``lowc-assign-forms``: give every named matmul the form that the recipe's rules choose."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from iree.compiler import ir

from . import annotations
from .base import Pass, RemarkKind
from .forms import Form, first_match, rules_from_text


@dataclass(frozen=True)
class AssignForms(Pass):
    """Annotate each named matmul with the form of the first rule whose glob matches its name.

    A matmul that no rule matches is left ``exact``.

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
        for op in annotations.matmuls(module):
            name = annotations.text(op, annotations.MATMUL)
            rule = first_match(rules, name)
            form = rule.form if rule else Form()
            op.attributes[annotations.FORM] = annotations.to_attribute(form.to_dict(), op.context)
            because = f"rule '{rule.match}'" if rule else "no rule matches"
            if form.form == "exact":
                annotations.set_text(op, annotations.LOWERING, f"exact ({because})")
            remark(RemarkKind.NOTE, op, name, f"form {form.form} ({because})")


def form_of(op: object) -> Form:
    """Return the form that a matmul was assigned; ``exact`` if none."""
    attributes = op.attributes  # type: ignore[attr-defined]
    if annotations.FORM not in attributes:
        return Form()
    return Form(**annotations.from_attribute(attributes[annotations.FORM]))
