"""Registers that values of a text take: by hand, in straight code and in loops."""

from lowc.passes.tiling import liveness, tokens

TEXT = """func.func @f() {
  %a = vector.load %m[%i] : memref<64xf32>, vector<16xf32>
  %b = vector.load %m[%i] : memref<64xf32>, vector<32xf32>
  %s = scf.for %j = %i to %n step %i iter_args(%t = %a, %u = %a) -> (vector<16xf32>, vector<16xf32>) {
    %x = vector.extract %b[0] : vector<16xf32> from vector<32xf32>
    %y = arith.addf %t, %a : vector<16xf32>
    scf.yield %y, %u : vector<16xf32>, vector<16xf32>
  }
  vector.store %s#0, %m[%i] : memref<64xf32>, vector<16xf32>
  return
}"""


def alive(unit="avx512"):
    found = tokens.tokenize(TEXT, unit)
    return {words[3]: int(words[-1].removeprefix("v:")) for words in found.operations}


def test_registers_of_types():
    assert liveness.registers_of("vector<16xf32>, vector<8xi8>, index", "avx512") == 2
    assert liveness.registers_of("vector<2x32xf32>", "avx2") == 8
    assert liveness.registers_of("vector<16xf32>", "portable") == 4
    assert (
        liveness.result_types("vector.bitcast %a : vector<4xi32> to vector<16xi8>")
        == "vector<16xi8>"
    )
    assert liveness.result_types("vector.store %a, %b[%c] : memref<4xf32>") == ""


def test_what_a_loop_uses_lives_to_its_end():
    found = alive()
    # a and b are read in each round, and so live while y is made; so does u, but t ends there.
    assert found["arith.addf"] == 1 + 2 + 1
    assert found["vector.store"] == 0 and found["return"] == 0
    assert alive("avx2")["arith.addf"] == 2 * found["arith.addf"]


def test_spilling_tiles_have_more_values_than_registers():
    line = "  %v{0} = vector.load %m[%i] : memref<64xf32>, vector<16xf32>\n"
    uses = "  vector.store %v{0}, %m[%i] : memref<64xf32>, vector<16xf32>\n"
    text = "".join(line.format(i) for i in range(40)) + "".join(uses.format(i) for i in range(40))
    found = tokens.tokenize(text, "avx512")
    assert max(int(words[-1][2:]) for words in found.operations) == 39
