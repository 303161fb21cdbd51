"""Scaling, ranks within a budget, smaller layers; what tunes them is tested with `aft`."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses import Chain
from backdoor_lab.defenses.cc import CC
from backdoor_lab.defenses.cc.low_rank import Spectrum, smallest, threshold_for
from backdoor_lab.errors import ConfigError
from backdoor_lab.evaluation.costs import measure
from backdoor_lab.models import frozen_copy, load_purified, save_purified
from backdoor_lab.models.rank_scaling import RULES, convolutions, scale_rank_components
from backdoor_lab.models.tucker import Tucker, tucker_size
from backdoor_lab.run.parts import Parts
from tests.unit.test_aft import OPTIONS

NOTHING = AuxiliarySet("none", None, False)
SHORT = {"images": 8, "synthesis_iterations": 1, "attack_iterations": 1, "epochs": 1}


def cc(engine, spec, victim, **changes):
    options = {"parts": "all", "tau": 4.0, "rule": "centred", "compression": None}
    made = CC(**options | OPTIONS | SHORT | changes)
    made.attach(engine, spec, 3)
    made.original = lambda: frozen_copy(victim)
    return made


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def changed(before, after):
    state = after.state_dict()
    return {
        name for name, value in before.state_dict().items() if not torch.equal(value, state[name])
    }


@pytest.mark.parametrize("rule", RULES)
def test_scaling_alone_is_that_of_the_kernels(engine, spec, model, rule):
    defense = cc(engine, spec, model, parts="scaling_only", rule=rule, tau=1.5)
    purified = defense.purify(deepcopy(model), NOTHING)
    counts = {}
    for name, conv in convolutions(model):
        expected, count = scale_rank_components(conv.weight, 1.5, RULES[rule])
        found = purified.get_submodule(name).weight
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        counts[name] = count
    assert changed(model, purified) <= {f"{name}.weight" for name in counts}
    assert defense.details["scaled"] == sum(counts.values()) > 20
    assert defense.details["scaled_per_layer"] == {n: c for n, c in counts.items() if c}
    assert "synthesis" not in defense.details


def test_nothing_to_scale_and_all_ranks_leave_the_answers(engine, spec, model):
    defense = cc(engine, spec, model, parts="scaling_only", tau=1e9)
    images = torch.rand(4, *spec.shape)
    found = defense.purify(deepcopy(model), NOTHING)(images)
    torch.testing.assert_close(found, model(images), atol=1e-4, rtol=0)
    assert not defense.details["scaled"]
    barely = cc(engine, spec, model, parts="scaling_only", tau=1e9, compression=1.0001)
    purified = barely.purify(deepcopy(model), NOTHING)
    assert purified(images).sub(model(images)).abs().max() < 0.05


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_parameters_are_a_half_a_third_and_a_quarter(engine, spec, model, ratio, tmp_path):
    defense = cc(engine, spec, model, parts="scaling_only", compression=ratio)
    assert not defense.keeps_architecture
    purified = defense.purify(deepcopy(model), NOTHING)
    whole, left = parameters(model), parameters(purified)
    assert 0.98 * whole / ratio < left <= whole / ratio
    assert defense.details["parameters"] == {"before": whole, "after": left}
    for name, ranks in defense.details["ranks"].items():
        dense, layers = model.get_submodule(name), purified.get_submodule(name)
        assert [layer.out_channels for layer in layers[:2]] == ranks[::-1]
        assert sum(layer.weight.numel() for layer in layers) < dense.weight.numel()
    save_purified(tmp_path, purified)
    images = torch.rand(2, *spec.shape)
    torch.testing.assert_close(load_purified(tmp_path)(images), purified(images))


def test_what_is_left_are_the_leading_components_of_the_scaled_kernels(engine, spec, model):
    options = {"parts": "scaling_only", "tau": 1.5, "compression": 3}
    defense = cc(engine, spec, model, **options)
    purified = defense.purify(deepcopy(model), NOTHING)
    threshold, dense = defense.details["threshold"], []
    for name, conv in convolutions(model):
        form, kernel = Tucker.of(conv.weight), scale_rank_components(conv.weight, 1.5)[0]
        ranks = defense.details["ranks"].get(name)
        if ranks is None:
            dense.append(name)
            found = purified.get_submodule(name).weight
            torch.testing.assert_close(found, kernel, atol=1e-6, rtol=0)
            continue
        assert ranks[0] == max(1, int((form.rows >= threshold).sum()))
        assert ranks[1] == max(1, int((form.columns >= threshold).sum()))
        first, second = form.left[:, : ranks[0]], form.right[:, : ranks[1]]
        expected = torch.einsum(
            "oikl,po,qi->pqkl", kernel.double(), first @ first.T, second @ second.T
        )
        u2, core, u1 = (layer.weight.double() for layer in purified.get_submodule(name))
        found = torch.einsum("or,rskl,si->oikl", u1[:, :, 0, 0], core, u2[:, :, 0, 0])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert dense  # shortcuts of few inputs


def test_the_threshold_is_the_lowest_that_fits():
    torch.manual_seed(0)
    kernels = {"a": torch.randn(16, 8, 3, 3), "b": torch.randn(8, 16, 1, 1) / 2}
    spectra = {name: Spectrum.of(Tucker.of(kernel)) for name, kernel in kernels.items()}

    def weights(threshold):
        total = 0
        for kernel in kernels.values():
            modes = kernel.flatten(1), kernel.transpose(0, 1).flatten(1)
            values = [torch.linalg.svdvals(mode.double()) for mode in modes]
            ranks = [max(1, int((value >= threshold).sum())) for value in values]
            total += min(kernel.numel(), tucker_size(kernel.shape, *ranks))
        return total

    found = threshold_for(spectra, 700)
    values = torch.cat([torch.cat([one.rows, one.columns]) for one in spectra.values()])
    lower = values[values < found].max().item()
    assert weights(found) <= 700 < weights(lower)
    assert weights(threshold_for(spectra, 300)) <= 300
    assert weights(threshold_for(spectra, 10_000)) == 16 * 8 * 9 + 8 * 16  # all stay dense


def test_grouped_convolutions_and_linear_layers_are_left_alone(engine, spec):
    class Separable(nn.Module):
        def __init__(self):
            super().__init__()
            self.edits = []
            self.deep = nn.Conv2d(3, 48, 3, groups=3)
            self.wide = nn.Conv2d(48, 96, 3)
            self.norm = nn.BatchNorm2d(96)
            self.head = nn.Linear(96, 10)

        def forward(self, images):
            return self.head(self.norm(self.wide(self.deep(images))).relu().mean((2, 3)))

    model = Separable()
    options = {"parts": "scaling_only", "tau": 0.5, "compression": 3}
    purified = cc(engine, spec, model, **options).purify(deepcopy(model), NOTHING)
    assert [edit["at"] for edit in purified.edits] == ["wide"]
    assert changed(model.deep, purified.deep) == changed(model.head, purified.head) == set()
    assert torch.equal(purified.wide[2].bias, model.wide.bias)


def test_more_than_rank_one_can_spare_is_refused(engine, spec, model):
    most = parameters(model) / smallest(model)
    cc(engine, spec, model, compression=most * 0.999).check_model(model)
    with pytest.raises(ConfigError, match=r"compression=1000 would .* allowed: null, or up to \d+"):
        cc(engine, spec, model, compression=1000).check_model(model)
    purified = cc(engine, spec, model, parts="scaling_only", compression=most * 0.999).purify(
        deepcopy(model), NOTHING
    )
    assert parameters(purified) <= parameters(model) / (most * 0.999)


def test_a_compressed_model_is_tuned_and_costs_less(engine, spec, model):
    defense = cc(engine, spec, model, compression=4)
    purified = defense.purify(deepcopy(model), NOTHING)
    alone = cc(engine, spec, model, compression=4, parts="scaling_only")
    untuned = alone.purify(deepcopy(model), NOTHING)
    norms = {name for name in changed(untuned, purified) if ".bn" not in name}
    assert not norms
    assert changed(untuned, purified)
    costs = measure({"victim": model, "purified": purified}, spec, engine)
    assert costs["purified"].parameters == defense.details["parameters"]["after"]
    assert costs["purified"].flops < 0.75 * costs["victim"].flops
    assert {"scaled", "parameters", "ranks", "synthesis"} <= set(defense.details)


def test_tuning_alone_scales_nothing(engine, spec, model):
    tuned = cc(engine, spec, model, parts="finetune_only").purify(deepcopy(model), NOTHING)
    kernels = {f"{name}.weight" for name, _ in convolutions(model)}
    assert not changed(model, tuned) & kernels
    assert changed(model, tuned)
    small = cc(engine, spec, model, parts="finetune_only", compression=2, tau=0.1)
    purified = small.purify(deepcopy(model), NOTHING)
    assert parameters(purified) <= parameters(model) / 2
    assert "scaled" not in small.details


def plain():
    """Two convolutions without BatchNorm."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 48, 3), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)).eval()


