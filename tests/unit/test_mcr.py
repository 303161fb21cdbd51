from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binom
from torch import nn
from torch.func import functional_call

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses.mcr.curves import bezier, chain, late_fall, mixture
from backdoor_lab.defenses.mcr.mcr import GRID, MCR
from backdoor_lab.errors import ConfigError
from tests.tiny import SPEC, Tiny, tiny_aux


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(40)


def defense(engine, **changes):
    options = {
        "curve": "bezier", "points": 3, "t": 0.3, "acc_drop": 0.02, "end_epochs": 2,
        "end_lr": 0.05, "end_t_max": None, "end_patience": None, "epochs": 3, "lr": 0.05,
        "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 8,
    }  # fmt: skip
    mcr = MCR(**{**options, **changes})
    mcr.attach(engine, SPEC, 3)
    return mcr


def weights(model):
    return [weight.detach().clone() for weight in model.parameters()]


def another():
    torch.manual_seed(1)
    return Tiny()


def on_curve(engine, model, **changes):
    """MCR in the middle of its training, with inner points of its own."""
    mcr = defense(engine, **changes)
    mcr.ends = [weights(model), weights(another())]
    mcr.bends = nn.ModuleList(
        nn.ParameterList(nn.Parameter(torch.randn_like(w)) for w in model.parameters())
        for _ in range(mcr.points - 2)
    )
    mcr.model = model.requires_grad_(False).train()
    return mcr


def batch(dtype=torch.float32):
    draw = torch.Generator().manual_seed(5)
    return torch.rand(6, 3, 8, 8, generator=draw, dtype=dtype), torch.arange(6) % 2


@pytest.mark.parametrize(
    ("t", "shares"),
    [(0.1, (0.81, 0.18, 0.01)), (0.3, (0.49, 0.42, 0.09)), (0.5, (0.25, 0.5, 0.25))],
)
def test_bezier_of_three_points_has_the_shares_of_the_fact_sheet(t, shares):
    assert bezier(t, 3) == pytest.approx(shares, abs=1e-12)


@pytest.mark.parametrize("points", [3, 4, 6])
@pytest.mark.parametrize("curve", [bezier, chain])
def test_shares_sum_to_one_and_the_ends_are_the_ends(curve, points):
    assert curve(0.0, points) == [1.0] + [0.0] * (points - 1)
    assert curve(1.0, points) == [0.0] * (points - 1) + [1.0]
    for t in torch.rand(20, generator=torch.Generator().manual_seed(0)).tolist():
        assert sum(curve(t, points)) == pytest.approx(1, abs=1e-12)
        assert min(curve(t, points)) >= 0


def test_bezier_shares_are_binomial_and_a_chain_passes_through_its_points():
    assert bezier(0.37, 6) == pytest.approx(binom.pmf(range(6), 5, 0.37), abs=1e-12)
    assert chain(1 / 3, 4) == pytest.approx([0, 1, 0, 0], abs=1e-12)
    assert chain(0.5, 4) == pytest.approx([0, 0.5, 0.5, 0], abs=1e-12)


@pytest.mark.parametrize("points", [3, 5])
def test_the_curve_starts_at_the_victim_and_ends_at_the_copy(engine, tiny, points):
    mcr = on_curve(engine, tiny, points=points)
    for t, end in ((0.0, mcr.ends[0]), (1.0, mcr.ends[1])):
        assert all(torch.equal(a, b) for a, b in zip(mcr.at(t), end, strict=True))


@pytest.mark.parametrize("points", [3, 4])
def test_inner_points_begin_on_the_straight_line(engine, tiny, aux, monkeypatch, points):
    mcr = defense(engine, points=points)
    monkeypatch.setattr(mcr, "fit", lambda model, data: model)
    first, other = weights(tiny), another()
    mcr.connect(tiny, other, aux.data)
    for number, bend in enumerate(mcr.bends, start=1):
        share = number / (points - 1)
        for a, b, c in zip(bend, first, other.parameters(), strict=True):
            torch.testing.assert_close(a.detach(), (1 - share) * b + share * c.detach())


