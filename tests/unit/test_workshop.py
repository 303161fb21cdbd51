"""What attacks need first is made once, and found again by what it was made from."""

from pathlib import Path

import pytest
import torch
from torch import nn

from backdoor_lab.attacks import badnets
from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.attacks.blended import Blended
from backdoor_lab.attacks.lf import LF
from backdoor_lab.datasets import _images
from backdoor_lab.models import preact_resnet
from backdoor_lab.store.code import code_digest, sources
from backdoor_lab.training import schedules


def obtain(shop, settings, attack=None):
    module, calls = nn.Linear(2, 2), []

    def make(folder):
        calls.append(folder)
        nn.init.constant_(module.weight, 7.0)
        return {"accuracy": 0.5}

    made = shop.obtain(attack or BadNets(0.1, 0), "thing", module, settings, make)
    return made, module, calls


def test_made_once_and_filled_again(shop):
    first, _, calls = obtain(shop, {"epochs": 1})
    assert len(calls) == 1
    again, module, calls = obtain(shop, {"epochs": 1})
    assert not calls
    assert again.name == first.name
    assert (module.weight == 7).all()
    assert again.facts["accuracy"] == 0.5


def test_other_settings_or_code_make_another(shop):
    first, *_ = obtain(shop, {"epochs": 2})
    assert obtain(shop, {"epochs": 3})[0].name != first.name
    assert obtain(shop, {"epochs": 2}, Blended(0.1, 0))[0].name != first.name


def test_the_code_of_an_attack_is_all_that_it_imports_from_attacks():
    import backdoor_lab.attacks.input_aware as module

    names = {file.name for file in sources(module, set())}
    attack = {"_base.py", "_views.py", "input_aware.py", "masks.py"}
    assert names == attack | {"classifier.py", "_images.py", "seeds.py"}


def test_the_code_of_an_attack_holds_the_callbacks_that_act_on_it():
    import backdoor_lab.attacks.adaptive as module

    places = {f"{file.parent.name}/{file.name}" for file in sources(module, set())}
    assert {"callbacks/rank_scaling.py", "models/rank_scaling.py"} <= places


@pytest.mark.parametrize("mended", [preact_resnet, badnets, _images, schedules])
def test_mended_code_is_another_maker(model, monkeypatch, mended):
    before = code_digest(BadNets(0.1, 0), model)
    read = Path.read_bytes

    def changed(file):
        return read(file) + b"#" * (file == Path(mended.__file__))

    monkeypatch.setattr(Path, "read_bytes", changed)
    assert code_digest(BadNets(0.1, 0), model) != before


def test_the_clean_model_is_trained_once_for_all_attacks(shop):
    first, second = shop.clean_model(), shop.clean_model()
    assert second.name == first.name
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


def test_a_victim_carries_what_was_found_out(shop, images):
    attack = LF(0.1, 0, images=20, passes=1, steps=10)
    attack.attach(shop.data.spec, shop.recipe, seed=0)
    attack.prepare(shop)
    assert 0 <= attack.details["perturbation"]["fooling_rate"] <= 1
    assert attack.perturbation.max() > 0
