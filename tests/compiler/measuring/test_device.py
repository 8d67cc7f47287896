"""The lock of a device: one holder at a time, and a file that every user can lock."""

import os
import tempfile
import threading

import pytest
from lowc.compiler.measuring.device import device_lock
from lowc.errors import UserError

FILE = "lowc-measuring-cpu.lock"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_one_at_a_time():
    waits, order = threading.Event(), []

    def other():
        with device_lock(tell=lambda _: waits.set()):
            order.append("second")

    thread = threading.Thread(target=other)
    with device_lock():
        thread.start()
        assert waits.wait(60)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_its_file_is_for_every_user(place):
    before = os.umask(0o077)
    try:
        with device_lock():
            pass
    finally:
        os.umask(before)
    assert (place / FILE).stat().st_mode & 0o777 == 0o666


def test_another_ones_file_is_only_read(place, monkeypatch):
    (place / FILE).touch(0o444)
    opened, original = [], os.open

    def watched(path, flags, *rest):
        opened.append(flags)
        return original(path, flags, *rest)

    monkeypatch.setattr(os, "open", watched)
    with device_lock():
        pass
    assert len(opened) == 1 and not opened[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)


def test_a_link_in_its_place_is_named(place):
    (place / FILE).symlink_to(place / "elsewhere")
    with pytest.raises(UserError, match="the lock of measurements cannot be opened"), device_lock():
        pass
    assert not (place / "elsewhere").exists()
