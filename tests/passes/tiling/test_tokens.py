"""Tokens of MLIR text: what is left out, what is canonical, and how often operations run."""

import pytest
from lowc.passes.tiling import tokens

TEXT = """
func.func @name_12x34(%arg0: memref<12x512xf32>) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c96 = arith.constant 96 : index
  %cst = arith.constant dense<1.500000e+00> : vector<16xf32>
  %id = hal.interface.workgroup.id[0] : index
  %0 = arith.addi %id, %c96 : index
  %1 = arith.minui %0, %c96 : index
  scf.for %i = %c0 to %1 step %c1 {
    %2 = vector.load %arg0[%c0, %i] : memref<12x512xf32>, vector<16xf32>  // a comment
    %3 = scf.for %j = %c0 to %arg1 step %c1 iter_args(%s = %2) -> (vector<16xf32>) {
      %4 = arith.addf %s, %cst : vector<16xf32> loc("here":1:2)
      scf.yield %4 : vector<16xf32>
    }
    vector.store %3, %arg0[%c0, %i] : memref<12x512xf32>, vector<16xf32>
  }
  return
}
"""


def read(text=TEXT, unit="avx2"):
    return tokens.tokenize(text, unit)


def operation(found, name):
    (place,) = (i for i, words in enumerate(found.operations) if name in words)
    return found.operations[place], found.rounds[place]


def test_shapes_are_numbers_and_symbols_are_gone():
    words, _ = operation(read(), "func.func")
    assert words[3:-1] == ["func.func", "@", "%0", "memref", "n7", "n18", "f32"]
    assert not any("name" in word for one in read().operations for word in one)


def test_names_comments_and_locations_change_nothing():
    other = TEXT.replace("%2", "%loaded").replace("%c96", "%many").replace("  // a comment", "")
    other = other.replace(' loc("here":1:2)', "").replace("@name_12x34", "@g")
    assert read(other) == read()


def test_constants_stand_where_they_are_used():
    words, _ = operation(read(), "arith.addf")
    assert "arith.constant" not in {word for one in read().operations for word in one}
    assert tokens.number(1.5) == "n1" and "n1" in words


def test_rounds_follow_from_constants():
    found = read()
    assert operation(found, "arith.addf")[1] == 96  # the inner loop's end is not known
    assert operation(found, "vector.load")[1] == 96
    assert operation(found, "arith.minui")[1] == 1
    assert operation(found, "return")[1] == 1
    assert "d:2" in operation(found, "arith.addf")[0] and "d:0" in operation(found, "return")[0]


def test_a_shape_that_was_never_seen_has_known_tokens():
    seen = {word for one in read().operations for word in one}
    other = read(TEXT.replace("12x512", "11x500"))
    assert {word for one in other.operations for word in one} <= seen
    bigger = read(TEXT.replace("12x512", "12x2048"))
    assert bigger.operations != read().operations


def test_the_unit_is_said_everywhere_and_long_texts_end():
    assert all("u:avx2" in words for words in read().operations)
    line = "  %9 = arith.addf %s, %s : vector<16xf32>\n"
    found = read(line * (tokens.MOST_OPERATIONS + 5))
    assert len(found.operations) == len(found.rounds) == tokens.MOST_OPERATIONS


def test_integers_do_not_grow_without_end():
    """Squared 40 times, 3 has 2^40 bits: what is no index is not known."""
    squares = "".join(f"  %{i + 1} = arith.muli %{i}, %{i} : index\n" for i in range(40))
    loop = "  scf.for %i = %c0 to %40 step %c1 {\n    %x = arith.addf %a, %a : f32\n  }\n"
    constants = "".join(
        f"  %{n} = arith.constant {v} : index\n" for n, v in (("c0", 0), ("c1", 1), ("0", 3))
    )
    assert operation(read(constants + squares + loop), "arith.addf")[1] == 1
    # And one that was known is not what it was before.
    again = constants + "".join("  %0 = arith.muli %0, %0 : index\n" for _ in range(40))
    assert operation(read(again + loop.replace("%40", "%0")), "arith.addf")[1] == 1


def test_rounds_of_many_loops_stay_a_number():
    constants = "".join(
        f"  %{n} = arith.constant {v} : index\n" for n, v in (("c0", 0), ("c1", 1), ("n", 10**18))
    )
    loops = "scf.for %i = %c0 to %n step %c1 {\n" * tokens.MOST_LOOPS
    inside = "%x = arith.addf %y, %y : f32\n"
    assert read(constants + loops + inside).rounds[-1] == tokens.MOST_ROUNDS
    with pytest.raises(ValueError, match="nested"):
        read(constants + loops * 2)


def test_a_layout_that_never_ends_takes_no_time_to_leave_out():
    assert read("layout(<a" * 500_000).operations
    words = read("%0 = some.binding layout(<constants = 1, bindings = [#b]>) : index").operations[0]
    assert "constants" not in words and "some.binding" in words
