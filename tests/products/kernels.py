"""Kernels of added products on their own: a module that dispatches to them, and their definition."""

import numpy as np
from iree import runtime as rt
from iree.compiler import ir
from lowc.compiler import backend
from lowc.compiler.frontend import parse_module
from lowc.compiler.target import load_target
from lowc.passes import build
from lowc.passes.additive import Addition
from lowc.passes.formats.floats import F32
from lowc.passes.formats.lmul import constant, finite_product, prepare
from lowc.passes.formats.stored import decode, encode, pack_panels
from lowc.passes.kernels import executable
from lowc.runtime.buffers import download
from lowc.runtime.devices import open_device


def addition(mantissa_bits=0, *, offset=True):
    """The product of `mantissa_bits` kept bits (0: all), L-Mul's or the piecewise affine one."""
    return Addition(F32, mantissa_bits or 23, constant(F32, mantissa_bits, offset=offset))


def module_text(kernels):
    """A module with a function ``f0``, ``f1`` … for each kernel: operands in, the product out.

    The third operand is there for its size, the number of columns, which panels do not tell.
    """
    module = parse_module("", "kernels")
    with module.context, ir.Location.unknown():
        for number, kernel in enumerate(kernels):
            _add_function(module, f"f{number}", kernel)
    assert module.operation.verify()
    return str(module)


