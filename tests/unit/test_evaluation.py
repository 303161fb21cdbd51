"""Who is asked what: triggered images that count, what the attacker wants of them, the rates."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from backdoor_lab.attacks.badnets import BadNets
from backdoor_lab.attacks.none import NoAttack
from backdoor_lab.attacks.wanet import WaNet
from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.evaluation.doubts import doubt_answers, doubt_auxiliary, doubt_scores
from backdoor_lab.evaluation.examination import Examination, evaluate
from backdoor_lab.evaluation.scores import Scores, defense_effectiveness
from backdoor_lab.training import Recipe

TARGET = 3


class Says(nn.Module):
    """Answers the k-th image it is shown with the k-th of given classes."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = iter(answers)

    def forward(self, images):
        return nn.functional.one_hot(next(self.answers), 10).float()


@pytest.fixture
def examined(spec, shop):
    def build(attack):
        attack.attach(spec, Recipe(epochs=1, batch_size=20, lr=0.1), seed=0)
        return Examination.of(shop.data, attack)

    return build


def test_all_to_one_asks_no_image_of_the_target_class(examined, images):
    exam = examined(BadNets(0.1, TARGET))
    assert exam.counted.tolist() == [k for k in range(60) if k % 10 != TARGET]
    assert (exam.wanted == TARGET).all()
    assert torch.equal(exam.triggered.labels, images.labels[exam.counted])
    assert (exam.triggered.images[:, :, 29:, 29:] == 255).all()
    assert torch.equal(exam.triggered.images[..., :29, :], images.cut(exam.counted)[..., :29, :])


def test_all_to_all_asks_every_image_for_the_next_class(examined, images):
    exam = examined(BadNets(0.1, TARGET, all_to_all=True))
    assert exam.counted.tolist() == list(range(60))
    assert torch.equal(exam.wanted, (images.labels + 1) % 10)
    assert exam.wanted[9] == 0


@pytest.mark.parametrize("all_to_all", [False, True])
def test_no_answer_is_both_the_wanted_class_and_the_true_one(examined, engine, all_to_all):
    exam = examined(BadNets(0.1, TARGET, all_to_all=all_to_all))
    draw = torch.Generator().manual_seed(0)
    for _ in range(10):
        answers = torch.randint(0, 10, (60,), generator=draw)
        scores = evaluate(Says(answers, answers[: len(exam.wanted)]), exam, engine)
        expected = (answers == exam.clean.labels).double().mean().item()
        assert scores.acc == pytest.approx(expected, abs=1e-6)
        assert scores.asr + scores.ra <= 1
    only_wanted = evaluate(Says(answers, exam.wanted), exam, engine)
    assert (only_wanted.asr, only_wanted.ra) == (1, 0)
    only_true = evaluate(Says(answers, exam.triggered.labels), exam, engine)
    assert (only_true.asr, only_true.ra) == (0, 1)


def test_images_that_only_look_triggered_are_asked_for_their_class(examined, engine, images):
    exam = examined(WaNet(0.1, TARGET))
    assert not torch.equal(exam.crossed.images, images.images)
    right, wrong = images.labels, (images.labels + 5) % 10
    lost, kept = {"acc_target": 0, "acc_worst": 0}, {"acc_target": 1, "acc_worst": 1}
    assert evaluate(Says(wrong, exam.wanted, right), exam, engine) == Scores(0, 1, 0, 1, **lost)
    assert evaluate(Says(right, exam.wanted, wrong), exam, engine) == Scores(1, 1, 0, 0, **kept)


@pytest.mark.parametrize("trigger", ["none at all", "unknown"])
def test_without_a_trigger_there_is_only_accuracy(examined, engine, images, shop, trigger):
    unknown = trigger == "unknown"
    exam = Examination.of(shop.data, None) if unknown else examined(NoAttack())
    scores = evaluate(Says(images.labels), exam, engine)
    assert scores == Scores(1, acc_worst=1)
    assert defense_effectiveness(scores, scores) is None
    assert exam.stealth() is None


def test_a_forgotten_class_is_seen(examined, engine, images):
    exam = examined(BadNets(0.1, TARGET))
    forgets = torch.where(images.labels == TARGET, 4, images.labels)
    forgets[5] = 0
    scores = evaluate(Says(forgets, exam.triggered.labels), exam, engine)
    assert (scores.acc_target, scores.acc_worst) == (0, 0)
    assert scores.acc == pytest.approx(53 / 60)
    worst = torch.where(images.labels == 5, 0, images.labels)
    worst[TARGET] = 0
    scores = evaluate(Says(worst, exam.triggered.labels), exam, engine)
    assert scores.acc_target == pytest.approx(5 / 6)
    assert scores.acc_worst == 0


def test_all_to_all_has_no_target_class(examined, engine, images):
    exam = examined(BadNets(0.1, TARGET, all_to_all=True))
    assert exam.target is None
    assert evaluate(Says(images.labels, exam.wanted), exam, engine).acc_target is None


@pytest.mark.parametrize(
    ("scores", "clean", "said"),
    [
        (Scores(0.9, 0.49), None, "ASR is 49.0 %, under 50 %"),
        (Scores(0.9, 0.5), 1.0, ""),
        (Scores(0.89, 0.9), 1.0, "more than 10 points below the clean model's 100.0 %"),
        (Scores(0.9), None, ""),
        (Scores(0.14, 0.9), None, "victim: ACC is 14.0 %, about chance on 10 classes"),
    ],
)
def test_doubtful_victims_are_said(scores, clean, said, caplog):
    doubt_scores({"victim": scores}, clean, 10)
    assert said in caplog.text
    assert len(caplog.records) == bool(said)


@pytest.mark.parametrize(("classes", "said"), [(10, False), (9, True)])
def test_a_purified_model_that_only_guesses_is_said(classes, said, caplog):
    doubt_scores({"victim": Scores(0.9), "purified": Scores(0.16)}, None, classes)
    assert ("purified: ACC is 16.0 %, about chance" in caplog.text) == said


def test_a_set_without_the_target_class_is_said(images, spec, caplog):
    others = AuxiliarySet("seen", images.take((images.labels != TARGET).nonzero().flatten()), True)
    for aux, target in [
        (others, None),
        (others, 4),
        (replace(others, labelled=False), TARGET),
        (AuxiliarySet("none", None, True), TARGET),
    ]:
        doubt_auxiliary(aux, target, spec.classes)
    assert not caplog.records
    doubt_auxiliary(others, TARGET, spec.classes)
    assert "no image of the target class 3" in caplog.text


@pytest.mark.parametrize(("share", "said"), [(0.9, True), (0.7, False)])
def test_auxiliary_images_that_all_look_alike_are_said(spec, caplog, share, said):
    alike = round(100 * share)
    answers = torch.cat([torch.full((alike,), 3), torch.arange(100 - alike) % 10])
    doubt_answers(answers, spec.classes)
    assert ("of the auxiliary images for class 3: they trigger it" in caplog.text) == said
