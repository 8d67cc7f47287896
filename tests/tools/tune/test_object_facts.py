"""What is read from compiled kernels, and the corpus of kernels that it is read for."""

import pytest
from lowc import InternalError
from lowc.compiler.backend import CHIPS
from lowc.compiler.target import load_target
from lowc.passes.kernels.float_matmul import FloatMatmul
from lowc.passes.kernels.tiles import Tile
from lowc.tools.cli import main
from lowc.tools.tune import kernel_corpus, object_facts, text_corpus
from products.assembly import functions


def sample(rows, vectors):
    tile = Tile(16, rows, vectors, 256, 2, 4 * rows)
    kernel = FloatMatmul(1, 64, 384, 256, False, tile)
    return kernel_corpus.Sample(kernel, 2, 0, "float", "1x64x384x256", f"{rows}x{vectors}")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    chosen = [sample(8, 3), sample(12, 4)]
    text = str(kernel_corpus.module_of(chosen))
    target = load_target(CHIPS["avx512"])
    return chosen, text, object_facts.compile_facts(text, target, folder), folder


@pytest.mark.slow
def test_a_tile_beyond_the_registers_spills(compiled):
    chosen, _, facts, folder = compiled
    fits, spills = (facts[one.kernel.name] for one in chosen)
    assert fits.spills == 0 and spills.spills > 0
    assert spills.instructions > fits.instructions and spills.code_bytes > fits.code_bytes
    assert 24 < fits.vector_registers <= 32 == spills.vector_registers
    # The assembly, read in another way.
    (text,) = (path.read_text() for path in (folder / "objects").glob("*.s"))
    for one in chosen:
        lines = [line for line in functions(text)[one.kernel.name] if not line.endswith(":")]
        found = facts[one.kernel.name].instructions
        assert found == len(lines) and 2 * found < facts[one.kernel.name].code_bytes < 12 * found


@pytest.mark.slow
def test_what_does_not_compile_is_said(tmp_path):
    with pytest.raises(InternalError, match="iree-compile failed"):
        object_facts.compile_facts("module {", load_target("cpu:haswell"), tmp_path)


def test_innermost_loops_are_found():
    text = """hal.executable.source public @one {
      scf.for %a = %b to %c step %d {
        %s = scf.for %e = %b to %c step %d iter_args(%f = %g) -> (f32) {
          scf.if %h {
          }
        }
        scf.for %e = %b to %c step %d {
        }
      }
    }"""
    assert object_facts.innermost_loops(text) == [(3, 6, "one"), (7, 8, "one")]


def test_remarks_outside_of_innermost_loops_do_not_count():
    said = (
        "remark: k.mlir:4:1: 3 spills 1.0e+00 total spills cost 2 reloads 5.0e+00 total reloads cost "
        "4 folded reloads 1.0e+00 total folded reloads cost 7 virtual registers copies generated in loop\n"
        "remark: k.mlir:2:1: 9 spills 1.0e+00 total spills cost generated in loop\n"
        "remark: k.mlir:4:1: 9 spills 1.0e+00 total spills cost generated in function\n"
    )
    assert object_facts.spills_of(said, [(3, 6, "one")]) == {"one": 9}


def test_an_object_file_that_is_none_is_refused():
    with pytest.raises(InternalError, match="no 64-bit ELF"):
        object_facts.symbol_sizes(b"MZ")
    with pytest.raises(InternalError, match="damaged"):
        object_facts.symbol_sizes(b"\x7fELF\x02\x01" + b"\xff" * 100)


def test_samples_are_the_same_for_the_same_seed_and_of_all_families():
    first, again = (kernel_corpus.samples("avx512vnni", 60, 3) for _ in range(2))
    assert first == again and len({one.kernel.name for one in first}) == 60
    assert {one.family for one in first} >= {"float", "additive", "integer", "table", "dequant"}
    assert first != kernel_corpus.samples("avx512vnni", 60, 4)


def test_a_corpus_that_was_cut_short_is_read(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"batch": 3, "name": "a"}\n{"batch": 4, "na')
    assert list(text_corpus.read(path)) == [{"batch": 3, "name": "a"}]
    assert text_corpus.name_of("func.func @f_1x2(%a: i32) {") == "f_1x2"


def test_a_corpus_that_was_cut_short_is_continued(tmp_path, monkeypatch):
    path = tmp_path / "c.jsonl"
    monkeypatch.setattr(
        text_corpus, "batch", lambda number: iter([{"batch": number, "name": n} for n in "ab"])
    )
    assert list(text_corpus.collect(path, range(3))) == [2, 2, 2]
    whole = path.read_bytes()
    for cut in (len(whole) - 1, len(whole) - 30, 5, 0):
        path.write_bytes(whole[:cut])
        list(text_corpus.collect(path, range(3)))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("text", ["a note", "a note\n", "{}\n", '{"batch": 1}\nx', "\xff\n"])
def test_another_file_is_no_corpus_and_stays(text, tmp_path, capsys):
    path = tmp_path / "c.jsonl"
    path.write_text(text, encoding="latin-1")
    assert main(["tune", "--corpus", str(path), "--kernels", "24"]) == 2
    assert "this is no file of kernels" in capsys.readouterr().err
    assert path.read_text(encoding="latin-1") == text
