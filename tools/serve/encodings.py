"""Compressed bodies, unpacked to no more than is allowed."""

from __future__ import annotations

import zlib

from .faults import Fault, short

# Name → what zlib calls its format.
_WINDOWS = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}


def unpacked(body: bytes, encoding: bytes, most: int) -> bytes:
    """Return `body` without its ``Content-Encoding``.

    Raises
    ------
    Fault
        415 for an unknown encoding, 400 for what is not in it, 413 for more than `most` bytes.
    """
    if encoding == b"identity":
        return body
    window = _WINDOWS.get(encoding)
    if window is None:
        raise Fault(415, f"content-encoding {short(encoding.decode('latin-1'))} is not known")
    unpacker = zlib.decompressobj(window)
    try:
        found = unpacker.decompress(body, most + 1)
    except zlib.error:
        raise Fault(400, f"the body is not in {encoding.decode()}") from None
    if len(found) > most:
        raise Fault(413, f"a body has at most {most} bytes when it is unpacked")
    if not unpacker.eof or unpacker.unused_data:
        raise Fault(400, f"the body in {encoding.decode()} does not end where it should")
    return found
