"""The number of threads follows the work, and is restored."""

import os

import pytest
import torch

from ranklens.threads import THREADED, threads


def test_threads_follow_the_work_and_are_restored():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with threads(10):
            assert torch.get_num_threads() == 1
        with threads(1e9):
            assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError, match="inside"), threads(10):
            raise RuntimeError("inside")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_threshold_and_the_number_of_cores(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with threads(THREADED - 1):
            assert torch.get_num_threads() == 1
        with threads(THREADED):
            assert torch.get_num_threads() == 2
        monkeypatch.setattr(os, "cpu_count", lambda: 1)
        with threads(THREADED):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
