"""About how long one thread takes for a call: enough to tell short calls from long ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Of one thread, per microsecond: scalar operations as exported, done in wide vectors, and bytes of
# weights and of what is read and written, from the third cache.  Measured products of 1 to 128 rows
# (f32, w4a8, L-Mul, look-ups) took 0.5 to 1.5 times as long as these say.
OPERATIONS = 100e3
BYTES = 40e3


def serial_microseconds(energy: Mapping[str, Any]) -> float | None:
    """Return about how long one thread takes for a call, None where sizes are dynamic.

    `energy` is what :func:`.energy.summary` says: operations and bits moved as exported, bits of
    weights as stored.  What operations read and write counts too, for models that only move data.
    """
    if energy["dynamic"]:
        return None
    exported = energy["exported"]
    operations = sum(exported["operations"].values()) / OPERATIONS
    moved = exported["read_bits"] + exported["written_bits"]
    # A product reads its weight: those bits are counted as they are stored.
    moved = max(0, moved - exported["weight_bits"]) + energy["weight_bits"]
    return float(max(operations, moved / 8 / BYTES))
