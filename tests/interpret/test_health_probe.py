"""Asking whether a device computes, with real processes and the CPU as the device; what a worker may take of one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import torch

from kernelevolve.evaluate.health import Prober
from kernelevolve.worker.answers import bound_memory


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    made = Prober()
    yield made
    made.close()


def test_a_device_that_computes_has_nothing_said_of_it(prober: Prober) -> None:
    assert prober.ask("cpu") == ""
    start = time.monotonic()
    assert prober.ask("cpu") == ""
    assert time.monotonic() - start < 3, "torch is imported once"


def test_one_that_does_not_is_told_why_and_the_next_question_is_answered(prober: Prober) -> None:
    assert "nodevice" in prober.ask("nodevice:7")
    assert prober.ask("cuda:63")
    assert prober.ask("cpu") == ""


def test_a_prober_that_was_ended_is_started_again(prober: Prober) -> None:
    assert prober.ask("cpu") == ""
    assert prober._process is not None
    os.kill(prober._process.pid, signal.SIGKILL)
    assert prober.ask("cpu") == ""


def test_one_that_is_silent_is_given_up() -> None:
    impatient = Prober(seconds=0.01)
    assert "within 0.01 s" in impatient.ask("cpu")
    impatient.close()


def test_a_worker_may_take_its_share_of_a_devices_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, str]] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *a: asked.append(a))
    bound_memory("cpu")
    bound_memory("cuda:1")
    assert asked == [(0.75, "cuda:1")]
