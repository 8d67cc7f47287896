"""The store: added once, never changed, read back in order; and what is no store."""

import dataclasses
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy as sql
from lowc.compiler.measuring.rounds import Finding
from lowc.errors import UserError
from lowc.passes.tiling import revisions, space
from lowc.passes.tiling.record import Machine
from lowc.tools.cli import main
from lowc.tools.tune.run import record_of
from lowc.tools.tune.store import Store
from lowc.tools.tune.times import relative_times
from products.measurements import MACHINE, records
from products.problems import problem


def check(place):
    some, others = records(), records("r2", form="lmul")
    with Store(place) as store:
        assert store.add(some) == 4
        assert store.add(some) == 0
        assert store.add([*some, *others]) == 4
    with Store(place) as store:
        assert list(store.records()) == [*some, *others]
        assert list(store.records(forms=["lmul"])) == others
        assert list(store.records(problem=some[0].problem.key)) == some
        assert list(store.records(machine="another")) == []
        assert store.count() == {"ok": 6, "crash": 2}
        assert store.measured(MACHINE.key) == {(r.problem.key, r.tiling) for r in [*some, *others]}
        assert store.machine(MACHINE.key) == MACHINE
        assert store.machine("another") is None


def test_sqlite(tmp_path):
    check(tmp_path / "tiles.sqlite")


def test_many_may_make_a_store_at_once(tmp_path):
    """Each sees no table first, and waits for the one that makes them."""
    script = (
        "import sys, time; from lowc.tools.tune.store import Store\n"
        "time.sleep(max(0.0, float(sys.argv[2]) - time.time()))\n"
        "for number in range(20):\n"
        "    with Store(f'{sys.argv[1]}/{number}.sqlite') as store: assert not list(store.records())"
    )
    given = [sys.executable, "-c", script, str(tmp_path), str(time.time() + 6)]
    children = [subprocess.Popen(given, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for child in children:
        said = child.communicate(timeout=120)[1]
        assert child.returncode == 0, said


def test_no_folder_is_made_for_a_store(tmp_path):
    with pytest.raises(UserError, match="there is no folder") as error:
        Store(tmp_path / "nope" / "tiles.sqlite")
    assert error.value.hint == "make it, or name another place"
    assert not (tmp_path / "nope").exists()


@pytest.mark.slow
def test_postgresql():
    pgserver = pytest.importorskip("pgserver")
    pytest.importorskip("psycopg")
    # As root the server runs as a user of its own, who must be able to come to its folder.
    folder = Path(tempfile.mkdtemp(prefix="lowc-postgres-", dir="/tmp"))
    folder.chmod(0o755)
    server = pgserver.get_server(folder / "server")
    try:
        check(server.get_uri().replace("postgresql://", "postgresql+psycopg://"))
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def test_nothing_is_changed(tmp_path):
    place = tmp_path / "tiles.sqlite"
    with Store(place) as store:
        store.add(records())
    with sqlite3.connect(place) as connection:
        for statement in ("DELETE FROM measurements", "UPDATE measurements SET seconds = 1"):
            with pytest.raises(sqlite3.IntegrityError, match="measurements are only added"):
                connection.execute(statement)
    connection.close()


def test_rates_of_a_machine_are_no_part_of_its_key():
    faster = dataclasses.replace(MACHINE, bandwidth=9e10)
    assert faster.key == MACHINE.key
    assert dataclasses.replace(MACHINE, threads=4).key != MACHINE.key
    assert Machine.from_json(faster.to_json()) == faster


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"name":"x","unit":"avx2","caches":[1]}', '{"speed":1}']
)
def test_what_is_no_machine(text):
    with pytest.raises(ValueError):
        Machine.from_json(text)


def test_another_file_is_no_store(tmp_path):
    place = tmp_path / "text"
    place.write_text("not a database, but longer than sixteen bytes")
    with pytest.raises(UserError) as error:
        Store(place)
    assert str(error.value).startswith(f"{place}: this is no store of measurements")


