"""The benchmark of a CUDA device: what can be tried without one, and the page that it writes."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu
from benchmarks.measure import Spread


def test_both_models_are_measured_by_the_same_calls_on_any_device() -> None:
    device = torch.device("cpu")
    rates = [gpu.words(64, device, slots=128, runs=2), *gpu.flows(64, device, slots=128, runs=2)]
    assert [rate.model for rate in rates] == ["word LSTM", "multi-flow, float32", "multi-flow, bfloat16"]
    assert all(rate.batch == 64 and rate.rate.median > 0 for rate in rates)


def test_the_page_names_the_device_and_every_rate() -> None:
    text = gpu.page([gpu.Rate("word LSTM", 2048, Spread(12e6, 11e6, 13e6))], "some device")
    assert "Device: some device\n" in text
    assert "| word LSTM | 2,048 | 12.00 (11.00 to 13.00) |" in text


def test_the_page_in_the_repository_was_measured_or_says_that_it_was_not() -> None:
    text = gpu.PAGE.read_text(encoding="utf-8")
    assert (text == gpu.page([], gpu.NOT_MEASURED)) != ("| word LSTM |" in text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "benchmarks.gpu: torch finds no CUDA device here: run it where there is one\n"


@pytest.mark.gpu
def test_a_device_is_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(gpu, "BATCHES", (2_048,))
    assert gpu.main(["--no-write"]) == 0
    assert "| word LSTM | 2,048 |" in capsys.readouterr().out
