"""Prompts in pieces: how many tokens each call is given, and that all of them are."""

from __future__ import annotations

import lowc
import numpy as np
import pytest
from lowc.errors import UserError
from lowc.runtime.feeding import Feeder

torch = pytest.importorskip("torch")

CONTEXT = 30


class Sum(torch.nn.Module):
    """Its state is the sum of all tokens so far, which it gives as logits of one token."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1, 1))

    def forward(self, tokens, positions):
        before = self.total * (positions[-1] >= tokens.shape[0]).float()
        self.total.copy_(before + tokens.float().sum())
        return self.total + 0


class Digit(Sum):
    """Its logits are those of ten tokens; the last digit of the sum is the likely one."""

    def forward(self, tokens, positions):
        total = super().forward(tokens, positions).long() % 10
        return (torch.arange(10)[None] == total).float()


def _program(tokens, positions, sizes, dtype=torch.int64, model=Sum):
    given = (torch.zeros(tokens, dtype=dtype), torch.arange(positions, dtype=dtype))
    return torch.export.export(model(), given, dynamic_shapes=sizes)


def _loaded(place, prefill, most=CONTEXT, **given):
    decode = _program(1, 5, ({}, {0: torch.export.Dim("n", min=1, max=most)}), **given)
    models = {"prefill": prefill, "decode": decode}
    return lowc.load(lowc.compile(models, output=place / "sum.vmfb"))


def _dims(least=2, most=CONTEXT, context=CONTEXT):
    s = torch.export.Dim("s", min=least, max=most)
    return {0: s}, {0: torch.export.Dim("n", min=1, max=context)}


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    """A model of prompts of 2 to 12 tokens."""
    return _loaded(tmp_path_factory.mktemp("free"), _program(3, 5, _dims(most=12)))


@pytest.mark.parametrize(
    ("piece", "count", "wanted"),
    [
        (8, 1, [1]), (8, 8, [8]), (8, 9, [5, 4]), (8, 24, [8, 8, 8]), (8, 26, [7, 7, 6, 6]),
        (128, 30, [10, 10, 10]), (2, 5, [2, 2, 1]), (2, 3, [2, 1]),
    ],
)  # fmt: skip
def test_pieces_are_of_about_one_size_and_no_longer_than_the_model_takes(
    free, piece, count, wanted
):
    feeder = Feeder(free.prefill, free.decode, CONTEXT, piece)
    assert feeder.pieces(count) == wanted
    tokens = np.arange(1, count + 1)
    assert feeder.feed(tokens, 0) == tokens.sum()
    # What is there already counts.
    if count < CONTEXT:
        assert (
            feeder.feed(tokens[: CONTEXT - count], count)
            == tokens.sum() + tokens[: CONTEXT - count].sum()
        )


def test_a_prompt_longer_than_the_model_takes_at_once_is_generated_from(free, tmp_path):
    model = _loaded(tmp_path, _program(3, 5, _dims(most=12), model=Digit), model=Digit)
    # The sum of the prompt is 406; the token that follows is added, and there is room for one.
    assert list(lowc.generate(model, np.arange(29))) == [6, 2]
    with pytest.raises(UserError, match="of two tokens or more, not 1"):
        lowc.generate(free, [1], piece=1)


def test_a_context_that_no_memory_holds_costs_nothing(tmp_path):
    sizes = _dims(most=12, context=10**13)
    model = _loaded(tmp_path, _program(3, 5, sizes, model=Digit), most=10**13, model=Digit)
    assert list(lowc.generate(model, [5] * 151, limit=3)) == [5, 0, 0]


def test_a_model_of_int32_is_given_int32(tmp_path):
    given = {"dtype": torch.int32, "model": Digit}
    model = _loaded(tmp_path, _program(3, 5, _dims(most=12), **given), **given)
    assert list(lowc.generate(model, np.arange(1, 18), limit=3)) == [3, 6, 2]
    with pytest.raises(UserError, match=f"in int32, which has no {2**32 + 5}"):
        list(lowc.generate(model, [2**32 + 5]))


def test_a_prompt_of_a_model_that_takes_one_token_is_given_singly(tmp_path):
    n = torch.export.Dim("n", min=1, max=CONTEXT)
    model = _loaded(tmp_path, _program(1, 5, ({}, {0: n})))
    feeder = Feeder(model.prefill, model.decode, CONTEXT)
    assert feeder.pieces(3) == [1, 1, 1]
    assert feeder.feed(np.arange(5), 0) == 10


def test_a_model_of_a_known_number_of_tokens_gets_so_many_and_then_single_ones(tmp_path):
    n = torch.export.Dim("n", min=1, max=CONTEXT)
    model = _loaded(tmp_path, _program(4, 5, ({}, {0: n})))
    feeder = Feeder(model.prefill, model.decode, CONTEXT)
    assert [feeder.pieces(count) for count in (1, 3, 4, 10)] == [[1], [1, 1, 1], [4], [4, 4, 1, 1]]
    assert feeder.feed(np.arange(10), 0) == 45


def test_a_model_that_takes_all_tokens_at_once_gets_them(tmp_path):
    n = torch.export.Dim("n", min=2, max=CONTEXT)
    model = _loaded(tmp_path, _program(5, 5, ({0: n}, {0: n})))
    feeder = Feeder(model.prefill, model.decode, CONTEXT, piece=4)
    assert feeder.pieces(9) == [9]
    assert feeder.feed(np.arange(9), 0) == 36
