from __future__ import annotations

import os
import signal

import pytest

from utils.common import signals
from utils.common.signals import StopRequest


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_one_wish_delivered_twice_is_one(second):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), second)
        assert stop.number == signal.SIGINT


def test_a_second_wish_acts_at_once(monkeypatch):
    monkeypatch.setattr(signals, "SAME_SIGNAL_SECONDS", 0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.number == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_of_a_job_of_several_processes_no_second_wish_acts(monkeypatch):
    monkeypatch.setattr(signals, "SAME_SIGNAL_SECONDS", 0)
    with StopRequest(patient=True) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
