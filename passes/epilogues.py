"""Find what follows a matmul element by element: bias, activation, residual.

A kernel can do it to the sums that it still holds in registers.  After torch-mlir a linear layer
and what follows it look like this, with a reshape between wherever PyTorch had three dimensions::

    %y = linalg.matmul …                                       // [rows, columns]
    %b = linalg.generic (i, j) ins(%y, %bias[j]) { addf }
    %e = tensor.expand_shape %b                                // [batch, sequence, columns]
    %s = linalg.generic (i, j, k) ins(%e) { negf, exp, addf, divf }
    %g = linalg.generic (i, j, k) ins(%e, %s) { mulf }         // SiLU uses %e twice
    %r = linalg.generic (i, j, k) ins(%g, %residual) { addf }

Operations are taken in the order of the block as long as they are of this kind.  One can stop
wherever nothing outside uses any but the last result; the last such place is chosen, here ``%r``.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from iree.compiler import ir

from . import annotations, build
from .base import Refusal
from .contraction import defining, dims_of, indexing_maps, is_dim
from .kernels.epilogue import Epilogue, Input, Kind, Step
from .kernels.gpu_results import ELEMENTS as ELEMENTS_OF_GPUS
from .kernels.gpu_results import can_read
from .matrices import Matrices

Kernel = TypeVar("Kernel", bound=Any)
MAX_STEPS = 96
VIEWS = ("tensor.cast", "tensor.collapse_shape", "tensor.expand_shape", "tensor.reshape")
ELEMENTS = ("f32", "f16", "bf16", "i32")  # of tensors that are read

# What IREE has vector code for: operations of the processor, and polynomials.
_ARITH = (
    "addf", "addi", "andi", "bitcast", "cmpf", "cmpi", "constant", "divf", "extf", "extsi", "extui",
    "fptosi", "fptoui", "maximumf", "maxnumf", "maxsi", "maxui", "minimumf", "minnumf", "minsi",
    "minui", "mulf", "muli", "negf", "ori", "select", "shli", "shrsi", "shrui", "sitofp", "subf",
    "subi", "truncf", "trunci", "uitofp", "xori",
)  # fmt: skip
_MATH = (
    "absf", "atan", "ceil", "copysign", "erf", "exp", "exp2", "expm1", "floor", "fma", "fpowi",
    "log", "log1p", "log2", "round", "roundeven", "rsqrt", "sqrt", "tanh", "trunc",
)  # fmt: skip
_OF_COLUMNS = {"arith.addf": "bias", "arith.mulf": "scale by column"}
_OF_ALL = {"arith.addf": "residual", "arith.mulf": "gate"}
_OF_CONSTANT = {"arith.addf": "offset", "arith.divf": "scaling", "arith.mulf": "scaling"}
_ACTIVATIONS = {"math.erf": "gelu", "math.exp": "sigmoid", "math.tanh": "tanh"}
_MAXIMA, _MINIMA = ("arith.maximumf", "arith.maxnumf"), ("arith.minimumf", "arith.minnumf")
# ``arith.cmpf`` in numbers: greater, or greater or equal, ordered and unordered; and less.
_GREATER, _LESS = (2, 3, 9, 10), (4, 5, 11, 12)
OPERATIONS = {f"arith.{name}" for name in _ARITH} | {f"math.{name}" for name in _MATH}


@dataclass(frozen=True)
class Chain:
    """What a kernel does to its result, and what it takes the place of.

    Attributes
    ----------
    epilogue : Epilogue
        The operations.
    tensors : tuple of ir.Value
        What the epilogue's inputs are read from.
    ops : tuple
        The operations that go, in order; the kernel's result is that of the last one.
    stopped : str
        Why nothing more was taken.
    """

    epilogue: Epilogue
    tensors: tuple[ir.Value, ...]
    ops: tuple[Any, ...]
    stopped: str


class _Ref(NamedTuple):
    """A value while it is not yet known how many inputs there are: the sum, an input or a step."""

    kind: str
    number: int = 0


class _Unfit(Exception):
    """Why an operation cannot be taken."""


def match(op: Any, matrices: Matrices, without: Sequence[Any] = ()) -> Chain | Refusal:
    """Describe what follows the contraction `op`, or say why nothing can be taken.

    It ends before any of the operations `without`, which another kernel does.  Changes nothing.
    """
    loops = (*matrices.batch_loops, *matrices.rows, *matrices.columns)
    if dims_of(matrices.maps["result"]) != loops:
        return Refusal("its result is transposed")
    growth = _Growth(op.operation, matrices.n)
    chain: Chain | None = None
    try:
        while len(growth.steps) <= MAX_STEPS:
            following = growth.following()
            if following in without:
                raise _Unfit("it is done with another product of these rows")
            growth.take(following)
            if growth.may_stop():
                chain = growth.described("it is long")
    except _Unfit as error:
        if chain is None:
            return Refusal(str(error))
        uses_more = any(op.name not in VIEWS for op in growth.ops[len(chain.ops) :])
        why = "what lies between is used elsewhere too" if uses_more else str(error)
        return Chain(chain.epilogue, chain.tensors, chain.ops, why)
    return chain or Refusal("what follows is long")


def on_gpu(op: Any, matrices: Matrices, kernel: Kernel) -> tuple[Kernel, Chain | Refusal]:
    """Return a kernel for GPUs that does what follows `op` too, as far as it can, and what that is.

    Changes nothing.
    """
    chain = match(op, matrices)
    if isinstance(chain, Refusal):
        return kernel, chain
    if not can_read(chain.epilogue):
        elements = {given.element for given in chain.epilogue.inputs} - set(ELEMENTS_OF_GPUS)
        return kernel, Refusal(f"kernels for GPUs read no {' nor '.join(sorted(elements))} there")
    return dataclasses.replace(kernel, epilogue=chain.epilogue), chain


def tensors(
    chain: Chain, sizes: dict[str, ir.Value], known: dict[str, int | None]
) -> list[ir.Value]:
    """Build the tensors of `chain` as its kernel reads them: ``[n]``, ``[batch, m, n]`` or ``[1]``.

    `sizes` has batch, m, n and ``one`` as values, `known` those that are static.
    """
    found = []
    for value, given in zip(chain.tensors, chain.epilogue.inputs, strict=True):
        shape = [build.DYNAMIC if (n := known[name]) is None else n for name in given.sizes]
        opened = [sizes[name] for name in given.sizes if known[name] is None]
        found.append(build.reshape(value, shape, opened))
    return found


def replace(chain: Chain, result: ir.Value) -> None:
    """Put `result`, ``[batch, m, n]``, into the place of what the chain made."""
    last = chain.ops[-1]
    init = last.operands[len(last.operands) - 1]
    shaped = build.reshape(result, build.shape_of(init), build.dynamic_sizes(init))
    last.results[0].replace_all_uses_with(shaped)
    for op in reversed(chain.ops):
        op.erase()


class _Growth:
    """What was taken so far.

    ``values`` are the results of the operations that were taken; a view of one is the same value.
    """

    def __init__(self, op: Any, columns: int | None) -> None:
        self.block, self.columns = op.block, columns
        self.values: dict[ir.Value, _Ref] = {op.results[0]: _Ref("sum")}
        self.ops: list[Any] = []
        self.inputs: list[tuple[ir.Value, Input]] = []
        self.steps: list[tuple[Step, tuple[_Ref, ...]]] = []  # operands of the step stand beside it

    def following(self) -> Any:
        """Return the first operation of the block that uses a value and was not taken."""
        found: Any = None
        for value in self.values:
            for use in value.uses:
                user = use.owner.operation
                if user in self.ops:
                    continue
                if user.block != self.block:
                    raise _Unfit("it is read inside another operation")
                if found is None or user.is_before_in_block(found):
                    found = user
        if found is None:
            raise _Unfit("nothing follows")
        return found

    def may_stop(self) -> bool:
        """Whether nothing outside uses any value but the last, and that is what a kernel stores."""
        last = self.ops[-1]
        if last.name in VIEWS or str(build.element_of(last.results[0])) != "f32":
            return False
        inner = (use for value in self.values if value != last.results[0] for use in value.uses)
        return all(use.owner.operation in self.ops for use in inner)

    def take(self, op: Any) -> None:
        """Add `op`.

        Raises
        ------
        _Unfit
            Where it is not element-wise, or a kernel cannot do it.
        """
        if op.name in VIEWS:
            if op.operands[0] not in self.values:
                raise _Unfit(f"it is the shape of {op.name}")
            self.values[op.results[0]] = self.values[op.operands[0]]
        else:
            _check_form(op, self.values)
            arguments = self._arguments(op)
            self.values[op.results[0]] = self._body(op, arguments)
        self.ops.append(op)

    def _arguments(self, op: Any) -> list[_Ref]:
        """Return what the body's arguments stand for, without that of the init."""
        shape = build.shape_of(op.results[0])
        found = []
        for value, map_ in zip(list(op.operands)[:-1], indexing_maps(op)[:-1], strict=True):
            if value in self.values:
                if not _is_identity(map_, shape):
                    raise _Unfit("it is broadcast or transposed")
                found.append(self.values[value])
                continue
            constant = _splat(value)
            if constant is not None:
                found.append(self._constant(constant))
                continue
            given = Input(_kind(map_, shape, self.columns), str(build.element_of(value)))
            if given.element not in ELEMENTS:
                raise _Unfit(f"kernels read no {given.element} there")
            if (value, given) not in self.inputs:
                self.inputs.append((value, given))
            found.append(_Ref("input", self.inputs.index((value, given))))
        return found

    def _body(self, op: Any, arguments: list[_Ref]) -> _Ref:
        """Add the steps of the body; return what it yields."""
        block = op.regions[0].blocks[0]
        known = dict(zip(list(block.arguments)[:-1], arguments, strict=True))

        def ref(value: ir.Value) -> _Ref:
            if value in known:
                return known[value]
            source = defining(value)
            if source is None or source.name != "arith.constant":
                raise _Unfit("it takes a scalar from outside, or reads what it writes to")
            return self._constant(source.attributes["value"])

        for inner in block.operations:
            operation = inner.operation
            if operation.name == "linalg.yield":
                return ref(operation.operands[0])
            if operation.name == "arith.constant":
                known[operation.results[0]] = self._constant(operation.attributes["value"])
                continue
            if operation.name == "cf.assert":
                raise _Unfit("it may fail at run time (cf.assert)")
            if operation.name not in OPERATIONS:
                raise _Unfit(f"kernels have no {operation.name}")
            operands = tuple(ref(value) for value in operation.operands)
            attributes = ir.DictAttr.get({n: operation.attributes[n] for n in operation.attributes})
            result = operation.results[0]
            step = Step(operation.name, (), str(result.type), str(attributes))
            known[result] = self._add(step, operands)
        raise _Unfit("it yields nothing")

    def _constant(self, value: ir.Attribute) -> _Ref:
        step = Step("arith.constant", (), str(value.type), f"{{value = {value}}}")
        return self._add(step, ())

    def _add(self, step: Step, operands: tuple[_Ref, ...]) -> _Ref:
        """Add a step unless it is there."""
        if (step, operands) not in self.steps:
            self.steps.append((step, operands))
        return _Ref("step", self.steps.index((step, operands)))

    def described(self, stopped: str) -> Chain:
        """Return what was taken so far."""
        starts = {"sum": 0, "input": 1, "step": 1 + len(self.inputs)}
        steps = tuple(
            Step(s.name, tuple(starts[r.kind] + r.number for r in refs), s.element, s.attributes)
            for s, refs in self.steps
        )
        result = self.values[self.ops[-1].results[0]]
        inputs = tuple(given for _, given in self.inputs)
        number = starts[result.kind] + result.number
        epilogue = Epilogue(inputs, steps, number, _words(inputs, steps))
        return Chain(epilogue, tuple(value for value, _ in self.inputs), tuple(self.ops), stopped)


