"""What attacks need first is made once, and found again by what it was made from."""

import torch
from torch import nn

from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.attacks.blended import Blended


def make(shop, settings, attack=None):
    module, calls = nn.Linear(2, 2), []

    def fill(folder):
        calls.append(folder)
        nn.init.constant_(module.weight, 7.0)
        return {"accuracy": 0.5}

    made = shop.make_once(attack or BadNets(0.1, 0), "thing", module, settings, fill)
    return made, module, calls


def test_made_once_and_filled_again(shop):
    first, _, calls = make(shop, {"epochs": 1})
    assert len(calls) == 1
    again, module, calls = make(shop, {"epochs": 1})
    assert not calls
    assert again.name == first.name
    assert (module.weight == 7).all()
    assert again.facts["accuracy"] == 0.5


def test_other_settings_or_code_make_another(shop):
    first, *_ = make(shop, {"epochs": 2})
    assert make(shop, {"epochs": 3})[0].name != first.name
    assert make(shop, {"epochs": 2}, Blended(0.1, 0))[0].name != first.name


def test_the_clean_model_is_trained_once_for_all_attacks(shop):
    first, second = shop.clean_model(), shop.clean_model()
    assert second.name == first.name
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])
