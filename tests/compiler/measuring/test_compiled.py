"""Modules are compiled once for the same text, flags and compiler, and the oldest go."""

import os
import shutil

import pytest
from lowc.compiler import backend
from lowc.compiler.measuring.compiled import Cache, default_folder, key_of
from lowc.compiler.measuring.rounds import prepare
from lowc.compiler.target import load_target
from lowc.passes.tiling import space
from products.problems import linalg


def test_a_name_is_all_that_code_depends_on():
    cpu, chip = load_target("cpu"), load_target("cpu:haswell")
    assert key_of("a", cpu) == key_of("a", load_target("cpu"))
    assert len({key_of("a", cpu), key_of("b", cpu), key_of("a", chip)}) == 3


def test_the_host_is_named_where_flags_say_host(monkeypatch):
    """Another machine that has the same folder, or this one with another CPU, has other code."""
    cpu, chip = load_target("cpu"), load_target("cpu:haswell")
    here = [key_of("a", target) for target in (cpu, chip)]
    name, features = backend.processor(cpu)
    for other in (("another", features), (name, f"{features},+another")):
        monkeypatch.setattr(backend, "processor", lambda _, other=other: other)
        assert key_of("a", cpu) != here[0]
        assert key_of("a", chip) == here[1]


@pytest.mark.slow
def test_the_same_round_is_compiled_once(tmp_path, monkeypatch):
    one = linalg("lmul", "avx2", 1, 5, 32, 16)
    some = space.candidates(one)[:2]
    cache = Cache(tmp_path / "kept")
    first = prepare("a", one, some, "cpu", tmp_path / "a", cache)
    assert cache.hits == 0 and len(list((tmp_path / "kept").iterdir())) == 1
    monkeypatch.setattr("lowc.compiler.backend.compile_module", None)  # who calls it fails
    again = prepare("b", one, some, "cpu", tmp_path / "b", cache)
    assert cache.hits == 1
    modules = [prepared.parts[0].module.read_bytes() for prepared in (first, again)]
    assert modules[0] == modules[1] and len(modules[0]) > 1000
    with pytest.raises(TypeError):  # other tiles are other code
        prepare("c", one, space.candidates(one)[:3], "cpu", tmp_path / "c", cache)


def test_what_was_not_used_for_the_longest_time_goes(tmp_path):
    module = tmp_path / "module"
    module.write_bytes(bytes(1000))
    cache = Cache(tmp_path / "kept", most=2500)
    for number in range(2):
        cache.keep(f"{number}", module)
        os.utime(tmp_path / f"kept/{number}.vmfb", (number + 1, number + 1))
    assert cache.fetch("0", tmp_path / "out")  # is the newest now
    cache.keep("2", module)
    assert sorted(path.stem for path in (tmp_path / "kept").iterdir()) == ["0", "2"]
    assert not cache.fetch("1", tmp_path / "out") and not (tmp_path / "out").exists()


def test_nothing_is_left_of_a_copy_that_failed(tmp_path, monkeypatch):
    cache = Cache(tmp_path / "kept")
    cache.keep("a", tmp_path / "not there")
    (tmp_path / "module").write_bytes(b"code")

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", stopped)
    with pytest.raises(KeyboardInterrupt):
        cache.keep("a", tmp_path / "module")
    assert list((tmp_path / "kept").iterdir()) == []


def test_what_a_killed_process_left_goes_later(tmp_path):
    (tmp_path / "module").write_bytes(b"code")
    folder = tmp_path / "kept"
    folder.mkdir()
    for name, time in (("old.part", 1), ("new.part", None)):
        (folder / name).write_bytes(b"co")
        if time:
            os.utime(folder / name, (time, time))
    Cache(folder).keep("a", tmp_path / "module")
    assert sorted(path.name for path in folder.iterdir()) == ["a.vmfb", "new.part"]


def test_what_cannot_be_removed_stays_alone(tmp_path):
    """One that is a folder: the others still make room."""
    (tmp_path / "module").write_bytes(bytes(1000))
    odd = tmp_path / "kept" / "odd.vmfb"
    odd.mkdir(parents=True)
    os.utime(odd, (0, 0))
    cache = Cache(tmp_path / "kept", most=odd.stat().st_size + 1500)
    for number in range(3):
        cache.keep(f"{number}", tmp_path / "module")
        os.utime(tmp_path / f"kept/{number}.vmfb", (number + 1, number + 1))
    assert sum(path.is_file() for path in (tmp_path / "kept").iterdir()) == 1


def test_without_a_folder_nothing_is_kept(tmp_path):
    cache = Cache(None)
    (tmp_path / "module").write_bytes(b"code")
    cache.keep("a", tmp_path / "module")
    assert not cache.fetch("a", tmp_path / "out")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "kept").write_text("a file")
    (tmp_path / "module").write_bytes(b"code")
    cache = Cache(tmp_path / "kept")
    cache.keep("a", tmp_path / "module")
    assert not cache.fetch("a", tmp_path / "out")


def test_where_modules_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "lowc" / "compiled"
