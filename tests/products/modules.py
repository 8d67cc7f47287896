"""Kernels on their own: modules of functions that dispatch to them, compiled and loaded."""

import numpy as np
from iree import runtime as rt
from iree.compiler import ir
from iree.compiler.dialects import arith
from lowc.compiler import backend
from lowc.compiler.frontend import parse_module
from lowc.compiler.target import load_target
from lowc.passes import build
from lowc.passes.kernels import executable
from lowc.passes.kernels.float_matmul import PLAIN
from lowc.runtime.buffers import download
from lowc.runtime.devices import open_device
from lowc.runtime.fences import Timeline, takes_fences


def compile_functions(kernels, add, target, folder, flags=()):
    """Compile a function ``f0``, ``f1`` … for each kernel, without fallbacks; return the path.

    ``add(module, name, kernel)`` builds one of them.
    """
    goal = load_target(target)
    goal = goal.with_flags((*goal.flags, *flags))  # which also drops the fallbacks
    source, output = folder / "kernels.mlir", folder / "kernels.vmfb"
    source.write_text(_module_text(kernels, add))
    backend.compile_module(source, output, goal)
    return output


def _module_text(kernels, add):
    module = parse_module("", "kernels")
    with module.context, ir.Location.unknown():
        for number, kernel in enumerate(kernels):
            add(module, f"f{number}", kernel)
    assert module.operation.verify()
    return str(module)


def add_function(module, name, types, result, value):
    """Add a function from `types` to `result`; ``value(*arguments)`` builds what it returns."""
    function = ir.Operation.parse(
        f"func.func @{name}({', '.join(f'%a{i}: {t}' for i, t in enumerate(types))}) "
        f"-> {result} {{\n%e = util.unfoldable_constant dense<0> : tensor<1xi32>\n"
        f"%r = builtin.unrealized_conversion_cast %e : tensor<1xi32> to {result}\n"
        f"return %r : {result} }}",
        context=module.context,
    )
    module.body.append(function)
    block = function.regions[0].blocks[0]
    placeholder, cast, end = (block.operations[i] for i in range(3))
    with ir.InsertionPoint(end):
        end.operation.operands[0] = value(*block.arguments)
    cast.operation.erase()
    placeholder.operation.erase()


def add_matmul(module, name, kernel, inputs):
    """Add a function with a dispatch to a kernel of the blocked loops.

    It takes tensors of the types `inputs`, the first ``[batch, m, k]``, and one more for its size,
    the number of columns, which panels do not tell.  Heads lie as the kernel says.
    """
    batch, m, n, _ = (build.DYNAMIC if size is None else size for size in kernel.sizes)
    heads = getattr(kernel, "heads", PLAIN)
    outer = batch if batch == build.DYNAMIC else batch // heads.count
    shape = [outer, m, heads.count, n] if "c" in heads.split else [batch, m, n]
    result = build.tensor_type(shape, ir.F32Type.get())

    def value(*arguments):
        *operands, columns = arguments
        a = operands[0]
        last = 3 if "a" in heads.split else 2
        axes = {"batch": (a, 0), "m": (a, 1), "n": (columns, 0), "k": (a, last)}
        known = dict(zip(axes, kernel.sizes, strict=True))
        sizes = {
            axis: build.dim(value, at) if known[axis] is None else build.index(known[axis])
            for axis, (value, at) in axes.items()
        }
        count = build.index(heads.count)
        if "a" in heads.split and known["batch"] is None:
            sizes["batch"] = arith.muli(sizes["batch"], count)
        opened = {axis: size for axis, size in sizes.items() if known[axis] is None}
        executable.declare(
            module, kernel.name, [True] * len(operands) + [False], len(opened),
            kernel.translation, kernel.emit,
        )  # fmt: skip
        call = executable.dispatch(
            kernel.name, kernel.grid(sizes), list(opened.values()), operands, result,
            [
                arith.divui(size, count) if axis == "batch" and "c" in heads.split else size
                for axis, size in opened.items() if axis != "k"
            ],
        )  # fmt: skip
        return call.results[0]

    add_function(module, name, [*inputs, build.tensor_type([n], ir.F32Type.get())], result, value)


class Invoker(rt.FunctionInvoker):
    """IREE's way to call a function, for code of GPUs too, which takes two fences more."""

    def _invoke(self, arg_list, ret_list):
        def call(given):
            self._vm_context.invoke(self._vm_function, given, ret_list)

        if takes_fences(self._vm_function):
            Timeline(self._device).invoke(call, arg_list).wait()
        else:
            call(arg_list)


class LoadedModule:
    """Compiled kernels on a device."""

    def __init__(self, path, kernels, device="cpu"):
        self.kernels = kernels
        instance = rt.VmInstance()
        self.device = open_device(device)
        self.hal = self.device.hal
        self.module = rt.VmModule.copy_buffer(instance, path.read_bytes())
        hal = rt.create_hal_module(instance, self.hal)
        self.context = rt.VmContext(instance, [hal, self.module])

    def run(self, number, *arrays):
        """Return what the function of the kernel `number` makes of arrays."""
        function = self.module.lookup_function(f"f{number}")
        result = Invoker(self.context, self.hal, function)(*arrays)
        return download(result._buffer_view, "float32", self.device)

    def matmul(self, number, n, *arrays):
        """Return what a function of :func:`add_matmul` makes of arrays, given its columns."""
        return self.run(number, *arrays, np.zeros(n, np.float32))