def _add_function(module, name, kernel):
    batch, m, n, k = (build.DYNAMIC if size is None else size for size in kernel.sizes)
    panels = n if n == build.DYNAMIC else -(-n // kernel.tile.columns)
    words = kernel.tile.columns * kernel.stored.width // 32
    i32, f32 = ir.IntegerType.get_signless(32), ir.F32Type.get()
    left = build.tensor_type([batch, m, k], f32 if kernel.prepares else i32)
    own = batch if kernel.b_batch else 1
    right = build.tensor_type([own, panels, k, words], i32)
    if kernel.packs:
        right = build.tensor_type([own, k, n], f32)
    result = build.tensor_type([batch, m, n], f32)
    shapes = {"batch": batch, "m": m, "n": n, "one": 1}
    epilogue = getattr(kernel, "epilogue", None)  # kernels for GPUs have none
    extras = [
        build.tensor_type([shapes[size] for size in given.sizes], ir.Type.parse(given.element))
        for given in (epilogue.inputs if epilogue else ())
    ]
    types = [left, right, build.tensor_type([n], i32), *extras]
    function = ir.Operation.parse(
        f"func.func @{name}({', '.join(f'%a{i}: {t}' for i, t in enumerate(types))}) "
        f"-> {result} {{\n%e = util.unfoldable_constant dense<0> : tensor<1xi32>\n"
        f"%r = builtin.unrealized_conversion_cast %e : tensor<1xi32> to {result}\n"
        f"return %r : {result} }}",
        context=module.context,
    )
    module.body.append(function)
    block = function.regions[0].blocks[0]
    a, panel, columns, *more = block.arguments
    placeholder, cast, end = (block.operations[i] for i in range(3))
    with ir.InsertionPoint(end):
        axes = {"batch": (a, 0), "m": (a, 1), "n": (columns, 0), "k": (a, 2)}
        known = dict(zip(axes, kernel.sizes, strict=True))
        sizes = {
            axis: build.dim(value, at) if known[axis] is None else build.index(known[axis])
            for axis, (value, at) in axes.items()
        }
        opened = {axis: size for axis, size in sizes.items() if known[axis] is None}
        executable.declare(
            module, kernel.name, [True] * (2 + len(more)) + [False], len(opened),
            kernel.translation, kernel.emit,
        )  # fmt: skip
        call = executable.dispatch(
            kernel.name, kernel.grid(sizes), list(opened.values()), [a, panel, *more], result,
            [size for axis, size in opened.items() if axis != "k"],
        )  # fmt: skip
    end.operation.operands[0] = call.results[0]
    cast.operation.erase()
    placeholder.operation.erase()


def compile_kernels(kernels, target, folder, flags=()):
    """Compile `kernels` into one module below `folder`, without fallbacks; return its path."""
    goal = load_target(target)
    goal = goal.with_flags((*goal.flags, *flags))  # which also drops the fallbacks
    source, output = folder / "kernels.mlir", folder / "kernels.vmfb"
    source.write_text(module_text(kernels))
    backend.compile_module(source, output, goal)
    return output


class Loaded:
    """Compiled kernels on a device; ``loaded(i, a, panels, n)`` runs the i-th.

    What its epilogue reads comes behind the number of columns.
    """

    def __init__(self, path, kernels, device="cpu"):
        self.kernels = kernels
        instance = rt.VmInstance()
        self.device = open_device(device)
        self.hal = self.device.hal
        module = rt.VmModule.copy_buffer(instance, path.read_bytes())
        self.context = rt.VmContext(instance, [rt.create_hal_module(instance, self.hal), module])
        self.module = module

    def __call__(self, number, a, panels, n, *extras):
        function = self.module.lookup_function(f"f{number}")
        invoker = rt.FunctionInvoker(self.context, self.hal, function)
        result = invoker(a, panels, np.zeros(n, np.int32), *extras)
        return download(result._buffer_view, "float32", self.device)

    def check(self, number, a, b):
        """Compare kernel `number` on ``[batch, m, k]`` and ``[batch, k, n]`` with the definition."""
        kernel = self.kernels[number]
        left, panels = operands(kernel, a, b)
        found = self(number, left, panels, b.shape[2])
        same_bits(found, expected(kernel, a, b), kernel.name)


def operands(kernel, a, b):
    """``a`` and ``b`` as the kernel reads them."""
    stored, tile, product = kernel.stored, kernel.tile, kernel.product
    left = a
    if not kernel.prepares:
        left = prepare(a, product.mantissa_bits) - np.uint32(product.constant)
        left = left.view(np.int32)
    if kernel.packs:
        return left, b
    panels = [pack_panels(bits, stored, tile.columns, tile.lanes) for bits in _coded(kernel, b)]
    return left, np.stack(panels).view(np.int32)


def _coded(kernel, b):
    """The bits of ``b`` as the kernel's panels hold them; an activation may have NaN and infinity."""
    kept = kernel.product.mantissa_bits
    if kernel.stored.name == "f32":
        return prepare(b, kept)
    return np.stack([encode(matrix, kernel.stored, kept)[0] for matrix in b])


def expected(kernel, a, b):
    """The definition: products of the stored weights, added in f32 in the order of k."""
    stored, product = kernel.stored, kernel.product
    weights = decode(_coded(kernel, b), None, stored)
    first = prepare(a, product.mantissa_bits)
    second = prepare(weights, product.mantissa_bits)
    total = np.zeros((a.shape[0], a.shape[1], b.shape[2]), np.float32)
    for k in range(a.shape[2]):
        left, right = first[:, :, k, None], second[:, None, k, :]
        terms = finite_product(left, right, F32, product.constant).view(np.float32)
        if stored.is_scaled:  # a stored zero gives a zero
            terms = np.where(weights[:, None, k, :] == 0, np.float32(0), terms)
        with np.errstate(over="ignore", invalid="ignore"):
            total += terms
    return total


def same_bits(found, wanted, what=""):
    """Fail unless all bits are the same; the payload of a NaN is nobody's business."""
    assert found.shape == wanted.shape, (what, found.shape, wanted.shape)
    assert found.dtype == wanted.dtype == np.float32
    same = (found.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(found) & np.isnan(wanted))
    where = np.argwhere(~same)
    assert same.all(), f"{what}: {len(where)} of {same.size} differ, first at {where[0]}: " + (
        f"{found[tuple(where[0])]!r} instead of {wanted[tuple(where[0])]!r}"
    )
