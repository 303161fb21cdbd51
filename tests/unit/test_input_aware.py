"""Input-aware: its trigger, batch composition, the joint loss, frozen masks."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

from backdoor_lab.attacks.input_aware import InputAware
from backdoor_lab.attacks.input_aware.input_aware import MASK_MILESTONES
from backdoor_lab.attacks.input_aware.masks import MaskTraining
from backdoor_lab.attacks.input_aware.networks import threshold
from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import freeze
from backdoor_lab.training import Recipe

SMALL = {"width": 4, "mask_epochs": 1, "count_mask_epochs": False}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def attack(spec):
    made = InputAware(0.1, 3, **SMALL)
    made.attach(spec, Recipe(epochs=1, batch_size=20, lr=0.01), seed=0)
    return made


def test_pattern_where_the_mask_is_one_and_the_image_where_it_is_zero(attack, monkeypatch):
    half = torch.zeros(2, 1, 32, 32)
    half[..., :16] = 1
    monkeypatch.setattr(attack.masks, "forward", lambda images: half)
    images = torch.rand(2, 3, 32, 32)
    triggered, patterns = attack.eval().paint(images, images)
    assert torch.equal(triggered[..., 16:], images[..., 16:])
    assert torch.allclose(triggered[..., :16], patterns[..., :16])


def test_the_trigger_is_the_same_in_normalised_space(attack):
    images = torch.rand(4, 3, 32, 32)
    attack.eval()
    normalize, mask = attack.patterns.normalize, threshold(attack.masks(images))
    pattern, normal = normalize(attack.patterns(images)), normalize(images)
    assert torch.allclose(
        normalize(attack.trigger(images)), normal + (pattern - normal) * mask, atol=1e-5
    )


def test_cross_bears_the_trigger_of_another_image(attack):
    images = torch.rand(4, 3, 32, 32)
    crossed = attack.cross(images)
    assert torch.equal(crossed, attack.paint(images, images[[3, 0, 1, 2]])[0])
    assert torch.equal(crossed, attack.cross(images))
    assert not torch.allclose(crossed, attack.trigger(images))


def test_triggers_do_not_depend_on_the_company(attack):
    attack.train()
    images = torch.rand(4, 3, 32, 32)
    assert torch.allclose(attack.trigger(images)[:1], attack.trigger(images[:1]), atol=1e-5)


class Witness(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = torch.nn.Parameter(torch.zeros(10))

    def forward(self, images):
        self.seen = images
        return self.scores.expand(len(images), 10)


@pytest.fixture
def step(attack, monkeypatch):
    def take(size):
        attack.model = Witness()
        freeze(attack.masks)
        attack.train()
        images, others = torch.rand(2, size, 3, 32, 32)
        attack.others = iter([(others, None)])
        attack.cpu_generator = torch.Generator().manual_seed(0)
        seen = {}
        monkeypatch.setattr(attack, "step", lambda loss: seen.update(loss=loss))
        monkeypatch.setattr(
            "torch.nn.functional.cross_entropy",
            lambda logits, labels: seen.update(wanted=labels) or logits.sum(),
        )
        labels = torch.arange(size) % 10
        attack.training_step((images, labels), 0)
        return SimpleNamespace(images=images, labels=labels, fed=attack.model.seen, **seen)

    return take


def test_a_batch_of_128_is_12_own_12_crossed_104_clean(attack, step):
    assert attack.counts(128, torch.Generator().manual_seed(0)) == (12, 12)
    taken = step(128)
    assert taken.wanted[:12].tolist() == [3] * 12
    assert torch.equal(taken.wanted[12:], taken.labels[12:])
    same = (taken.fed == taken.images).flatten(1).all(1)
    assert not same[:24].any()
    assert same[24:].all()
    taken.loss.backward()
    assert all(p.grad is not None for p in attack.patterns.parameters())


def test_small_batches_bear_triggers_by_chance(attack):
    cpu_generator = torch.Generator().manual_seed(0)
    drawn = {attack.counts(5, cpu_generator) for _ in range(100)}
    assert drawn == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize("counts", [(1, 0), (0, 1)])
def test_a_trigger_without_a_counterpart_has_no_part_in_diversity(
    attack, step, monkeypatch, counts
):
    monkeypatch.setattr(attack, "counts", lambda *_: counts)
    taken = step(9)
    assert taken.loss == 0  # all scores are
    same = (taken.fed == taken.images).flatten(1).all(1)
    assert same.tolist() == [False] + [True] * 8
    assert taken.wanted.tolist() == [3 if counts[0] else 0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_the_joint_phase_changes_patterns_and_leaves_masks(attack, model, shop):
    attack.prepare(shop)
    assert not any(part.training for part in attack.train().masks.modules())
    masks = deepcopy(attack.masks.state_dict())
    patterns = deepcopy(attack.patterns.state_dict())
    attack.train_victim(model, shop)
    assert all(torch.equal(masks[name], value) for name, value in attack.masks.state_dict().items())
    learnt = "layers.0.weight"
    assert not torch.equal(patterns[learnt], attack.patterns.state_dict()[learnt])
    assert all(name.startswith(("patterns.", "masks.")) for name in attack.state_dict())
    assert 0 <= attack.details["masks"]["coverage"] <= 1


def test_masks_are_trained_to_differ_and_to_be_sparse_by_their_own_weights(shop, monkeypatch):
    seen = set()
    step = MaskTraining.training_step

    def noted(self, batch, number):
        seen.add((self.weights, self.density))
        return step(self, batch, number)

    monkeypatch.setattr(MaskTraining, "training_step", noted)
    attack = InputAware(0.1, 3, lambda_div=7, lambda_norm=3, mask_density=0.2, **SMALL)
    attack.attach(shop.data.spec, shop.recipe, seed=0)
    attack.prepare(shop)
    assert seen == {((7, 3), 0.2)}


@pytest.mark.parametrize("accumulate", [True, False])
def test_generator_gradients_accumulate_or_not(attack, monkeypatch, accumulate):
    attack.accumulate_generator_grad = accumulate
    attack.model, attack.steps_per_epoch = Witness(), 1
    made = [config["optimizer"] for config in attack.configure_optimizers()]
    monkeypatch.setattr(attack, "optimizers", lambda: made)
    monkeypatch.setattr(attack, "manual_backward", lambda loss: loss.backward())
    parameter = attack.patterns.layers[0].bias
    for _ in range(2):
        attack.step(3 * parameter.sum() + attack.model.scores.sum())
    assert parameter.grad[0].item() == pytest.approx(6 if accumulate else 3)
    assert attack.model.scores.grad[0].item() == pytest.approx(1)


def test_accumulated_gradients_survive_a_checkpoint(attack):
    parameters = list(attack.patterns.parameters())
    parameters[0].grad = torch.ones_like(parameters[0])
    checkpoint = {}
    attack.on_save_checkpoint(checkpoint)
    parameters[0].grad = None
    attack.on_load_checkpoint(checkpoint)
    assert (parameters[0].grad == 1).all()
    assert parameters[1].grad is None


def test_optimizers_and_their_schedules(attack):
    attack.model, attack.steps_per_epoch = Witness(), 1
    _, painter = attack.configure_optimizers()
    assert painter["optimizer"].param_groups[0]["betas"] == (0.5, 0.9)
    assert sorted(painter["lr_scheduler"]["scheduler"].milestones) == [200, 300, 400, 500]
    assert painter["optimizer"].param_groups[0]["lr"] == 0.01
    masks = attack.painting(25, MASK_MILESTONES)
    made = masks.optimizers(attack.masks.parameters(), 1)
    assert made["optimizer"].param_groups[0]["betas"] == (0.5, 0.9)
    assert sorted(made["lr_scheduler"]["scheduler"].milestones) == [10, 20]
    assert (masks.epochs, masks.lr, masks.batch_size) == (25, 0.01, attack.recipe.batch_size)


def test_mask_epochs_count(spec):
    attack = InputAware(0.1, 0, width=4)
    attack.attach(spec, Recipe(epochs=100, batch_size=2, lr=0.01), seed=0)
    assert attack.recipe.epochs == 75
    with pytest.raises(ConfigError, match="attack.mask_epochs=25"):
        attack.attach(spec, Recipe(epochs=25, batch_size=2, lr=0.01), seed=0)


def test_the_joint_loss_is_cross_entropy_and_diversity_of_pairs(monkeypatch):
    spec = DataSpec(
        "x", tuple("0123456789"), (3, 16, 16), (0.5, 0.4, 0.3), (0.1, 0.2, 0.4), 2, True
    )
    attack = InputAware(0.15, 3, cross_rate=0.15, lambda_div=7, **SMALL)
    attack.attach(spec, Recipe(epochs=1, batch_size=20, lr=0.01), seed=0)
    attack.model = Witness()
    freeze(attack.masks)
    attack.train()
    with torch.no_grad():
        attack.model.scores.copy_(torch.linspace(-1, 1, 10))
    images, others = torch.rand(2, 20, 3, 16, 16)
    labels = torch.arange(20) % 10
    attack.others, attack.cpu_generator = iter([(others, None)]), torch.Generator()
    losses = []
    monkeypatch.setattr(attack, "step", losses.append)
    attack.training_step((images, labels), 0)

    own, partners = images[:3], others[3:6]
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (spec.mean, spec.std))
    pictures = [attack.patterns(part) for part in (own, partners)]
    normal = [(part - mean) / std for part in (own, partners, *pictures)]
    pairs = normal[:2], normal[2:]
    apart = [(one - other).square().flatten(1).mean(1).sqrt() for one, other in pairs]
    scores = attack.model.scores.log_softmax(0)
    wanted = torch.cat([torch.full((3,), 3), labels[3:]])
    expected = -scores[wanted].mean() + 7 * (apart[0] / (apart[1] + 1e-7)).mean()
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (7 * (apart[0] / apart[1]).mean() > 1).all()  # not lost beside the cross-entropy

    fed = attack.model.seen
    masks = [threshold(attack.masks(part)) for part in (partners, images[3:6])]
    crossed = images[3:6] + (pictures[1] - images[3:6]) * masks[0]
    assert torch.allclose(fed[3:6], crossed, atol=1e-5)
    mine = images[3:6] + (attack.patterns(images[3:6]) - images[3:6]) * masks[1]
    assert not torch.allclose(fed[3:6], mine, atol=1e-2)


def test_a_step_with_all_to_all_wants_the_next_class(attack, step):
    attack.all_to_all = True
    taken = step(128)
    assert taken.wanted[:12].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert torch.equal(taken.wanted[12:], taken.labels[12:])
    assert attack.counted(taken.labels).all()


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="multiples of 8"):
        InputAware(0.1, 0).check((3, 28, 28), 10)
    with pytest.raises(ConfigError, match="attack.cross_rate=0.5"):
        InputAware(0.6, 0, cross_rate=0.5).check((3, 32, 32), 10)
