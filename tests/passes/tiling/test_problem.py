"""Problems: one text for each, keys that a new field leaves alone, and what is refused."""

import dataclasses
import json

import pytest
from lowc.passes.tiling.problem import Problem
from products.problems import every, linalg

SIZES = (1, 128, 384, 384)


@pytest.mark.parametrize(
    "one", [*every("avx512vnni", SIZES), linalg("lmul", "avx2", 2, 5, 7, 9)], ids=str
)
def test_text_reads_back(one):
    assert Problem.from_json(one.to_json()) == one
    assert (
        json.dumps(json.loads(one.to_json()), sort_keys=True, separators=(",", ":"))
        == one.to_json()
    )


def test_the_key_is_of_what_is_not_default():
    one = Problem("f32", "kernel", "avx512", 1, 64, 192, 256)
    assert one.to_json() == (
        '{"batch":1,"form":"f32","k":256,"lowering":"kernel","m":64,"n":192,"unit":"avx512"}'
    )
    assert one.key == "ec0e34a14bc82ec5"
    others = [dataclasses.replace(one, **{name: value}) for name, value in
              (("m", None), ("own_batch", True), ("weight", "bf16"), ("lowering", "linalg"))]  # fmt: skip
    assert len({one.key, *(other.key for other in others)}) == 5


def test_unknown_sizes():
    one = Problem("f32", "kernel", "avx2", 1, None, 192, 256)
    assert not one.is_static
    assert one.shape == "1x?x192x256"
    assert Problem.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "a problem has no field 'colour'"),
        ({"m": -1}, "the field 'm' of a problem cannot be -1"),
        ({"m": True}, "the field 'm' of a problem cannot be True"),
        ({"m": 1.5}, "the field 'm' of a problem cannot be 1.5"),
        ({"group": None}, "the field 'group' of a problem cannot be None"),
        ({"form": 3}, "the field 'form' of a problem cannot be 3"),
        ({"packs": 1}, "the field 'packs' of a problem cannot be 1"),
        ({"lowering": "magic"}, "the field 'lowering' of a problem cannot be 'magic'"),
    ],
)
def test_what_is_no_problem(change, message):
    values = {**Problem("f32", "kernel", "avx512", 1, 64, 192, 256).to_dict(), **change}
    with pytest.raises(ValueError, match="problem") as error:
        Problem.from_json(json.dumps(values))
    assert str(error.value) == message


@pytest.mark.parametrize("text", ["[]", "3", '{"form":"f32"}', "{"])
def test_other_json(text):
    with pytest.raises(ValueError):
        Problem.from_json(text)


def test_backends():
    backends = {
        Problem("lmul", "kernel", unit, 1, 2, 3, 4).backend for unit in ("avx2", "spirv", "ptx")
    }
    assert backends == {"cpu", "vulkan", "cuda"}
