"""What a model costs to run, and a block in memory."""

import mmap

import pytest
import torch

from backdoor_lab.evaluation import costs
from backdoor_lab.evaluation.costs import PeakMemory, measure
from tests.tiny import SPEC, Tiny

CPU = torch.device("cpu")


def test_parameters_and_flops_are_those_of_the_layers(engine, tiny):
    found = measure({"victim": tiny.train(), "purified": Tiny().eval()}, SPEC, engine)
    first = 8 * 27 * 6 * 6  # multiplications: of each of 6 x 6 places
    second = 8 * 72 * 4 * 4
    assert list(found) == ["victim", "purified"]
    for cost in found.values():
        assert cost.parameters == 858
        assert cost.flops == 2 * (first + second + 8 * 2)
        assert 0 < cost.latency_ms < 1000
    assert tiny.training
    assert tiny.body[1].num_batches_tracked == 0


def test_models_are_timed_turn_by_turn_until_the_time_is_up(engine, monkeypatch):
    passes = []
    monkeypatch.setattr(costs, "_seconds", lambda model, batch: passes.append(model) or 0.0)
    monkeypatch.setattr(costs, "SECONDS", 0.0)
    costs.timed({"victim": "v", "purified": "p"}, torch.zeros(1))
    assert passes == ["v", "p", "v", "p"]


def test_a_tensor_that_was_freed_inside_the_block_counts():
    with PeakMemory(CPU) as nothing:
        pass
    if nothing.mb is None:
        pytest.skip("this system does not tell the peak of resident memory")
    with PeakMemory(CPU) as peak:
        pages = mmap.mmap(-1, 200 * 2**20)  # the system's own: malloc might hand out old ones
        held = torch.frombuffer(pages, dtype=torch.float32).fill_(1)
        del held
        pages.close()
    with PeakMemory(CPU) as after:
        pass
    assert 190 < peak.mb - nothing.mb < 300
    assert after.mb < peak.mb - 100


def test_where_nothing_can_tell_there_is_no_number(monkeypatch, tmp_path):
    monkeypatch.setattr(costs, "PROCESS", tmp_path / "absent")
    with PeakMemory(CPU) as peak:
        pass
    assert peak.mb is None
