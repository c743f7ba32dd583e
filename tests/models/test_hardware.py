"""What is asked of the machine."""

import threading

import pytest
import torch

from lorad.models import hardware


@pytest.fixture
def threads():
    """Put the number of threads back."""
    before = torch.get_num_threads()
    yield
    hardware.compute_with(before)


@pytest.mark.usefixtures("threads")
def test_what_one_thread_takes_stays_its_own():
    told, found = threading.Event(), []

    def answer():
        hardware.compute_with(3)
        told.set()
        hardware_is_shared.wait()
        found.append(torch.get_num_threads())

    hardware_is_shared = threading.Event()
    answering = threading.Thread(target=answer)
    answering.start()
    told.wait()
    hardware.compute_with(1)
    hardware_is_shared.set()
    answering.join()
    beside = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    beside.start()
    beside.join()
    assert found == [3, 1]


def test_cuda_and_cudnn_are_told_where_they_compute(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90100)

    assert hardware.cuda_libraries("cuda:1") == {"cuda": "12.6", "cudnn": "90100"}
    assert hardware.cuda_libraries("cpu") == hardware.cuda_libraries("mps") == {}


def test_cudnn_computes_the_same_way_each_time(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)

    hardware.repeat_alike()

    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)


def test_memory_is_given_back_where_the_system_takes_it(monkeypatch):
    hardware.give_back_memory()
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda _name: object())
    hardware.give_back_memory()