def _check_form(op: Any, values: dict[ir.Value, _Ref]) -> None:
    """Raise :class:`_Unfit` unless `op` makes each element of its result from those beside it."""
    if op.name != "linalg.generic":
        raise _Unfit(f"it goes to {op.name}")
    if annotations.MATMUL in op.attributes or annotations.PREPARED in op.attributes:
        raise _Unfit("it goes to a product")
    kinds = [str(kind) for kind in op.attributes["iterator_types"]]
    if any("parallel" not in kind for kind in kinds):
        raise _Unfit("it is summed or reduced")
    maps, inits = indexing_maps(op), len(op.results)
    if inits != 1 or op.operands[len(op.operands) - 1] in values:
        raise _Unfit("what follows has several results, or writes in place")
    if not _is_identity(maps[-1], build.shape_of(op.results[0])):
        raise _Unfit("it is transposed")


def _is_identity(map_: ir.AffineMap, shape: list[int]) -> bool:
    """Whether each loop is one index, in order; a loop of size 1 may stand as 0."""
    results = list(map_.results)
    if len(results) != len(shape):
        return False
    return all(
        ir.AffineDimExpr(found).position == loop if is_dim(found) else shape[loop] == 1
        for loop, found in enumerate(results)
    )


def _kind(map_: ir.AffineMap, shape: list[int], columns: int | None) -> Kind:
    """Return how a tensor is read in loops of `shape`, of which the last ones are the columns."""
    found = list(map_.results)
    if any(not is_dim(index) and str(index) != "0" for index in found):
        raise _Unfit("another tensor is read at computed places")
    used = [ir.AffineDimExpr(index).position for index in found if is_dim(index)]
    used = [loop for loop in used if shape[loop] != 1]
    loops = [loop for loop, size in enumerate(shape) if size != 1]
    if not used:
        return "scalar"
    total = 1
    for loop in used:
        total = build.DYNAMIC if build.DYNAMIC in (total, shape[loop]) else total * shape[loop]
    if used == loops[-len(used) :] and total == columns:
        return "columns"
    if used == loops:
        return "full"
    raise _Unfit("another tensor is broadcast or transposed")


