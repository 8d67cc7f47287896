"""What others take of the processors, by the kernel's counters."""

import pytest
from lowc.compiler.measuring import others
from lowc.compiler.measuring.others import Others


def stat(*cpus):
    lines = ["cpu 0 0 0 0 0 0 0 0 0 0"]
    lines += [f"cpu{number} {user} 0 0 {idle} 0 0 0 0 0 0" for number, user, idle in cpus]
    return "\n".join([*lines, "intr 5"])


@pytest.fixture
def place(tmp_path, monkeypatch):
    found = tmp_path / "stat"
    monkeypatch.setattr(others, "_STAT", found)
    return found


def test_the_share_of_others(place):
    place.write_text(stat((0, 1000, 0), (1, 1000, 0), (2, 0, 0)))
    looks = Others([0, 1])
    assert looks.share() is None  # no time has passed
    place.write_text(stat((0, 1050, 50), (1, 1002, 98), (2, 900, 0)))
    # 52 of 200 ticks, but for one of each core; the third core is none of them.
    assert looks.share() == pytest.approx(50 / 200, abs=0.02)
    place.write_text(stat((0, 1050, 150), (1, 1002, 198), (2, 900, 0)))
    assert looks.share() == 0


def test_a_short_time_is_added_to_the_next(place):
    place.write_text(stat((0, 0, 0)))
    looks = Others([0])
    place.write_text(stat((0, 5, 0)))
    assert looks.share() is None
    place.write_text(stat((0, 10, 10)))
    assert looks.share() == pytest.approx(9 / 20, abs=0.05)


def test_a_system_that_does_not_say(place):
    assert Others([0]).share() == 0
    place.write_text(stat((0, 5, 5)))
    assert Others([]).share() == 0
