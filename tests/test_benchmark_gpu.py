"""The benchmark of a CUDA device: what can be tried without one, and the page that it writes."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu
from benchmarks.measure import Spread


def test_the_whole_benchmark_runs_on_a_processor_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before, threads = gpu.PAGE.read_text(encoding="utf-8"), torch.get_num_threads()
    torch.set_num_threads(1)
    assert gpu.main(["--device", "cpu", "--batches", "64,300", "--slots", "400", "--runs", "2"]) == 0
    torch.set_num_threads(threads)
    told = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    models = ["| word LSTM", "| word LSTM, 16 flows a conversation", "| multi-flow, float32", "| multi-flow, bfloat16"]
    assert [(model, batch) for model, batch, _ in told] == [(model, batch) for batch in ("64", "300") for model in models]
    assert gpu.PAGE.read_text(encoding="utf-8") == before


def test_a_batch_larger_than_the_table_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--batches", "64", "--slots", "32"]) == 2
    assert "no more than there are --slots" in capsys.readouterr().err


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
def test_a_device_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert gpu.main(["--no-write", "--batches", "2048"]) == 0
    assert "| word LSTM | 2,048 |" in capsys.readouterr().out
