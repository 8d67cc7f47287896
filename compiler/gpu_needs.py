"""What a GPU must have to run a module: less than its family has, where the module uses less."""

from typing import Any

from iree.compiler import ir

from ..passes import annotations, build
from ..passes.gpus import Gpu

MATRICES = "cooperativeMatrix"
# Of operands that products of whole matrices are generated for (``matrices`` of ``gpus.toml``).
NARROW = ("f16", "bf16", "i8")


def needs_of(module: ir.Module, gpu: Gpu) -> dict[str, Any]:
    """Return what :mod:`lowc.runtime.gpu_facts` is to ask of a device for `module`.

    A family may have matrices that a driver does not offer; then modules run there that have none.
    """
    needs = gpu.needs
    if MATRICES not in needs.get("features", ()) or multiplies_narrow(module):
        return needs
    return {**needs, "features": [name for name in needs["features"] if name != MATRICES]}


def multiplies_narrow(module: ir.Module) -> bool:
    """Whether IREE's code generation may find a product of 16-bit floats or of bytes.

    It may move a cast into a product, so that whatever reads such a tensor counts.
    """
    return any(_reads_narrow(op) for op in annotations.operations(module))


def _reads_narrow(op: Any) -> bool:
    if not op.name.startswith(("linalg.", "iree_linalg_ext.")):
        return False
    tensors = [value for value in list(op.operands)[:-1] if isinstance(value.type, ir.ShapedType)]
    return any(str(build.element_of(value)) in NARROW for value in tensors)
