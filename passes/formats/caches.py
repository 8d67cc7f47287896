"""Key-value caches in few bits: what is stored for a token, and what is read again.

A cache is f32 ``[…, width]``: one row for each token and head.  Rows are rounded as they are
written, once, and every product reads what was stored.

``f16``
    Each element rounded to nearest, ties to even.  Beyond 65519 it is infinite.
``i8``
    Codes -127…127 with a scale for each token and head, as :mod:`.activations` rounds a row:
    ``v = c * s``.
``i4``, values
    Codes 0…15 with a scale and a least value for each token and head: with ``lo`` and ``hi`` the
    least and the largest element and ``d = hi - lo``,

    * ``s = d / 15`` and ``r = 15 / d``; below d = 2^-120, ``s = r = 0``;
    * ``q = RNE((x - lo) * r)``, at most 15, and 0 where that is NaN;
    * ``v = q * s + lo``, where it is open whether that rounds once or twice.

    Two codes are a byte: with ``half = ceil(width / 2)``, byte i has element i in its low bits and
    element ``half + i`` in its high ones, 0 if there is none.  NaN in a row makes lo and hi NaN;
    an infinity, or a d that f32 has not, makes s infinite.  Either makes all of the row NaN.
``i4``, keys
    The same with lo and hi of a *channel* of a head over a block of :data:`BLOCK` tokens, since
    channels of keys differ in size far more than tokens do (KIVI, arXiv:2402.02750).  The newest
    block, complete or not, is kept in f32, and read from there until the next one begins
    (:class:`KeyBlocks`).

All in f32, each operation rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from . import activations

Float = NDArray[np.float32]

BLOCK = 32  # tokens of keys that share the scale of a channel
LARGEST = 15  # of a code of 4 bits
SMALLEST_RANGE = activations.SMALLEST_MAXIMUM
Name = Literal["f32", "f16", "i8", "i4"]
FORMATS: tuple[Name, ...] = get_args(Name)


@dataclass(frozen=True)
class Ranged:
    """Codes 0…15 as uint8, their scales, and their least values: without the axis they share."""

    codes: NDArray[np.uint8]
    scales: Float
    least: Float

    def values(self, axis: int) -> Float:
        """Return what is read: f32 of the shape of codes."""
        scales, least = (np.expand_dims(part, axis) for part in (self.scales, self.least))
        with np.errstate(invalid="ignore"):
            return (self.codes.astype(np.float32) * scales + least).astype(np.float32)


def to_i4(x: Float, axis: int) -> Ranged:
    """Round to 4 bits with a scale and a least value for all elements along `axis`."""
    x = np.asarray(x, np.float32)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        least, most = x.min(axis=axis), x.max(axis=axis)
        extent = most - least
        is_small = extent < np.float32(SMALLEST_RANGE)
        divisor = np.where(is_small, np.float32(1), extent)
        largest = np.float32(LARGEST)
        scales = np.where(is_small, np.float32(0), divisor / largest)
        factors = np.where(is_small, np.float32(0), largest / divisor)
        found = (x - np.expand_dims(least, axis)) * np.expand_dims(factors, axis)
    found = np.rint(np.where(np.isnan(found), np.float32(0), found))
    codes = np.minimum(found, LARGEST).astype(np.uint8)
    return Ranged(codes, scales.astype(np.float32), least)


def pack(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return codes ``[…, width]`` two in a byte: ``[…, ceil(width / 2)]``."""
    half = -(-codes.shape[-1] // 2)
    low, high = codes[..., :half], codes[..., half:]
    high = np.pad(high, [(0, 0)] * (codes.ndim - 1) + [(0, half - high.shape[-1])])
    return (low | high << 4).astype(np.uint8)


def unpack(packed: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Undo :func:`pack`."""
    return np.concatenate((packed & 15, packed >> 4), axis=-1)[..., :width]


def rounded(x: Float, name: str) -> Float:
    """Return rows ``[…, width]`` as a cache of the format `name` gives them, one token alone."""
    x = np.asarray(x, np.float32)
    if name == "f32":
        return x
    if name == "f16":
        with np.errstate(over="ignore"):
            return x.astype(np.float16).astype(np.float32)
    if name == "i8":
        found = activations.quantize(x, x.shape[-1], per_row=True)
        with np.errstate(invalid="ignore"):
            return (found.codes[..., 0, :] * found.scales[..., None]).astype(np.float32)
    if name == "i4":
        return to_i4(x, -1).values(-1)
    raise ValueError(name)


class KeyBlocks:
    """Keys ``[positions, heads, width]`` in 4 bits for each channel and block of tokens.

    Rows are written in order: what lies behind the last row written is lost.  Writing may begin
    anywhere in what is there, so a text can be cut short and go on otherwise.

    Attributes
    ----------
    codes, scales, least : arrays
        Of each block: packed ``[blocks, BLOCK, heads, ceil(width / 2)]``, and f32
        ``[blocks, heads, width]``.  Rows of a block that are not there count as zeros.
    newest : array
        f32 ``[BLOCK, heads, width]``: the block that `number` says, as it was written.
    number : int
        Which block that is.
    """

    def __init__(self, positions: int, heads: int, width: int) -> None:
        blocks = -(-positions // BLOCK)
        self.width = width
        self.codes = np.zeros((blocks, BLOCK, heads, -(-width // 2)), np.uint8)
        self.scales = np.zeros((blocks, heads, width), np.float32)
        self.least = np.zeros((blocks, heads, width), np.float32)
        self.newest = np.zeros((BLOCK, heads, width), np.float32)
        self.number = 0

    def write(self, start: int, rows: Float) -> None:
        """Write rows ``[tokens, heads, width]``, one or more, from position `start` on."""
        first, last = start // BLOCK, (start + len(rows) - 1) // BLOCK
        kept = self.block(first)[: start - first * BLOCK]
        blocks = np.zeros(((last - first + 1) * BLOCK, *rows.shape[1:]), np.float32)
        blocks[: len(kept)] = kept
        blocks[len(kept) : len(kept) + len(rows)] = rows
        blocks = blocks.reshape(-1, BLOCK, *rows.shape[1:])
        found = to_i4(blocks, 1)
        place = slice(first, last + 1)
        self.codes[place] = pack(found.codes)
        self.scales[place], self.least[place] = found.scales, found.least
        self.newest, self.number = blocks[-1], last

    def block(self, number: int) -> Float:
        """Return a block as it is read: f32 ``[BLOCK, heads, width]``."""
        if number == self.number:
            return self.newest
        codes = unpack(self.codes[number], self.width)
        return Ranged(codes, self.scales[number], self.least[number]).values(0)

    def read(self, count: int) -> Float:
        """Return the first `count` rows as they are read."""
        blocks = [self.block(number) for number in range(-(-count // BLOCK))]
        if not blocks:
            return np.zeros((0, *self.newest.shape[1:]), np.float32)
        return np.concatenate(blocks)[:count]
