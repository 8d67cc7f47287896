"""``lowc-outline-kernels``: dispatch to a kernel of lowc's own where there is one.

What a family of kernels takes, how it is matched and what replaces it stand in a file of its own:
``takes(op)``, ``match(op, unit)`` with a plan or the reason why not, ``rewrite(module, plan)``.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from iree.compiler import ir

from . import (
    annotations,
    chain_products,
    digit_products,
    joint_products,
    outline_additive,
    outline_bipolar,
    outline_dequant,
    outline_dequant_gpu,
    outline_float,
    outline_integer,
    outline_shifts,
    outline_signed_sums,
    outline_tables,
    outline_threads,
    shared_panels,
)
from .base import Pass, Refusal, RemarkKind
from .epilogues import Chain
from .kernels import tiles
from .tiling import attribute, families

FAMILIES: tuple[Any, ...] = (
    outline_additive,
    outline_float,
    outline_dequant,
    outline_integer,
    outline_shifts,
    outline_bipolar,
    outline_signed_sums,
    outline_tables,
)
# Those of one unit come before the others.
OF_UNIT: dict[str, tuple[Any, ...]] = {
    "spirv": (outline_threads,),
    "ptx": (outline_dequant_gpu,),
}


def family_of(op: Any, unit: str) -> Any:
    """Return the family of kernels for `unit` that takes `op`; None where there is none."""
    several = (*OF_UNIT.get(unit, ()), *FAMILIES)
    return next((family for family in several if family.takes(op)), None)


@dataclass(frozen=True)
class OutlineKernels(Pass):
    """Replace matrix products by dispatches to a generated kernel.

    The families: sums of added products (``lmul``, ``pam``), of which some also run on GPUs;
    products of f32; products of f32 and a weight in few bits; products of 8-bit activations and a
    weight of integers, whose activation is rounded by a kernel of its own; products of f32 and
    planes of signs by look-up, whose tables are made by a kernel of their own; products by powers
    of two; signed sums by planes of signs; and products of two activations in planes of signs, of
    which the right one is coded by a kernel of its own.  The first and the last three are bit for
    bit what the portable form computes; f32 sums of the others come in another order.

    A kernel reads the right operand in panels: a weight is stored so (a new derivation), an
    activation is packed by the kernel, or ahead of it by one ``linalg.generic``.  Below is an added
    product on a CPU; on a GPU it is started for ``[%groups, %chunks, %batch]``.

    What follows a product element by element is done by the kernel before it stores the sums: bias,
    activation, residual, gate (``passes/epilogues.py``).  The report names it: ``+ bias, gelu``.

    A weight that several products share is stored once: its panels are those of the product with
    the most rows, or of the one that has a tile already (``passes/shared_panels.py``).

    Products of the same one to four rows, of a kernel that prepares them itself, become one
    dispatch, queries, keys and values or gate and up; an RMSNorm that makes these rows for nobody
    else goes into it (``passes/joint_products.py``).

    Such dispatches, also of single products, become steps of one dispatch where the activation of
    each is what the one before makes, as output, gate and up, down, and the next layer's queries,
    keys and values (``passes/chain_products.py``).

    A kernel is generated for the tile that ``lowc.tile`` says on the product
    (``lowc-select-tiles``), else for a default one.  A product that stays with IREE's code
    generation gets it as ``#iree_cpu.lowering_config``.

    Before::

        %p = linalg.generic ins(%x) … { bitcast, andi, maxui, minui, andi, ori, subi }
        %b = util.global.load @"fc.weight.f32m23….bits" : tensor<64x32xi32>
        %y = linalg.generic (m, n, k) ins(%p, %b) … { addi, bitcast, addf }
        %z = linalg.generic (m, n) ins(%y, %bias) … { addf }

    After::

        hal.executable.source private @add_… { … }
        %b = util.global.load @"fc.weight.f32m23….p32x16.bits" : tensor<1x1x64x32xi32>
        %z = flow.dispatch @add_…::@add_…[%groups, %chunks * %batch, %c1](%x, %b, %bias) : … -> …

    Parameters
    ----------
    unit : str
        The vector unit of a CPU, or the code of a GPU, that the kernels are for; ``none`` outlines
        nothing.
    dot4 : bool
        Whether the Vulkan device multiplies four bytes in one instruction.
    kernels : bool
        Without them products only get their tile, for code generation.
    chains : bool
        Whether dispatches become one of which each reads what the one before makes.
    """

    unit: tiles.Unit = "none"
    dot4: bool = False
    kernels: bool = True
    chains: bool = True
    name: ClassVar[str] = "lowc-outline-kernels"

    def run(self, module: ir.Module, remark: Callable[..., None]) -> None:
        """Outline every sum that there is a kernel for; say why not for the others."""
        if self.kernels:
            shared_panels.settle(module, self.unit, family_of, attribute.columns_asked)
        ops = annotations.matmuls(module)
        names = [annotations.text(op, annotations.MATMUL) for op in ops]
        steps: dict[str, Any] = {}  # kernels that may be steps of chains
        done: set[int] = set()  # what was joined with a product in front of it
        for place, (op, name) in enumerate(zip(ops, names, strict=True)):
            if place in done or op.name == "flow.dispatch":
                continue  # It has one, with what else it does.
            family = family_of(op, self.unit)
            if family is None and not annotations.text(op, annotations.PRODUCT):
                continue
            plan = self._plan(family, op)
            if family is None or isinstance(plan, Refusal):
                why = f"stock code generation ({plan.reason})"
                annotations.add_text(op, annotations.LOWERING, why)
                attribute.tell_code_generation(op, self.unit)
                remark(RemarkKind.REFUSED, op, name, f"no kernel: {plan.reason}")
                continue
            later = {names[i]: i for i in range(place + 1, len(ops)) if i not in done}
            joint = joint_products.match(
                plan, (ops[i] for i in later.values()), self._plan_of_same(family)
            )
            kernel = plan.kernel if joint is None else joint.kernel
            steps[kernel.name] = chain_products.as_joint(kernel)
            if joint is None:
                _tell(op, plan, remark)
                family.rewrite(module, plan)
                continue
            for number, one in enumerate(joint.plans):
                bits = ir.FloatAttr.get(ir.F64Type.get(op.context), family.bits_of(one))
                one.product.op.attributes[annotations.BITS] = bits
                _tell(one.product.op, one, remark, joint.describe(number))
            done |= {later[found] for found in joint.names if found in later}
            joint_products.rewrite(module, joint, functools.partial(family.load_weight, module))
        erase_unread(module)
        if self.chains:
            known = {name: step for name, step in steps.items() if step is not None}
            chain_products.chain(module, known, self.unit, remark)

    def _plan(self, family: Any, op: Any) -> Any:
        """Describe the kernel for `op`, with the tile that is on it, or say why there is none."""
        if self.unit == "none" or not self.kernels:
            return Refusal("lowc's kernels are off")
        plan = family.match(op, self.unit) if family else _no_family(op)
        if isinstance(plan, Refusal):
            return plan
        plan = attribute.with_tile_on(op, plan, self.unit)
        if self.dot4 and family is outline_threads:
            plan = outline_threads.by_dots(plan)
        return plan

    def _plan_of_same(self, family: Any) -> Callable[[Any, ir.Value], Any]:
        """Return what describes the kernel of a product of an activation, of the same family."""

        def plan_of(op: Any, activation: ir.Value) -> Any:
            if family_of(op, self.unit) is not family:
                return None
            product = family.product_of(op)
            if isinstance(product, Refusal) or product.activation != activation:
                return None
            return self._plan(family, op)

        return plan_of


def _tell(op: Any, plan: Any, remark: Callable[..., None], beside: str = "") -> None:
    """Write onto `op`, and remark, which kernel it gets, and what is done `beside` it."""
    panels = shared_panels.panels_on(op)
    notes = [getattr(plan, "note", ""), "" if panels is None else panels.reason, beside]
    text = "; ".join([plan.kernel.describe(), *filter(None, notes)])
    annotations.add_text(op, annotations.LOWERING, text)
    annotations.set_text(op, annotations.TILE, families.tiling_of(plan.kernel).text)
    name = annotations.text(op, annotations.MATMUL)
    remark(RemarkKind.APPLIED, op, name, text + _apart(plan))


def _no_family(op: Any) -> Refusal:
    """Say why there is no kernel of a form."""
    kind = annotations.product_facts(op).get("kind")
    return Refusal(digit_products.NO_KERNEL if kind == digit_products.KIND else _NO_KERNEL)


_NO_KERNEL = "no kernel of this form"
_PURE = ("arith.", "linalg.", "math.", "tensor.", "util.optimization_barrier")


def erase_unread(module: ir.Module) -> None:
    """Erase what only replaced operations read.

    Nothing else would erase a barrier, and the weight behind it would be stored a second time.
    """
    for op in reversed(list(annotations.operations(module))):
        results = list(op.results)
        if results and op.name.startswith(_PURE) and not any(_is_read(value) for value in results):
            op.erase()


def _is_read(value: ir.Value) -> bool:
    return next(iter(value.uses), None) is not None


def _apart(plan: Any) -> str:
    """Say why the kernel does not do what follows it, or no more of it."""
    chain: Chain | Refusal | None = getattr(plan, "chain", None)  # not all families have one
    if chain is None:
        return ""
    reason = chain.reason if isinstance(chain, Refusal) else chain.stopped
    return f"; what follows stays: {reason}"
