"""About how long one thread takes for a call: enough to tell short calls from long ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Of one thread, per microsecond: scalar operations as exported, done in wide vectors, and bytes of
# weights from the third cache.  Measured products of 1 to 128 rows (f32, w4a8, L-Mul, look-ups)
# took 0.5 to 1.5 times as long as these say.
OPERATIONS = 100e3
WEIGHT_BYTES = 40e3


def serial_microseconds(energy: Mapping[str, Any]) -> float | None:
    """Return about how long one thread takes for a call, None where sizes are dynamic.

    `energy` is what :func:`.energy.summary` says: operations as exported, bits of weights.
    """
    if energy["dynamic"]:
        return None
    operations = sum(energy["exported"]["operations"].values())
    return float(max(operations / OPERATIONS, energy["weight_bits"] / 8 / WEIGHT_BYTES))