def test_ends_stay_bit_for_bit_and_the_inner_point_learns(engine, tiny, aux):
    mcr = defense(engine)
    before, other = weights(tiny), another()
    after = weights(other)
    mcr.connect(tiny, other, aux.data)
    for end, kept in ((mcr.ends[0], before), (mcr.ends[1], after)):
        assert all(torch.equal(a, b) for a, b in zip(end, kept, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights(tiny), before, strict=True))
    middle = mixture([0.5, 0.5], mcr.ends)
    assert all(not torch.equal(a, b) for a, b in zip(mcr.bends[0], middle, strict=True))


def test_gradient_of_the_inner_point_is_that_of_the_weights_at_t(engine, tiny):
    t, decay = 0.3, 0.1
    mcr = on_curve(engine, tiny.double(), weight_decay=decay)
    mcr.ends[1] = [weight.double() for weight in mcr.ends[1]]
    images, labels = batch(torch.float64)
    inner = [*mcr.bends[0]]
    found = torch.autograd.grad(mcr.loss((images, labels), t), inner)

    names = [name for name, _ in tiny.named_parameters()]
    sets = zip(mcr.ends[0], inner, mcr.ends[1], strict=True)
    at = [(0.49 * a + 0.42 * b + 0.09 * c).detach().requires_grad_() for a, b, c in sets]
    loss = F.cross_entropy(functional_call(tiny, dict(zip(names, at, strict=True)), images), labels)
    loss = loss + decay / 2 * sum((weight**2).sum() for weight in at)
    for mine, theirs in zip(found, torch.autograd.grad(loss, at), strict=True):
        torch.testing.assert_close(mine, 2 * t * (1 - t) * theirs)


def test_gradients_do_not_pile_up(engine, tiny, aux, monkeypatch):
    seen = []

    def still(self, batch, batch_idx):
        return MCR.loss(self, self.fixed, 0.4)

    def noted(self, optimizer):
        seen.append([bend.grad.clone() for bend in self.bends[0]])

    monkeypatch.setattr(MCR, "training_step", still)
    monkeypatch.setattr(MCR, "on_before_optimizer_step", noted)
    mcr = defense(engine, lr=1e-30, epochs=1)
    mcr.fixed = batch()
    mcr.connect(tiny, another(), aux.data)
    assert len(seen) == 5
    for first, later in zip(seen[0], seen[-1], strict=True):
        torch.testing.assert_close(later, first)


def test_each_step_draws_its_own_t_and_the_model_normalises_by_the_batch(
    engine, tiny, aux, monkeypatch
):
    drawn, original = [], MCR.loss

    def noted(self, batch, t):
        drawn.append(t)
        assert self.model.training
        return original(self, batch, t)

    monkeypatch.setattr(MCR, "loss", noted)
    defense(engine, epochs=5, batch_size=2).connect(tiny, another(), aux.data)
    assert len(set(drawn)) == 100
    assert 0.4 < sum(drawn) / 100 < 0.6
    assert min(drawn) < 0.1
    assert max(drawn) > 0.9


def test_statistics_are_those_of_the_images_under_the_weights_at_t(engine, tiny, aux):
    mcr = on_curve(engine, tiny, batch_size=16)  # 40 images: batches of 14, 14 and 12
    placed = mcr.place(tiny, 0.3, aux.data)
    assert not any(module.training for module in placed.modules())
    for mine, wanted in zip(placed.parameters(), mcr.at(0.3), strict=True):
        assert torch.equal(mine, wanted)
    parts = [images.double() for images, _ in engine.batches(aux.data, 14, seed=0)]
    exact = deepcopy(placed).double()
    means = [exact.body[0](part).mean((0, 2, 3)) for part in parts]
    variances = [exact.body[0](part).var((0, 2, 3)) for part in parts]
    for found, expected in (("running_mean", means), ("running_var", variances)):
        torch.testing.assert_close(
            getattr(placed.body[1], found).double(),
            torch.stack(expected).mean(0),
            rtol=1e-5,
            atol=1e-6,
        )


def test_with_t_one_the_purified_model_is_the_tuned_copy(engine, tiny, aux):
    tuned = weights(defense(engine).tuned(tiny, aux.data))
    before = weights(tiny)
    purified = defense(engine, t=1.0).purify(deepcopy(tiny), aux)
    assert all(torch.equal(a, b) for a, b in zip(purified.parameters(), tuned, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, tuned, strict=True))
    assert all(weight.requires_grad for weight in purified.parameters())