def test_another_database_is_no_store(tmp_path):
    place = tmp_path / "other.sqlite"
    connection = sqlite3.connect(place)
    connection.execute("CREATE TABLE measurements (x)")
    connection.commit()
    connection.close()
    with pytest.raises(UserError, match="this is a database of something else"):
        Store(place)


def test_another_version(tmp_path):
    place = tmp_path / "tiles.sqlite"
    with Store(place) as store, store.engine.begin() as connection:
        connection.execute(sql.text("UPDATE lowc_store SET value = '9'"))
    with pytest.raises(UserError, match="the store has version 9, this lowc writes 1"):
        Store(place)


def test_a_store_that_must_be_there(tmp_path):
    with pytest.raises(UserError, match="there is no store of measurements"):
        Store(tmp_path / "none.sqlite", must_exist=True)
    with pytest.raises(UserError, match="there is no store of measurements"):
        Store(f"sqlite:///{tmp_path}/none.sqlite", must_exist=True)
    assert not (tmp_path / "none.sqlite").exists()


def test_a_server_that_is_not_there():
    place = "postgresql+psycopg://somebody:secret@127.0.0.1:1/tiles"
    with pytest.raises(UserError) as error:
        Store(place)
    assert "it cannot be opened" in str(error.value)
    assert "secret" not in str(error.value)


def test_times_are_relative_to_the_default():
    """The second round met a machine at half the speed; tiles of both are still in order."""
    one = records()[0].problem
    usual, second, third = (record.tiling for record in records()[:3])
    slow = [dataclasses.replace(r, round="r2", seconds=2 * r.seconds) for r in records()[:2]]
    lonely = dataclasses.replace(records("r3")[2], seconds=1e-9)
    found = relative_times([*records(), *slow, lonely])
    assert list(found) == [one.key]
    assert found[one.key] == pytest.approx({usual: 1e-3, second: 2e-3, third: 3e-3})


def test_times_of_kernels_that_are_no_more_do_not_decide(tmp_path):
    """Only those whose kernels changed: 8-bit activations, scales of several groups, AVX-512 VNNI."""
    changed = problem("w4a8", "avx512vnni", 1, 1, 128, 256, group=64)
    same = [
        problem("w4a8", "avx2vnni", 1, 1, 128, 256, group=64),
        problem("w4a8", "avx512vnni", 1, 1, 128, 256, group=256),
        problem("w4a16", "avx512vnni", 1, 1, 128, 256, group=64),
        problem("f32", "avx512vnni", 1, 1, 128, 256),
    ]
    assert [revisions.revision_of(one) for one in (changed, *same)] == [2, 1, 1, 1, 1]

    def record(one, seconds):
        found = Finding(space.default(one).text, "ok", {"seconds": seconds})
        return record_of(found, one, MACHINE, f"{seconds}")

    new = [record(one, 1.0) for one in (changed, *same)]
    old = [dataclasses.replace(r, versions={"lowc": "0"}, seconds=2.0, round="old") for r in new]
    assert relative_times(old).keys() == {one.key for one in same}
    assert relative_times([*old, *new])[changed.key] == {new[0].tiling: 1.0}
    with Store(tmp_path / "tiles.sqlite") as store:
        store.add(old)
        # What is void is measured again.
        assert {key for key, _ in store.measured(MACHINE.key)} == {one.key for one in same}
        store.add(new)
        assert {key for key, _ in store.measured(MACHINE.key)} == {r.problem.key for r in new}
        assert list(store.records()) == [*old, *new]


def test_a_url_of_something_else_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="'foo' is no database that a store can be in"):
        Store("foo://somebody:secret@x")
    assert not list(tmp_path.iterdir())


def test_a_report_makes_no_store(tmp_path, capsys):
    assert main(["report", "cost-model", "--store", str(tmp_path / "none.sqlite")]) == 2
    assert "there is no store of measurements" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
