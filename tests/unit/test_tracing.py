"""What is seen of a model while images pass through it."""

import pytest
import torch
from torch import nn

from backdoor_lab.models import outputs, traced, watched


def hooks(model):
    return [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_modules_are_seen_in_the_order_in_which_they_run(tiny):
    seen = []
    kinds = (nn.Conv2d, nn.Linear)
    with watched(tiny, lambda *told: seen.append(told), kinds):
        logits = tiny(torch.rand(2, 3, 8, 8))
    assert [name for name, *_ in seen] == ["body.0", "body.3", "head"]
    _, module, inputs, output = seen[-1]
    assert module is tiny.head
    assert output is logits
    torch.testing.assert_close(module(inputs[0]), logits)
    assert not hooks(tiny)


@pytest.mark.parametrize("before", [False, True])
def test_the_statistics_of_a_batch_are_those_that_train_mode_normalises_by(tiny, before):
    seen = {}

    def look(name, module, inputs, output):
        seen[name] = (inputs[0].mean((0, 2, 3)), module.num_batches_tracked.item())
        assert (output is None) == before

    tiny.train().body[1].momentum = 1.0
    with watched(tiny, look, (nn.BatchNorm2d,), before):
        tiny(torch.rand(4, 3, 8, 8))
    mean, passes = seen["body.1"]
    torch.testing.assert_close(mean, tiny.body[1].running_mean)
    assert passes == 1 - before


def test_no_hook_stays_when_a_forward_fails(tiny):
    def fail(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), watched(tiny, fail, (nn.ReLU,)):
        tiny(torch.rand(2, 3, 8, 8))
    assert not hooks(tiny)


def test_a_trace_leaves_the_model_alone_and_tells_where_outputs_come_from(tiny):
    seen = {}

    def look(name, module, inputs, output):
        assert module is not tiny.get_submodule(name)
        seen[name] = (output.grad_fn is not None, module.training)

    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    with torch.no_grad():
        traced(tiny.train(), (3, 8, 8), look)
    assert set(seen.values()) == {(True, False)}
    assert list(seen)[-1] == ""
    assert tiny.training
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())


def test_outputs_are_those_of_the_latest_pass_before_what_follows_works_in_place(tiny):
    tiny.body[2].inplace = True
    images = torch.rand(2, 2, 3, 8, 8)
    with outputs(tiny, ["body.1", "head"], lambda output: output * 1) as seen:
        tiny(images[0])
        logits = tiny(images[1])
    torch.testing.assert_close(seen["head"], logits)
    assert (seen["body.1"] < 0).any()
    assert seen["body.1"].requires_grad
    assert list(seen) == ["body.1", "head"]
    assert not hooks(tiny)
