"""Choose the next token from logits."""

from __future__ import annotations

import operator
import reprlib
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError


def whole(value: Any, what: str) -> int:
    """Return a whole number of 0 or more.

    Raises
    ------
    UserError
        It is none; the message calls it `what`.
    """
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise UserError(f"{what} is a whole number of 0 or more, not {reprlib.repr(value)}")
    return number


def _check_real(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UserError(f"{what} is a number, not {reprlib.repr(value)}")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from logits.

    Attributes
    ----------
    temperature : float
        Logits are divided by it; 0 takes the most likely token always.
    top_k : int
        Only the most likely so many are drawn from; 0 is all.
    top_p : float
        Only the most likely ones that together have this probability are drawn from.
    seed : int or None
        Draws the same tokens again; None draws others each time.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no temperature, number or probability."""
        _check_real(self.temperature, "a temperature")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"a temperature is 0 or more, not {self.temperature}")
        whole(self.top_k, "top-k")
        _check_real(self.top_p, "top-p")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p is above 0 and at most 1, not {self.top_p}")
        if self.seed is not None:
            whole(self.seed, "a seed")


class Sampler:
    """Chooses tokens as `sampling` says, one after the other; `where` names the model in errors."""

    def __init__(self, sampling: Sampling, where: str = "") -> None:
        self.sampling = sampling
        self._where = where
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: NDArray[Any]) -> int:
        """Return a token, given logits ``[vocabulary]`` of floats; of equal ones the first.

        Raises
        ------
        UserError
            The largest logit is no number, or infinite: nothing is more likely than the rest.
        """
        how = self.sampling
        values = logits if logits.dtype.itemsize >= 4 else logits.astype(np.float32)
        best = int(values.argmax())  # NaN counts as the largest
        largest = float(values[best])
        if not np.isfinite(largest):
            raise UserError(
                f"no token can be chosen: the largest of the model's logits is {largest}",
                where=self._where,
                hint="try the recipe f32; if its logits are so too, it is the weights",
            )
        if how.temperature == 0:
            return best
        order = _most_likely(values, how.top_k)
        with np.errstate(over="ignore", under="ignore"):  # what is far from the largest gets 0
            weights = np.exp((values[order].astype(np.float64) - largest) / how.temperature)
        weights /= weights.sum()
        if how.top_p < 1:
            # The first one whose sum reaches p is in.
            count = int(np.searchsorted(np.cumsum(weights), how.top_p)) + 1
            order, weights = order[:count], weights[:count] / weights[:count].sum()
        return int(self._random.choice(order, p=weights))


def _most_likely(values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the places of the `count` largest values, 0 for all; of equal ones the first first."""
    if not 0 < count < values.size:
        return np.argsort(-values, kind="stable")
    # Sorting a vocabulary takes long: only what is no less than the last one taken is sorted.
    least = np.partition(values, values.size - count)[values.size - count]
    places = np.flatnonzero(values >= least)
    return places[np.argsort(-values[places], kind="stable")[:count]]