def _splat(value: ir.Value) -> ir.Attribute | None:
    """Return the scalar that all elements of a constant tensor are, or None."""
    op = defining(value)
    if op is None or op.name != "arith.constant":
        return None
    elements = op.attributes["value"]
    if not isinstance(elements, ir.DenseElementsAttr) or not elements.is_splat:
        return None
    scalar: ir.Attribute = elements.get_splat_value()
    return scalar


def _words(inputs: tuple[Input, ...], steps: tuple[Step, ...]) -> tuple[str, ...]:
    """Say what the steps are, in the order in which they begin."""
    first = 1 + len(inputs)
    constants = {first + i for i, step in enumerate(steps) if _is_constant(steps, first, step)}
    names = {step.name for step in steps}
    uses_of_sum = sum(step.operands.count(0) for step in steps)
    found: list[str] = []
    for step in steps:
        kinds = {inputs[i - 1].kind for i in step.operands if 1 <= i < first}
        varying = [i for i in step.operands if i not in constants]
        word = ""
        if kinds:
            tensors = {"columns": _OF_COLUMNS, "full": _OF_ALL, "scalar": _OF_CONSTANT}
            word = tensors[min(kinds)].get(step.name, "another tensor")
        elif step.name in _ACTIVATIONS:
            word = _ACTIVATIONS[step.name]
            if word == "tanh" and names & {"math.fpowi", "math.powf"}:
                word = "gelu"
            if word == "sigmoid" and _multiplies_values(steps, constants, first):
                word = "silu"
        elif step.name == "arith.select" or step.name in _MAXIMA + _MINIMA:
            word = _choice(step, steps, first)
        elif varying == [0] and len(step.operands) == 2 and uses_of_sum == 1:
            word = _OF_CONSTANT.get(step.name, "")
        if word and word not in found:
            found.append(word)
    if "clamp" in found and "relu" in found:  # from 0 to something
        found.remove("relu")
    return tuple(found) or (f"{len(steps)} operations",)


