"""One defense after another."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.defenses import Chain
from backdoor_lab.defenses.clp import CLP
from backdoor_lab.defenses.ft import FT
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import (
    ModelFactory,
    freeze_except,
    load_purified,
    replace,
    save_purified,
)
from backdoor_lab.run.parts import Parts
from tests.tiny import SPEC, tiny_aux


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(24)


def clp():
    return CLP(1.0, "reference", True)


def ft(lr=0.01):
    return FT(1, lr, 0.9, 5e-4, 8, None)


def purify(engine, victim, aux, *links):
    chain = Chain(links)
    chain.attach(engine, SPEC, 7)
    return chain.purify(victim, aux).state_dict(), chain


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_chain_of_one_is_that_defense(engine, tiny, aux):
    alone = ft()
    alone.attach(engine, SPEC, 7)
    expected = alone.purify(deepcopy(tiny), aux).state_dict()
    assert same(purify(engine, tiny, aux, ft())[0], expected)


def test_each_link_goes_on_from_the_one_before(engine, tiny, aux):
    before = deepcopy(tiny.state_dict())
    found, chain = purify(engine, tiny, aux, clp(), ft())
    pruned = Chain((clp(),))
    pruned.attach(engine, SPEC, 7)
    second = ft()
    second.attach(engine, SPEC, chain.links[1].seed)
    assert same(found, second.purify(pruned.purify(tiny, aux), aux).state_dict())
    assert chain.details["clp"]["pruned"] > 0
    assert list(chain.details) == ["clp", "ft"]
    assert same(tiny.state_dict(), before)


def test_later_links_have_seeds_of_their_own(engine, tiny, aux):
    _, chain = purify(engine, tiny, aux, ft(), ft(), ft())
    assert chain.links[0].seed == 7
    assert len({link.seed for link in chain.links}) == 3
    assert list(chain.details) == ["ft", "ft 2", "ft 3"]


def test_a_later_link_sees_the_victim_as_it_came(engine, tiny, aux):
    before = deepcopy(tiny.state_dict())
    _, chain = purify(engine, tiny, aux, ft(0.1), ft())
    original = chain.links[1].original()
    assert same(original.state_dict(), before)
    assert original.frozen
    assert not original.training
    assert not any(weight.requires_grad for weight in original.parameters())


def test_what_a_link_froze_the_next_one_trains(engine, tiny, aux):
    class Head(FT):
        def purify(self, model, aux):
            return super().purify(freeze_except(model, model.head), aux)

    start = deepcopy(tiny.state_dict())
    head, _ = purify(engine, tiny, aux, Head(1, 0.01, 0.9, 0.0, 8, None))
    changed = {name for name, value in head.items() if not torch.equal(value, start[name])}
    assert changed == {"head.weight", "head.bias"}
    both, _ = purify(engine, tiny, aux, Head(1, 0.01, 0.9, 0.0, 8, None), ft())
    assert not torch.equal(both["body.0.weight"], start["body.0.weight"])
    assert both["body.1.num_batches_tracked"] == 3


class Adapter(FT):
    """A 1x1 convolution behind the first one, the only part that is tuned."""

    keeps_architecture = False

    def purify(self, model, aux):
        path, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
        width = first.out_channels
        adapter = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        replace(model, path, nn.Sequential(first, adapter))
        return super().purify(freeze_except(model, adapter), aux)


def test_a_link_that_edits_the_architecture_leaves_the_victim_s_weights(engine, aux, tmp_path):
    victim = ModelFactory("preact_resnet18", options={"width": 16}).build(SPEC, seed=0)
    chain = Chain((Adapter(1, 0.01, 0.9, 0.0, 8, None), clp()))
    chain.attach(engine, SPEC, 0)
    purified = chain.purify(victim, aux)
    assert not chain.keeps_architecture
    assert not victim.edits
    assert torch.equal(purified.net.conv1[0].weight, victim.net.conv1.weight)
    assert torch.equal(purified.net.linear.weight, victim.net.linear.weight)
    assert purified.net.conv1[1][1].num_batches_tracked == 3
    assert purified.net.layer1[0].bn1.num_batches_tracked == 0
    save_purified(tmp_path, purified)
    images = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(load_purified(tmp_path)(images), purified(images))


def test_the_needs_of_all_links_are_those_of_the_chain():
    both, closed = Chain((clp(), ft())), Chain((clp(),))
    assert (both.needs_images, both.needs_labels, both.needs_batch_norm) == (True, True, True)
    assert (closed.needs_images, closed.needs_labels) == (False, False)
    assert both.keeps_architecture
    closed.check(has_images=False, labelled=False)
    with pytest.raises(ConfigError, match="aux=none, but defense@then=ft"):
        both.check(has_images=False, labelled=False)
    with pytest.raises(ConfigError, match=r"aux\.labelled=false, but defense@then=ft"):
        both.check(has_images=True, labelled=False)
    with pytest.raises(ConfigError, match="BatchNorm, but defense=clp"):
        both.check_model(torch.nn.Linear(2, 2))


def test_sizes_are_refused_by_the_link_that_needs_more(engine):
    chain = Chain((clp(), ft()))
    chain.check_size(2)
    with pytest.raises(ConfigError, match=r"1 image\(s\), but defense@then=ft .* 2 or more"):
        chain.check_size(1)
    Chain((clp(),)).check_size(0)


def test_a_later_link_names_its_own_key(config, model):
    cfg = config("defense=clp", "defense@then=unibp", "then.k=2")
    parts = Parts.of(cfg)
    with pytest.raises(ConfigError, match=r"then\.k=2.0 .* means \d+ of 1696"):
        parts.defense.check_model(model)


def test_a_chain_of_closed_forms_needs_no_images(engine, tiny):
    _, chain = purify(engine, tiny, AuxiliarySet("none", None, False), clp(), clp())
    assert list(chain.details) == ["clp", "clp 2"]
