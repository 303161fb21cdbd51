"""Views of a stored run: the numbers behind the pictures, and which pictures there are."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.attacks.none import NoAttack
from backdoor_lab.evaluation.examination import Examination
from backdoor_lab.reports.run_pictures import features_of
from backdoor_lab.reports.views import VIEWS, draw_views
from backdoor_lab.reports.views.activations import by_class, change, maps_of
from backdoor_lab.reports.views.batch_norms import values_of
from backdoor_lab.reports.views.grad_cam import grad_cam
from backdoor_lab.reports.views.line import POINTS, between, line_figure, line_picture
from tests.tiny import drawn_tiny


class Corner(nn.Module):
    """Class 1 for what is bright in the lower right quarter, and nothing else counts."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.relu = nn.ReLU()
        self.head = nn.Linear(2 * 64, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1))
            mask = torch.zeros(2, 8, 8)
            mask[0, 4:, 4:] = 1
            self.head.weight.copy_(torch.stack([torch.zeros(128), mask.flatten()]))
            self.head.bias.copy_(torch.tensor([0.5, 0.0]))

    def forward(self, images):
        return self.head(self.relu(self.conv(images)).flatten(1))


@pytest.fixture
def exam(shop, images):
    attack = BadNets(0.1, 3)
    attack.attach(shop.data.spec, shop.recipe, shop.seed)
    attack.choose(images.labels)
    return Examination.of(shop.data, attack)


def test_the_change_of_a_channel_is_the_mean_norm_of_its_difference():
    clean = torch.zeros(2, 3, 2, 2)
    triggered = clean.clone()
    triggered[0, 1] = 2.0  # a norm of 4 on one of two images
    triggered[:, 2, 0, 0] = torch.tensor([3.0, 5.0])
    assert change(clean, triggered).tolist() == [4.0, 2.0, 0.0]


def test_activations_by_class():
    maps = torch.arange(4.0).view(4, 1, 1, 1)
    found = by_class(maps, torch.tensor([0, 0, 2, 2]), 3)
    assert found[0::2] == [0.5, 2.5]
    assert found[1] != found[1]


def test_maps_are_those_of_the_last_block(model, images, engine):
    maps = maps_of(model, images, engine)
    assert maps.shape[0] == len(images)
    assert maps.dtype == torch.float32
    with engine.evaluating(model):
        features = model.features(images.images.float() / 255).float()
    assert maps.shape[1] == features.shape[1]


def test_the_line_ends_at_both_models():
    start, end = drawn_tiny().state_dict(), deepcopy(drawn_tiny()).state_dict()
    end = {key: value * 3 if value.is_floating_point() else value + 7 for key, value in end.items()}
    for point, model in ((0.0, start), (1.0, end)):
        found = between(start, end, point)
        floating = {key for key, value in start.items() if value.is_floating_point()}
        assert all(torch.allclose(found[key], model[key]) for key in floating)
    half = between(start, end, 0.5)
    assert torch.allclose(half["head.weight"], 2 * start["head.weight"])
    assert half["body.1.num_batches_tracked"] == start["body.1.num_batches_tracked"]


def test_all_points_get_statistics_of_their_own_and_the_models_keep_theirs(
    tmp_path, model, exam, engine, monkeypatch
):
    refreshed, drawn = [], []
    monkeypatch.setattr(
        engine, "refresh_statistics", lambda one, data: refreshed.append((one, data))
    )
    monkeypatch.setattr(
        "backdoor_lab.reports.views.line.line_figure",
        lambda rows, ends: drawn.append((rows, ends)) or line_figure(rows, ends),
    )
    line_picture(tmp_path / "line.png", dict.fromkeys(("victim", "purified"), model), exam, engine)
    assert len(refreshed) == len(POINTS) == 11
    assert all(one is not model for one, _ in refreshed)
    assert all(torch.equal(data.images, exam.clean.images) for _, data in refreshed)
    ((_, ends),) = drawn
    assert ends[0] == ends[1]
    assert ends[0][2] == pytest.approx(engine.accuracy(model, exam.clean))


def test_the_models_as_they_are_stand_apart_from_the_line():
    rows, ends = [[1.0, 2.0, 0.5, 0.6]] * 11, [[3.0, 4.0, 0.7, 0.8], [5.0, 6.0, 0.9, 1.0]]
    figure = line_figure(rows, ends)
    crosses = [one.get_offsets().tolist() for one in figure.axes[1].collections]
    assert crosses == [[[0, 0.7], [1, 0.9]], [[0, 0.8], [1, 1.0]]]
    assert figure.axes[1].lines[0].get_ydata().tolist() == [0.5] * 11
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "clean, true class", "triggered, attacker's class", "as they are"
    ]  # fmt: skip


def test_heat_is_what_speaks_for_the_answer_and_at_most_1():
    images = torch.full((2, 3, 8, 8), 0.2)
    images[:, :, :4] = 0.9
    images[0, :, 6:, 6:] = 1.0
    heat, answers = grad_cam(Corner(), images)
    assert answers == [1, 1]
    assert heat.shape == (2, 8, 8)
    assert heat.min() >= 0
    assert heat.amax((1, 2)).tolist() == [1.0, 1.0]
    assert heat[0, 7, 7] == 1  # the brightest
    assert heat[0, 5, 2] < 0.5


def test_one_image_alone_has_features(model, images, engine):
    assert len(features_of(model, images.take(torch.tensor([3])), engine)) == 1


def test_entries_of_all_layers_are_joined():
    values = values_of(drawn_tiny())
    assert {name: len(part) for name, part in values.items()} == dict.fromkeys(values, 16)
    assert values["running_var"].max() < 1  # powers of ten


def test_every_view_is_drawn_where_it_can_be(tmp_path, model, exam, images, engine, shop):
    models = {"victim": model, "purified": deepcopy(model)}
    sets = {"seen": images, "auxiliary": images, "calibrated": images}
    found = draw_views(tmp_path, models, exam, sets, engine)
    assert set(found) == set(VIEWS)
    assert all(file.stat().st_size > 5_000 for file in found.values())
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.png" for name in VIEWS}


def test_what_nobody_can_draw_is_left_out(tmp_path, model, exam, images, engine, shop):
    other = deepcopy(model)
    other.net.fc = nn.Linear(other.head.in_features, 11)  # another architecture
    models = {"victim": model, "purified": other}
    answers = replace(exam, classes=(*exam.classes, "more"))
    found = draw_views(tmp_path, models, answers, {}, engine)
    assert set(VIEWS) - set(found) == {"view_line", "view_auxiliary"}
    untriggered = Examination.of(shop.data, NoAttack())
    assert set(draw_views(tmp_path, models, untriggered, {}, engine)) == {"view_batch_norms"}
    plain = dict.fromkeys(models, Corner())
    assert draw_views(tmp_path, plain, untriggered, {}, engine) == {}