def test_report_holds_t_and_the_shares(engine, tiny, aux):
    mcr = defense(engine, points=4, t=0.5)
    mcr.purify(tiny, aux)
    assert mcr.details == {"t": 0.5, "shares": [0.125, 0.375, 0.375, 0.125]}


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ({0.5: 0.9}, 0.5),
        ({0.4: 0.9, 0.6: 0.9, 0.1: 1.0}, 0.6),  # as far from the middle, farther from the victim
        ({0.3: 0.9, 0.9: 0.9}, 0.3),
        ({0.1: 0.7, 0.5: 0.6}, 0.1),  # none is harmless
    ],
)
def test_t_is_the_harmless_one_closest_to_the_middle(
    engine, tiny, aux, monkeypatch, accuracies, chosen
):
    mcr = defense(engine, t=None)
    monkeypatch.setattr(mcr, "place", lambda model, t, data: t)
    monkeypatch.setattr(engine, "accuracy", lambda model, data: accuracies.get(model, 0.5))
    assert mcr.choose(tiny, aux.data, aux.data, 0.9) == chosen
    assert mcr.details["accuracies"] == [accuracies.get(t, 0.5) for t in GRID]


def test_t_is_chosen_by_images_that_are_not_trained_on(engine, tiny, aux, monkeypatch):
    mcr = defense(engine, t=None, acc_drop=1.0)
    trained, fit = [], engine.fit
    monkeypatch.setattr(
        engine, "fit", lambda module, data, *rest: (trained.append(data), fit(module, data, *rest))
    )
    purified = mcr.purify(tiny, aux)
    train, held = mcr.hold_out(aux.data)
    assert [len(data) for data in trained] == [len(train)] * 2 == [40 - len(held)] * 2
    assert mcr.details["t"] == 0.5  # any accuracy will do
    assert all(torch.equal(a, b) for a, b in zip(purified.parameters(), mcr.at(0.5), strict=True))


def test_choosing_needs_four_images_labels_and_some_class_with_two(engine, tiny, aux):
    defense(engine).check_size(2)
    with pytest.raises(ConfigError, match=r"3 image\(s\), but defense=mcr"):
        defense(engine, t=None).check_size(3)
    single = AuxiliarySet("seen", aux.data.take(torch.tensor([0, 1])), True)
    with pytest.raises(ConfigError, match="no class has two"):
        defense(engine, t=None).purify(tiny, single)
    with pytest.raises(ConfigError, match="aux.labelled=false"):
        defense(engine).check(has_images=True, labelled=False)


@pytest.mark.parametrize(
    "changes", [{"points": 2}, {"t": 1.5}, {"curve": "arc"}, {"end_epochs": 0}, {"lr": 0.0}]
)
def test_values_out_of_range_are_refused(engine, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        defense(engine, **changes)


def test_the_rate_falls_late(engine):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = late_fall(optimizer, 20, 1)["scheduler"]
    rates = []
    for _ in range(20):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    expected = [1.0] * 10 + [1 - 0.99 * k / 8 for k in range(1, 9)] + [0.01] * 2
    assert rates == pytest.approx(expected)


def test_options_matter(engine, tiny):
    aux = tiny_aux(16)
    changes = (
        {}, {"curve": "chain"}, {"points": 4}, {"t": 0.6}, {"end_epochs": 1}, {"end_lr": 0.01},
        {"end_t_max": 4}, {"end_patience": 0}, {"epochs": 2}, {"lr": 0.01}, {"momentum": 0.0},
        {"weight_decay": 0.1}, {"batch_size": 20},
    )  # fmt: skip
    found = [
        defense(engine, **change).purify(deepcopy(tiny), aux).head.weight.detach()
        for change in changes
    ]
    for number, one in enumerate(found):
        assert all(not torch.allclose(one, other) for other in found[:number]), changes[number]


def test_a_model_without_batch_norm(engine, aux):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    before = deepcopy(plain.state_dict())
    defense(engine).check_model(plain)
    purified = defense(engine).purify(plain, aux)
    assert purified.state_dict().keys() == before.keys()
    assert any(not torch.equal(t, before[n]) for n, t in purified.state_dict().items())
