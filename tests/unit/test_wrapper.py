"""Attacks around another one: what the inner attack answers for, and how refusals name it."""

import pytest
import torch

from backdoor_lab.attacks.adaptive import Adaptive
from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.attacks.bpp import Bpp
from backdoor_lab.attacks.combat import Combat
from backdoor_lab.attacks.input_aware import InputAware
from backdoor_lab.attacks.lira import LIRA
from backdoor_lab.attacks.sbl import SBL
from backdoor_lab.attacks.ssba import SSBA
from backdoor_lab.attacks.wanet import WaNet
from backdoor_lab.errors import ConfigError


def test_the_inner_attack_answers_for_the_trigger(shop, images):
    inner, wrapped = BadNets(0.1, 3), Adaptive(BadNets(0.1, 3))
    for attack in (inner, wrapped):
        attack.attach(shop.data.spec, shop.recipe, seed=0)
    assert torch.equal(inner.stamp(images.images), wrapped.stamp(images.images))
    assert torch.equal(inner.counted(images.labels), wrapped.counted(images.labels))
    assert (wrapped.relabel(images.labels) == 3).all()


@pytest.mark.parametrize(
    "build",
    [
        lambda: WaNet(0.1, 0, True),
        lambda: Bpp(0.1, 0, True),
        lambda: InputAware(0.1, 0, True, width=4, count_mask_epochs=False),
        lambda: LIRA(0, True),
        lambda: SBL(BadNets(0.1, 0, all_to_all=True)),
    ],
)
def test_all_to_all_passes_through(shop, build):
    attack, labels = Adaptive(build()), torch.arange(10)
    attack.attach(shop.data.spec, shop.recipe, seed=0)
    assert attack.all_to_all
    assert attack.relabel(labels).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert attack.counted(labels).all()


def test_what_the_inner_attack_is_holds_for_both():
    learnt = Adaptive(InputAware(0.1, 0, count_mask_epochs=False))
    assert learnt.learns_trigger
    assert learnt.crosses
    assert not Adaptive(BadNets(0.1, 0)).learns_trigger
    assert not Adaptive(BadNets(0.1, 0)).crosses


@pytest.mark.parametrize(
    ("attack", "key"),
    [
        (Adaptive(BadNets(0.1, 10)), r"^attack\.inner\.target=10"),
        (Adaptive(BadNets(0, 0)), r"^attack\.inner\.poison_rate=0"),
        (SBL(BadNets(0.1, 10)), r"^attack\.inner\.target=10"),
        (Adaptive(SBL(BadNets(0.1, 10))), r"^attack\.inner\.inner\.target=10"),
        (Adaptive(LIRA(0, network="unet")), r"^attack\.inner\.network=unet"),
        (SBL(Combat(0.5, 0)), r"the generator of attack\.inner=combat halves"),
        (Adaptive(SSBA(0.1, 0)), r"^attack\.inner=ssba halves"),
    ],
)
def test_refusals_name_the_key_of_the_inner_attack(attack, key):
    with pytest.raises(ConfigError, match=key):
        attack.check((3, 30, 30), 10)


class Unprepared(BadNets):
    def prepare(self, shop):
        raise AssertionError("learnt for nothing")


@pytest.mark.parametrize("wrap", [lambda attack: attack, Adaptive])
def test_an_impossible_rate_is_refused_before_anything_is_learnt(shop, model, wrap):
    attack = wrap(Unprepared(0.001, 0))
    attack.attach(shop.data.spec, shop.recipe, seed=0)
    with pytest.raises(ConfigError, match="poison_rate=0.001"):
        attack.train_victim(model, shop)


def test_a_possible_rate_is_prepared(shop, model):
    attack = Unprepared(0.1, 0)
    attack.attach(shop.data.spec, shop.recipe, seed=0)
    with pytest.raises(AssertionError, match="learnt for nothing"):
        attack.train_victim(model, shop)
