"""Kernels of f32 products on their own: modules that dispatch to them, and their definition."""

import numpy as np
from iree import runtime as rt
from iree.compiler import ir
from lowc.compiler import backend
from lowc.compiler.frontend import parse_module
from lowc.compiler.target import load_target
from lowc.passes import build
from lowc.passes.formats.panels import float_panels
from lowc.passes.kernels import executable, float_tiles, tiles
from lowc.passes.kernels.dequant_matmul import DequantMatmul
from lowc.passes.kernels.float_matmul import FloatMatmul
from lowc.runtime.buffers import download
from lowc.runtime.devices import open_device


def kernel(unit, sizes, *, own=False, packs=False, copies=None, tile=None):
    """The kernel of ``batch, m, n, k`` with the tile that is chosen for it, or another."""
    tile = tile or float_tiles.choose(tiles.ISAS[unit], *sizes, packs=packs)
    if copies is None:
        copies = float_tiles.copies(tile, sizes[1], sizes[3])
    return FloatMatmul(*sizes, own, tile, packs=packs, copies=copies)


def module_text(kernels):
    """A module with a function ``f0``, ``f1`` … for each kernel: operands in, the product out.

    The third operand is there for its size, the number of columns, which panels do not tell.
    """
    module = parse_module("", "kernels")
    with module.context, ir.Location.unknown():
        for number, one in enumerate(kernels):
            _add_function(module, f"f{number}", one)
    assert module.operation.verify()
    return str(module)


def _right(one):
    """The types of what holds B."""
    _, _, n, k = (build.DYNAMIC if size is None else size for size in one.sizes)
    f32, columns = ir.F32Type.get(), one.tile.columns
    own = (build.DYNAMIC if one.batch is None else one.batch) if one.b_batch else 1
    panels = build.DYNAMIC if one.n is None else -(-one.n // columns)
    if isinstance(one, DequantMatmul):
        words = one.k // one.codes.chunk * one.codes.words
        groups = [own, panels, one.k // one.group, columns]
        i32, i8 = (ir.IntegerType.get_signless(width) for width in (32, 8))
        found = [build.tensor_type([own, panels, words, columns], i32)]
        found.append(build.tensor_type(groups, f32))
        return found if one.symmetric else [*found, build.tensor_type(groups, i8)]
    return [build.tensor_type([own, k, n] if one.packs else [own, panels, k, columns], f32)]


def _add_function(module, name, one):
    batch, m, n, k = (build.DYNAMIC if size is None else size for size in one.sizes)
    f32 = ir.F32Type.get()
    types = [build.tensor_type([batch, m, k], f32), *_right(one), build.tensor_type([n], f32)]
    result = build.tensor_type([batch, m, n], f32)
    function = ir.Operation.parse(
        f"func.func @{name}({', '.join(f'%a{i}: {t}' for i, t in enumerate(types))}) "
        f"-> {result} {{\n%e = util.unfoldable_constant dense<0> : tensor<1xi32>\n"
        f"%r = builtin.unrealized_conversion_cast %e : tensor<1xi32> to {result}\n"
        f"return %r : {result} }}",
        context=module.context,
    )
    module.body.append(function)
    block = function.regions[0].blocks[0]
    a, *b, c = block.arguments
    placeholder, cast, end = (block.operations[i] for i in range(3))
    with ir.InsertionPoint(end):
        axes = {"batch": (a, 0), "m": (a, 1), "n": (c, 0), "k": (a, 2)}
        known = dict(zip(axes, one.sizes, strict=True))
        sizes = {
            axis: build.dim(value, at) if known[axis] is None else build.index(known[axis])
            for axis, (value, at) in axes.items()
        }
        opened = {axis: size for axis, size in sizes.items() if known[axis] is None}
        executable.declare(
            module,
            one.name,
            [*[True] * (1 + len(b)), False],
            len(opened),
            one.translation,
            one.emit,
        )
        call = executable.dispatch(
            one.name, one.grid(sizes), list(opened.values()), [a, *b], result,
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
    """Compiled kernels on the CPU."""

    def __init__(self, path, kernels):
        self.kernels = kernels
        instance = rt.VmInstance()
        self.device = open_device("cpu")
        self.hal = self.device.hal
        self.module = rt.VmModule.copy_buffer(instance, path.read_bytes())
        hal_module = rt.create_hal_module(instance, self.hal)
        self.context = rt.VmContext(instance, [hal_module, self.module])

    def check(self, number, a, b):
        """Compare kernel `number` on ``[batch, m, k]`` and ``[batch, k, n]`` with NumPy."""
        one = self.kernels[number]
        right = b if one.packs else np.stack([float_panels(w, one.tile.columns) for w in b])
        invoker = rt.FunctionInvoker(
            self.context, self.hal, self.module.lookup_function(f"f{number}")
        )
        result = invoker(a, right, np.zeros(b.shape[2], np.float32))
        found = download(result._buffer_view, "float32", self.device)
        close_to_product(found, a, b, one.name)


def close_to_product(found, a, b, what=""):
    """Fail unless `found` is the product within what rounding an f32 sum in any order may do."""
    with np.errstate(invalid="ignore", over="ignore"):
        exact = a.astype(np.float64) @ b.astype(np.float64)
        bound = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)
    bound = bound * (a.shape[2] + 2) * 2.0**-24 + 1e-37
    assert found.shape == exact.shape and found.dtype == np.float32
    beyond = np.isnan(exact) | np.isinf(exact)
    assert np.array_equal(found[beyond], exact[beyond].astype(np.float32), equal_nan=True), what
    with np.errstate(invalid="ignore"):
        wrong = ~beyond & ~(np.abs(found - exact) <= bound)
    assert not wrong.any(), (what, int(wrong.sum()), found[wrong][:3], exact[wrong][:3])