def _choice(step: Step, steps: tuple[Step, ...], first: int) -> str:
    """Say what a maximum, a minimum or a selection is."""
    *condition, one, other = step.operands
    is_maximum = step.name in _MAXIMA
    if condition:
        compare = steps[condition[0] - first] if condition[0] >= first else None
        if compare is None or compare.name != "arith.cmpf":
            return "selection"
        predicate = re.search(r"predicate = (\d+)", compare.attributes)
        number = int(predicate[1]) if predicate else 0
        if {one, other} != set(compare.operands) or number not in _GREATER + _LESS:
            return "selection"
        is_maximum = (compare.operands[0] == one) == (number in _GREATER)
    bounds = [steps[i - first] for i in (one, other) if i >= first]
    constants = [bound.attributes for bound in bounds if bound.name == "arith.constant"]
    if not constants:
        return "selection"
    is_zero = any(re.search(r"value = 0\.0+e\+00 ", text) for text in constants)
    return "relu" if is_maximum and is_zero else "clamp"


def _is_constant(steps: tuple[Step, ...], first: int, step: Step) -> bool:
    return all(i >= first and _is_constant(steps, first, steps[i - first]) for i in step.operands)


def _multiplies_values(steps: tuple[Step, ...], constants: set[int], first: int) -> bool:
    """Whether two values are multiplied of which none is a tensor that is read."""
    return any(
        step.name == "arith.mulf"
        and all(i not in constants and not 1 <= i < first for i in step.operands)
        for step in steps
    )
