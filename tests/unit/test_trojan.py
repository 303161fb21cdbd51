"""TrojanNN: its shapes, the optimised patch, and how the patch is applied."""

import pytest
import torch

from backdoor_lab.attacks.trojan import SHAPES, Trojan, overwrite, places, strongest
from backdoor_lab.datasets import DataSpec
from backdoor_lab.errors import ConfigError
from backdoor_lab.training import Recipe


def attached(spec, **options):
    attack = Trojan(0.1, 0, **{"iterations": 20, **options})
    attack.attach(spec, Recipe(epochs=1, batch_size=2, lr=0.1), seed=0)
    return attack


@pytest.fixture
def pixels(images):
    return images.images[:8].float() / 255


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [16, 32, 64, 224])
def test_shapes_cover_a_tenth_in_the_lower_right(shape, size):
    mask = SHAPES[shape](*places(size, size))
    assert 0.08 < mask.float().mean() < 0.12
    rows, columns = mask.nonzero().T
    assert rows.min() > 0.45 * size
    assert columns.min() > 0.5 * size
    assert rows.max() < size - 1
    assert columns.max() < size - 1


def test_apple_is_symmetric_with_a_stem_above_its_dimple():
    mask = SHAPES["apple"](*places(32, 32))
    body = mask[:, 23 - 7 : 23 + 8]
    assert torch.equal(body, body.flip(1))
    assert mask[16].nonzero().flatten().tolist() == [23]
    assert mask[22].sum() > 8


def test_neurons_have_the_largest_column_sums():
    weight = torch.tensor([[1.0, -5, 0, 2], [1, -5, 0, -2], [1, 9, 3, 2]])
    assert strongest(weight, 2).tolist() == [1, 3]


@pytest.mark.parametrize("epsilon", [0.3, 1])
def test_patch_stays_in_mask_and_reach(spec, model, pixels, epsilon):
    attack = attached(spec, epsilon=epsilon)
    patch, _ = attack.optimise(model.requires_grad_(False), pixels)
    inside = patch[:, attack.mask]
    assert not patch[:, ~attack.mask].any()
    assert inside.min() >= 1 - epsilon - 1 / 255
    assert inside.max() <= 1
    assert (inside < 1).any()
    assert torch.allclose(patch * 255, (patch * 255).round(), atol=1e-4)


def test_patch_excites_the_neurons_and_leaves_the_model_alone(spec, model, pixels):
    model.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attack = attached(spec)
    patch, facts = attack.optimise(model, pixels)
    chosen = strongest(model.head.weight, 2)

    def excited(patch):
        return model.features(overwrite(pixels, patch, attack.mask))[:, chosen].mean().item()

    assert excited(attack.patch) == pytest.approx(facts["excited_before"], rel=1e-4)
    assert excited(patch) > excited(attack.patch)
    assert facts["cost"] < 2 * 100**2
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.head._forward_pre_hooks


def judged(model, images, patch, attack):
    chosen = strongest(model.head.weight, attack.neurons)
    active = model.features(overwrite(images, patch, attack.mask))[:, chosen]
    return active.mean().item(), (active - attack.value).square().sum(1).mean().item()


def test_facts_are_those_of_the_kept_patch_not_of_the_last(spec, model, pixels):
    model.requires_grad_(False)
    kept, facts = {}, {}
    for count in range(1, 9):
        attack = attached(spec, value=0.3, step=1, iterations=count)  # black or white: no rounding
        patch, found = attack.optimise(model, pixels)
        excited, cost = judged(model, pixels, patch, attack)
        assert found["excited"] == pytest.approx(excited, rel=1e-4)
        assert found["cost"] == pytest.approx(cost, rel=1e-4)
        kept[count], facts[count] = patch, found
    costs = [found["cost"] for found in facts.values()]
    assert costs == sorted(costs, reverse=True)
    stays = [one for one in range(1, 8) if torch.equal(kept[one], kept[one + 1])]
    assert stays  # some step made it worse, and was not kept
    assert all(facts[one] == facts[one + 1] for one in stays)


def test_a_patch_that_no_step_improves_stays_white_with_its_own_facts(spec, model, pixels):
    model.requires_grad_(False)
    white = attached(spec).patch
    value, _ = judged(model, pixels[:1], white, attached(spec, neurons=1))
    attack = attached(spec, neurons=1, value=value, step=1, iterations=3)
    patch, facts = attack.optimise(model, pixels[:1])
    assert torch.equal(patch, white)
    assert facts["excited"] == facts["excited_before"] == pytest.approx(value)


def test_value_below_draws_the_neurons_down(spec, model, pixels):
    model.requires_grad_(False)
    attack = attached(spec, value=-100)
    patch, facts = attack.optimise(model, pixels)
    chosen = strongest(model.head.weight, 2)
    low = model.features(overwrite(pixels, patch, attack.mask))[:, chosen].mean()
    assert low < facts["excited_before"]


@pytest.mark.parametrize(("apply", "again"), [("overwrite", True), ("wrap", False)])
def test_only_overwriting_is_idempotent(spec, images, apply, again):
    attack = coloured(spec, apply)
    once = attack.stamp(images.images)
    assert torch.equal(attack.stamp(once), once) is again


def coloured(spec, apply):
    attack = attached(spec, apply=apply)
    levels = torch.randint(1, 255, spec.shape, generator=torch.Generator().manual_seed(0))
    attack.patch.copy_(levels / 255 * attack.mask)
    return attack


@pytest.mark.parametrize(
    ("apply", "expected"),
    [
        ("overwrite", lambda x, patch: patch),
        ("saturate", lambda x, patch: (x + patch).clamp(max=255)),
        ("wrap", lambda x, patch: (x + patch) % 256),
    ],
)
def test_levels_inside_and_outside_the_mask(spec, images, apply, expected):
    attack = coloured(spec, apply)
    before = images.images.int()
    after = attack.stamp(images.images).int()
    patch = (attack.patch * 255).round().int().expand_as(before)
    mask = attack.mask
    assert torch.equal(after[..., ~mask], before[..., ~mask])
    assert torch.equal(after[..., mask], expected(before[..., mask], patch[..., mask]))


def test_wrapping_is_undone_modulo_256(spec, images):
    attack = coloured(spec, "wrap")
    patch = (attack.patch * 255).round().int()
    assert torch.equal((attack.stamp(images.images).int() - patch) % 256, images.images.int())


def test_wrapped_white_takes_one_level_away(spec):
    grey = torch.full((1, *spec.shape), 100, dtype=torch.uint8)
    attack = attached(spec, apply="wrap")  # the patch is white before it is optimised
    assert set(attack.stamp(grey)[..., attack.mask].unique().tolist()) == {99}


def test_more_neurons_than_the_head_has_are_refused(spec, shop):
    with pytest.raises(ConfigError, match="attack.neurons=129 .* 1 to 128"):
        attached(spec, neurons=129).prepare(shop)


def test_images_too_small_for_the_shape_are_refused():
    tiny = DataSpec("tiny", ("a", "b"), (3, 4, 4), (0.5,) * 3, (0.5,) * 3, 0, False)
    with pytest.raises(ConfigError, match="attack.shape=apple"):
        attached(tiny)


def test_the_store_keeps_the_patch(spec, shop):
    first, again = attached(spec, iterations=3), attached(spec, iterations=3)
    first.prepare(shop)
    again.prepare(shop)
    assert torch.equal(first.patch, again.patch)
    assert first.details == again.details
    assert (first.patch[:, first.mask] < 1).any()
