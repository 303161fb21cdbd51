"""LC: adversarial perturbation, corner marks, who is poisoned."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from backdoor_lab.attacks.lc import LC
from backdoor_lab.attacks.lc.adversarial import AdversarialTraining, Ascent, pgd
from backdoor_lab.attacks.lc.lc import divided
from backdoor_lab.attacks.lc.marks import corner_signs, mark
from backdoor_lab.datasets import DataSpec, truncate
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe

RIGHT = [[0, 0, 255], [0, 255, 0], [255, 0, 255]]
LEFT = [[255, 0, 0], [0, 255, 0], [255, 0, 255]]
QUICK = {"steps": 4, "step": 3, "robust_epochs": 1, "robust_steps": 2}


def attached(attack, size=32):
    spec = DataSpec("x", tuple("0123456789"), (3, size, size), (0,) * 3, (1,) * 3, 2, False)
    attack.attach(spec, Recipe(epochs=1, batch_size=2, lr=0.1), seed=0)
    return attack


def grey(level, size=32):
    return torch.full((1, 3, size, size), level, dtype=torch.uint8)


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))


def batch(count=6):
    draw = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (count, 3, 8, 8), generator=draw)
    return levels.float() / 255, torch.arange(count) % 10


def test_pgd_stays_in_the_ball_and_in_range(linear):
    images, labels = batch()
    hard = pgd(linear, images, labels, Ascent(8 / 255, 1.5 / 255, 100))
    assert (hard - images).abs().max() <= 8 / 255 + 1e-6
    assert (hard - images).abs().max() >= 7.9 / 255
    assert hard.min() >= 0
    assert hard.max() <= 1
    change = truncate(hard * 255).int() - (images * 255).round().int()
    assert change.abs().max() <= 9


def test_pgd_raises_the_loss_of_the_true_label(linear):
    images, labels = batch()
    hard = pgd(linear, images, labels, Ascent(8 / 255, 1.5 / 255, 10))
    before = F.cross_entropy(linear(images), labels, reduction="none")
    after = F.cross_entropy(linear(hard), labels, reduction="none")
    assert (after > before).all()


def test_pgd_steps_along_the_sign_from_the_image_itself(linear):
    images, labels = torch.full((1, 3, 8, 8), 0.5), torch.tensor([3])
    once = pgd(linear, images, labels, Ascent(8 / 255, 1.5 / 255, 1))
    weight = linear[1].weight
    slope = linear(images).softmax(1) @ weight - weight[3]
    assert torch.allclose(once - images, 1.5 / 255 * slope.sign().view_as(images), atol=1e-6)


def test_pgd_works_without_gradients_and_leaves_none(linear):
    images, labels = batch()
    ascent = Ascent(8 / 255, 1.5 / 255, 3)
    with torch.no_grad():
        hard = pgd(linear, images, labels, ascent)
    assert torch.equal(hard, pgd(linear, images, labels, ascent))
    assert not hard.requires_grad
    assert linear[1].weight.grad is None


def test_random_start_fills_the_ball(linear):
    images, labels = torch.full((6, 3, 8, 8), 0.5), torch.zeros(6, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    change = pgd(linear, images, labels, Ascent(0.1, 0.01, 0), generator) - images
    assert change.abs().max() <= 0.1
    assert change.min() < -0.09
    assert change.max() > 0.09


def test_adversarial_training_descends_on_hard_images(linear):
    images, labels = batch()
    ascent = Ascent(8 / 255, 2 / 255, 3)
    training = AdversarialTraining(linear, Recipe(4, 6, 0.1), None, 0, ascent)
    training.on_train_epoch_start()
    assert training.now == Ascent(4 / 255, 1 / 255, 3)  # the cube has grown to a half
    loss = training.training_step((images, labels), 0)
    assert loss > F.cross_entropy(linear(images), labels) + 0.01
    training.on_train_epoch_start()  # the same epoch draws the same starts
    assert torch.equal(loss, training.training_step((images, labels), 0))
    loss.backward()
    assert linear[1].weight.grad.abs().sum() > 0


def test_adversarial_training_seeks_in_eval_mode_and_learns_in_train_mode():
    norm = nn.BatchNorm2d(3)
    net = nn.Sequential(norm, nn.Flatten(), nn.Linear(3 * 8 * 8, 10)).train()
    training = AdversarialTraining(net, Recipe(1, 6, 0.1), None, 0, Ascent(0.03, 0.01, 5))
    training.on_train_epoch_start()
    training.training_step(batch(), 0)
    assert norm.num_batches_tracked == 1
    assert norm.training


def test_mark_of_four_mirrored_corners():
    attack = attached(LC(0.1, 0))
    signs = attack.signs
    assert (signs != 0).sum() == 36
    stamped = attack.stamp(grey(100))
    assert stamped[0, 0, :3, :3].tolist() == stamped[0, 0, -3:, :3].tolist() == LEFT
    assert stamped[0, 0, :3, -3:].tolist() == stamped[0, 0, -3:, -3:].tolist() == RIGHT
    assert (stamped == stamped[:, :1]).all()
    assert (stamped[0, 0][signs == 0] == 100).all()
    assert torch.equal(attack.stamp(stamped), stamped)


def test_mirrored_mark_commutes_with_the_flip():
    images = torch.rand(2, 3, 32, 32)
    mirrored, same = corner_signs(32, 32, 3, True, True), corner_signs(32, 32, 3, True, False)
    assert torch.equal(mark(images.flip(3), mirrored, 1), mark(images, mirrored, 1).flip(3))
    assert not torch.equal(mark(images.flip(3), same, 1), mark(images, same, 1).flip(3))


def test_mark_of_bcu_is_alike_in_all_corners():
    stamped = attached(LC(0.1, 0, mirror=False)).stamp(grey(9))[0, 0]
    for rows in (slice(3), slice(-3, None)):
        for columns in (slice(3), slice(-3, None)):
            assert stamped[rows, columns].tolist() == RIGHT


def test_one_corner():
    signs = attached(LC(0.1, 0, corners="bottom_right")).signs
    assert (signs != 0).sum() == (signs[-3:, -3:] != 0).sum() == 9
    assert signs[-3:, -3:].tolist() == [[-1, -1, 1], [-1, 1, -1], [1, -1, 1]]


@pytest.mark.parametrize("size", [64, 224])
def test_larger_marks_are_the_small_one_upscaled(size):
    small = corner_signs(32, 32, 3, True, True)[None, None]
    large = F.interpolate(small, size=(size, size), mode="nearest")[0, 0]
    assert torch.equal(attached(LC(0.1, 0), size).signs, large)
    assert (large != 0).sum() == 36 * (size // 32) ** 2


def test_amplitude_of_training_is_not_that_of_the_test():
    attack = attached(LC(0.1, 0, amplitude=0.2, test_amplitude=1))
    attack.harden = lambda images, labels, ascent: images
    weak = attack._eight_bit(grey(100), attack.train_trigger)[0, 0]
    assert set(weak.unique().tolist()) == {49, 100, 151}
    assert set(attack.stamp(grey(100)).unique().tolist()) == {0, 100, 255}
    assert attached(LC(0.1, 0, amplitude=0.2)).stamp(grey(100)).max() == 151


def test_held_out_images_are_not_trained_on(images):
    held, rest = divided(images, 0.05, torch.Generator().manual_seed(0))
    assert (len(held), len(rest)) == (3, 57)
    assert sorted([*held.rows.tolist(), *rest.rows.tolist()]) == list(range(60))


@pytest.fixture(scope="module")
def prepared(shop):
    attack = LC(1, 0, "target_class", **QUICK)
    attack.attach(shop.data.spec, shop.recipe, 0)
    attack.prepare(shop)
    return attack


def test_poisoned_images_are_perturbed_within_eps_and_marked(prepared, images):
    poisoned, chosen = prepared.poison(images)
    assert len(chosen) == 6
    assert torch.equal(poisoned.labels, images.labels)
    change = poisoned.images[chosen].int() - images.images[chosen].int()
    outside = prepared.signs == 0
    assert 1 <= change[..., outside].abs().max() <= 8
    assert torch.equal(
        poisoned.images[chosen][..., ~outside], prepared.stamp(images.images)[chosen][..., ~outside]
    )


def test_test_images_are_marked_only(prepared, images):
    outside = prepared.signs == 0
    stamped = prepared.stamp(images.images)
    assert torch.equal(stamped[..., outside], images.images[..., outside])


def test_the_robust_model_is_judged_and_not_saved_with_the_victim(prepared):
    facts = prepared.details["robust_model"]
    assert facts["pgd_accuracy"] <= facts["clean_accuracy"]
    assert set(prepared.state_dict()) == {"signs"}


def test_images_are_hardened_against_the_model_that_was_made_robust(prepared, shop):
    (robust,) = prepared.harden.args
    artifact = prepared.details["robust_model"]["artifact"]
    stored = load_file(shop.store.root / artifact / "state.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in robust.state_dict().items())
    clean = dict(shop.clean_model().model.named_parameters())
    assert not any(torch.equal(weight, clean[name]) for name, weight in robust.named_parameters())


@pytest.mark.parametrize("size", [2, 17])
def test_marks_that_are_none_are_refused(size):
    with pytest.raises(ConfigError, match="attack.size"):
        attached(LC(0.1, 0, size=size))


def test_a_larger_mark_has_larger_cells():
    signs = attached(LC(0.1, 0, size=6)).signs
    assert (signs != 0).sum() == 4 * 36
    assert torch.equal(signs[-6:-4, -6:-4], torch.full((2, 2), -1.0))
