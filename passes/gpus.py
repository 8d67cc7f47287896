"""What GPUs have, as data (``gpus.toml``): limits and features that kernels and tiles keep to.

A vector unit says the same of CPUs (:class:`.kernels.tiles.Isa`).
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ..errors import UserError, nearest

# NVIDIA's chips that IREE 3.13 generates no code for: drivers compile PTX of the newest for them.
_NEWEST = 89
_OLDEST = 80  # older ones lack instructions of kernels: cp.async, mma m16n8k32
_NUMBERED = re.compile(r"sm_(\d+)[af]?")


@dataclass(frozen=True)
class Gpu:
    """A family of GPUs.

    Attributes
    ----------
    name : str
        As targets call it: ``vulkan:llvmpipe``, ``cuda:sm_80``.
    description : str
        For people.
    products, vendor : tuple of str, int
        Other names of it; its maker's number in Vulkan, 0 for none.
    subgroup : tuple of int
        How many threads run together, the preferred number first.
    operations : tuple of str
        What they can do together: ``shuffle``, ``arithmetic``.
    integers, floats, storage : tuple of int
        Widths in bits that are calculated with, and that buffers may hold.
    dot4 : bool
        Whether four products of bytes are one instruction (``OpSDot``, ``dp4a``).
    matrices : tuple of str
        Cooperative matrices, as IREE calls them.
    threads, sizes, memory, grid : int, or three of them
        At most in a workgroup, and along each of its axes; bytes of its memory; workgroups along
        each axis.
    spirv : str
        The version of SPIR-V.
    """

    name: str
    description: str
    subgroup: tuple[int, ...]
    integers: tuple[int, ...]
    floats: tuple[int, ...]
    storage: tuple[int, ...]
    threads: int
    sizes: tuple[int, int, int]
    memory: int
    grid: tuple[int, int, int]
    products: tuple[str, ...] = ()
    vendor: int = 0
    operations: tuple[str, ...] = ()
    dot4: bool = False
    matrices: tuple[str, ...] = ()
    spirv: str = ""

    @property
    def chip(self) -> str:
        """The name without the backend."""
        return self.name.partition(":")[2]

    @property
    def needs(self) -> dict[str, Any]:
        """What a device must have to run its code, as :mod:`lowc.runtime.gpu_facts` reads it."""
        if self.name.startswith("cuda:"):
            return {"chip": int(self.chip.removeprefix("sm_"))}
        features = {"storageBuffer16BitAccess": 16 in self.storage}
        features |= {"storageBuffer8BitAccess": 8 in self.storage}
        features |= {"shaderFloat16": 16 in self.floats, "shaderInt8": 8 in self.integers}
        features |= {"shaderIntegerDotProduct": self.dot4}
        features |= {"cooperativeMatrix": bool(self.matrices)}
        return {
            "subgroups": list(self.subgroup) if self.operations else [],
            "features": [name for name, needed in features.items() if needed],
        }

    @property
    def spirv_target(self) -> str:
        """The device as IREE's attribute, for SPIR-V."""
        capabilities = [f"spirv:{self.spirv}", "cap:Shader"]
        capabilities += ["cap:Int64"] if 64 in self.integers else []
        capabilities += ["cap:Float64"] if 64 in self.floats else []
        computed = [f"fp{bits}" for bits in self.floats] + [f"int{bits}" for bits in self.integers]
        limits = {
            "compute": "|".join(computed),
            "storage": "|".join(f"b{bits}" for bits in self.storage),
            "subgroup": "|".join(self.operations) or "none",
            **({"dot": "dp4xi8toi32"} if self.dot4 else {}),
            **({"mma": f"[{', '.join(f'<{m}>' for m in self.matrices)}]"} if self.matrices else {}),
            "subgroup_size_choices": str(list(self.subgroup)),
            "max_workgroup_sizes": str(list(self.sizes)),
            "max_thread_count_per_workgroup": str(self.threads),
            "max_workgroup_memory_bytes": str(self.memory),
            "max_workgroup_counts": str(list(self.grid)),
        }
        listed = ", ".join(f"{key} = {value}" for key, value in limits.items())
        info = (
            f'#iree_gpu.target<arch = "{self.chip}", features = "{",".join(capabilities)}", '
            f"wgp = <{listed}>>"
        )
        executable = (
            '#hal.executable.target<"vulkan-spirv", "vulkan-spirv-fb", '
            f"{{iree_codegen.target_info = {info}}}>"
        )
        return f'#hal.device.target<"vulkan", [{executable}]> : !hal.device'


@cache
def families(backend: str) -> dict[str, Gpu]:
    """Return the families of ``vulkan`` or ``cuda`` by name; nothing for another backend."""
    text = (resources.files(__package__) / "gpus.toml").read_text()
    table: dict[str, Any] = tomllib.loads(text).get(backend, {})
    return {chip: _of(f"{backend}:{chip}", entry) for chip, entry in table.items()}


def _of(name: str, entry: dict[str, Any]) -> Gpu:
    lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
    return Gpu(name, **{**entry, **lists})


@cache
def least(backend: str) -> tuple[int, int]:
    """Return the threads and the bytes of memory that a workgroup has on every family's devices.

    Tiles are held against these, not against those of one chip: which chip it will be is not part
    of a product, and PTX of an older chip runs on newer ones.
    """
    known = families(backend).values()
    return min(gpu.threads for gpu in known), min(gpu.memory for gpu in known)


def find(backend: str, chip: str) -> tuple[Gpu, str]:
    """Return the family that `chip` is or belongs to, and what the user should know of that.

    Raises
    ------
    UserError
        When it is of no family; the hint names the nearest.
    """
    known = families(backend)
    if chip in known:
        return known[chip], ""
    for gpu in known.values():
        if chip in gpu.products:
            return gpu, ""
    number = _NUMBERED.fullmatch(chip)
    if backend == "cuda" and number and int(number[1]) > _NEWEST:
        note = f"{chip} gets PTX of sm_{_NEWEST}, which the driver compiles for it when it loads"
        return known[f"sm_{_NEWEST}"], note
    if backend == "cuda" and number and int(number[1]) < _OLDEST:
        raise UserError(
            f"{chip} is too old: kernels for CUDA need sm_{_OLDEST} (cp.async, mma m16n8k32)",
            where=f"target '{backend}:{chip}'",
            hint="compile for 'cpu', or for 'vulkan', which assumes less of a device",
        )
    words = [*known, *(product for gpu in known.values() for product in gpu.products)]
    raise UserError(
        f"there is no chip '{chip}'", where=f"target '{backend}:{chip}'", hint=nearest(chip, words)
    )
