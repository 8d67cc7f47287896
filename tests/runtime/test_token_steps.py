"""Steps of one token: what the model gives, and errors as of any call."""

from __future__ import annotations

import lowc
import numpy as np
import pytest
from lowc.errors import UserError
from lowc.runtime import token_steps
from lowc.runtime.feeding import Feeder
from lowc.runtime.token_steps import TokenSteps

torch = pytest.importorskip("torch")

CONTEXT, WORDS = 50, 7


class Table(torch.nn.Module):
    """Its logits are the sum of the tokens' rows, of all so far, and the last position."""

    def __init__(self):
        super().__init__()
        self.rows = torch.nn.Embedding(WORDS, WORDS)
        self.register_buffer("total", torch.zeros(1, WORDS))

    def forward(self, tokens, positions):
        before = self.total * (positions[-1] >= tokens.shape[0]).float()
        self.total.copy_(before + self.rows(tokens).sum(0, keepdim=True))
        return self.total + positions[-1].float()


@pytest.fixture(scope="module")
def table():
    torch.manual_seed(0)
    return Table().eval()


@pytest.fixture(scope="module")
def loaded(table, tmp_path_factory):
    n = torch.export.Dim("n", min=1, max=CONTEXT)
    s = torch.export.Dim("s", min=2, max=CONTEXT)
    models = {
        name: torch.export.export(
            table, (torch.zeros(tokens, dtype=torch.int64), torch.arange(5)), dynamic_shapes=sizes
        )
        for name, tokens, sizes in (("prefill", 3, ({0: s}, {0: n})), ("decode", 1, ({}, {0: n})))
    }
    place = tmp_path_factory.mktemp("table")
    return lowc.load(lowc.compile(models, output=place / "table.vmfb"))


@pytest.mark.parametrize("at_first", [1, 1024])
def test_steps_give_what_the_model_does(table, loaded, monkeypatch, at_first):
    monkeypatch.setattr(token_steps, "MOST_AT_FIRST", at_first)
    assert TokenSteps.suit(loaded.decode, CONTEXT)
    feeder = Feeder(loaded.prefill, loaded.decode, CONTEXT)
    text = np.random.default_rng(0).integers(0, WORDS, CONTEXT)
    rows = table.rows.weight.detach().numpy()
    feeder.feed(text[:3], 0)
    for held in range(3, CONTEXT):
        found = feeder.feed(text[held : held + 1], held)
        wanted = rows[text[: held + 1]].sum(0) + held
        assert np.abs(found - wanted).max() < 1e-4


def test_the_first_token_of_a_text(table, loaded):
    feeder = Feeder(loaded.prefill, loaded.decode, CONTEXT)
    feeder.feed(np.array([1, 2]), 0)
    found = feeder.feed(np.array([3]), 0)
    assert np.abs(found - table.rows.weight[3].detach().numpy()).max() < 1e-6


@pytest.mark.parametrize("token", [WORDS, -1])
def test_a_token_that_the_model_has_not_is_refused(loaded, token):
    feeder = Feeder(loaded.prefill, loaded.decode, CONTEXT)
    with pytest.raises(UserError) as caught:
        feeder.feed(np.array([token]), 3)
    assert "is not in [0, 7)" in str(caught.value)
    assert feeder.feed(np.array([1]), 0).shape == (WORDS,)


def test_positions_beyond_a_table_of_them_are_refused(tmp_path):
    class Placed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = torch.nn.Embedding(WORDS, WORDS)
            self.places = torch.nn.Embedding(CONTEXT - 10, WORDS)

        def forward(self, tokens, positions):
            return self.rows(tokens) + self.places(positions)[-1:]

    n = torch.export.Dim("n", min=1, max=CONTEXT)
    program = torch.export.export(
        Placed().eval(), (torch.zeros(1, dtype=torch.int64), torch.arange(5)),
        dynamic_shapes=({}, {0: n}),
    )  # fmt: skip
    entry = lowc.load(lowc.compile(program, output=tmp_path / "placed.vmfb"))
    assert TokenSteps.suit(entry, CONTEXT)
    steps = TokenSteps(entry, CONTEXT)
    assert [steps.takes(1, count) for count in (CONTEXT - 10, CONTEXT - 9)] == [True, False]
    feeder = Feeder(entry, entry, CONTEXT)
    assert feeder.feed(np.array([1]), CONTEXT - 11).shape == (WORDS,)
    with pytest.raises(UserError) as caught:
        feeder.feed(np.array([1]), CONTEXT - 10)
    assert "is not in [0, 40)" in str(caught.value)


def test_a_fixed_number_of_positions_is_no_such_entry(table, tmp_path):
    program = torch.export.export(table, (torch.zeros(1, dtype=torch.int64), torch.arange(5)))
    assert not TokenSteps.suit(lowc.load(lowc.compile(program, output=tmp_path / "t.vmfb")), 5)