def test_scaling_alone_does_without_batch_norm(engine, spec):
    model = plain()
    defense = cc(engine, spec, model, parts="scaling_only", tau=1.0)
    Chain((defense,)).check_model(model)
    purified = defense.purify(deepcopy(model), NOTHING)
    assert changed(model, purified) == {"0.0.weight", "0.2.weight"}
    assert defense.details["scaled"] > 0


@pytest.mark.parametrize("parts", ["all", "finetune_only"])
def test_what_ends_with_aft_is_refused_without_batch_norm(engine, spec, parts):
    model = plain()
    for compression in (None, 1.1):
        defense = cc(engine, spec, model, parts=parts, compression=compression)
        with pytest.raises(ConfigError, match="BatchNorm, but defense=cc works on it"):
            Chain((defense,)).check_model(model)


def test_values_reach_it_from_the_command_line_and_bad_ones_are_refused(config):
    made = Parts.of(config("defense=cc", "defense.compression=3", "aux=none")).defense.links[0]
    assert (made.compression, made.tau, made.keeps_architecture) == (3, 4, False)
    for wrong in ("compression=1", "parts=x"):
        with pytest.raises(ConfigError, match=rf"defense\.{wrong.split('=')[0]}"):
            Parts.of(config("defense=cc", f"defense.{wrong}", "aux=none"))


def test_its_second_half_takes_the_values_of_aft(config):
    cfg = config("dataset=mnist", "defense=cc", "defense@then=aft")
    shared = cfg.then.keys() - {"_target_", "facts"}
    assert {key: cfg.defense[key] for key in shared} == {key: cfg.then[key] for key in shared}
    assert cfg.defense.images == 512
    assert cfg.defense.facts == cfg.then.facts
