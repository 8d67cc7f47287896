"""SPIR-V in a compiled module: its instructions, counted."""

import collections
import struct

MAGIC, HEADER = 0x07230203, 5
SDOT = 4450  # OpSDot


def opcodes(data):
    """Count the instructions of all SPIR-V in the bytes of a ``.vmfb``, by number."""
    found, magic = collections.Counter(), struct.pack("<I", MAGIC)
    at = data.find(magic)
    while at >= 4:
        (length,) = struct.unpack_from("<I", data, at - 4)  # of the vector that holds the words
        assert length > 0, "a vector without words"
        words = struct.unpack_from(f"<{length}I", data, at)
        place = HEADER
        while place < length:
            found[words[place] & 0xFFFF] += 1
            words_of_one = words[place] >> 16
            assert words_of_one > 0, "an instruction without words"
            place += words_of_one
        at = data.find(magic, at + 4 * length)
    return found
