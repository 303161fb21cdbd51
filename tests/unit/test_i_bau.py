"""I-BAU against closed forms, dense Hessians and finite differences."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import nn
from torch.autograd import grad
from torch.autograd.functional import hessian
from torch.func import functional_call

from backdoor_lab.aux_data import AuxiliarySet
from backdoor_lab.config import plain_config
from backdoor_lab.defenses.i_bau import IBAU, implicit_loss
from backdoor_lab.errors import ConfigError, spelled
from backdoor_lab.models.twice import TwiceDifferentiable
from backdoor_lab.training import Batches, CropFlip, Engine
from tests.tiny import SPEC, Tiny, tiny_aux


@pytest.fixture
def tiny(tiny):
    """Sensitive enough that perturbations count."""
    with torch.no_grad():
        tiny.body[3].weight.mul_(3)
        tiny.head.weight.mul_(10)
    return tiny


@pytest.fixture(scope="module")
def aux():
    return tiny_aux(40)


def defense(engine=None, **changes):
    options = {
        "rounds": 2, "terms": 5, "inner_step": 0.1, "ascent_lr": 10, "penalty": 0.001,
        "share": 0.2, "space": "normalised", "lr": 1e-3, "amsgrad": True, "batch_size": 16,
        "augment": True,
    }  # fmt: skip
    bau = IBAU(**{**options, **changes})
    bau.attach(engine or Engine(accelerator="cpu", precision="32-true", progress=False), SPEC, 3)
    return bau


def ready(model, **changes):
    """I-BAU on `model` as it is in the middle of a round."""
    bau = defense(**changes)
    bau.model = model.eval()
    bau.on_train_start()
    return bau


def batch(count=6):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.arange(count) % 2


@pytest.mark.parametrize("terms", [0, 1, 5, 40])
def test_on_a_quadratic_the_reaction_is_a_geometric_series(terms):
    a, step, b = 2.0, 0.1, 0.7
    w = torch.tensor([0.3, -1.2], requires_grad=True)
    delta = torch.tensor([0.5, 0.1])
    loss = implicit_loss(
        lambda d: (d - b).square().sum() / 2 + w.square().sum(),
        lambda d: a * (d - w).square().sum() / 2,
        delta, terms, step,
    )  # fmt: skip
    assert torch.equal(loss, (delta - b).square().sum() / 2 + w.square().sum())
    reaction = (delta - b) * (1 - (1 - step * a) ** terms)
    torch.testing.assert_close(grad(loss, w)[0], 2 * w.detach() + reaction)


class Problem:
    """The inner and outer loss of a batch, of one vector of weights, in double precision."""

    def __init__(self, model, penalty):
        self.bau = ready(model.double(), penalty=penalty, space="pixels")
        self.names = [name for name, _ in model.named_parameters()]
        self.shapes = [weight.shape for weight in model.parameters()]
        self.weights = torch.cat([weight.detach().flatten() for weight in model.parameters()])
        self.carriers = torch.tensor([1.0, 0, 1, 0, 0, 1]).view(-1, 1, 1, 1)

    def logits(self, weights, images):
        pieces = weights.split([shape.numel() for shape in self.shapes])
        parts = [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        return functional_call(self.bau.model, dict(zip(self.names, parts, strict=True)), images)

    def inner(self, delta, weights):
        images, labels = batch()
        wrong = F.cross_entropy(self.logits(weights, images + delta), labels)
        return self.bau.penalty * delta.square().sum() - wrong

    def outer(self, delta, weights):
        images, labels = batch()
        return F.cross_entropy(self.logits(weights, images + self.carriers * delta), labels)

    def computed(self, delta, terms, step):
        """The gradient that a training step would descend."""
        outer = partial(self.bau.outer, *batch(), self.carriers)
        loss = implicit_loss(outer, partial(self.bau.inner, *batch()), delta, terms, step)
        pieces = grad(loss, list(self.bau.model.parameters()), materialize_grads=True)
        return torch.cat([piece.flatten() for piece in pieces])

    def solved(self):
        """The perturbation at which the inner gradient is nought."""
        return self.descended(torch.zeros(1, 3, 8, 8, dtype=torch.float64), self.weights)

    def descended(self, delta, weights, steps=40):
        for _ in range(steps):
            delta = delta.detach().requires_grad_()
            (slope,) = grad(self.inner(delta, weights), delta)
            delta = delta - slope / (2 * self.bau.penalty)
        assert slope.norm() < 1e-13
        return delta.detach()

    def dense(self, delta):
        """d outer / d delta, d outer / d w, and both blocks of the inner Hessian."""
        count = delta.numel()
        both = torch.cat([delta.flatten(), self.weights]).requires_grad_()
        (slope,) = grad(self.outer(both[:count].view_as(delta), both[count:]), both)
        square = hessian(lambda d: self.inner(d.view_as(delta), self.weights), delta.flatten())
        (row,) = grad(
            self.inner(both[:count].view_as(delta), both[count:]), both, create_graph=True
        )
        mixed = torch.stack(
            [grad(row[i], both, retain_graph=True)[0][count:] for i in range(count)]
        )
        return slope[:count], slope[count:], square, mixed


@pytest.fixture(scope="module")
def problem():
    """Smooth, so that the inner problem has a solution, and far from linear."""
    torch.manual_seed(0)
    model = Tiny()
    model.body[2] = model.body[5] = nn.Softplus()
    with torch.no_grad():
        model.body[3].weight.mul_(3)
        model.head.weight.mul_(30)
    return Problem(model, penalty=0.3)


def test_the_gradient_is_that_of_dense_matrices(problem):
    torch.manual_seed(1)
    delta = torch.randn(1, 3, 8, 8, dtype=torch.float64) / 4  # no solution of the inner problem
    pull, direct, square, mixed = problem.dense(delta)
    step, terms = 0.1, 5
    turn = torch.eye(len(square), dtype=torch.float64) - step * square
    series = sum(torch.linalg.matrix_power(turn, power) @ pull for power in range(terms))
    expected = direct - step * mixed.T @ series
    torch.testing.assert_close(problem.computed(delta, terms, step), expected)
    torch.testing.assert_close(problem.computed(delta, 0, step), direct)
    assert (expected - direct).norm() > 0.01 * direct.norm()


def test_many_terms_are_the_linear_solve_and_the_finite_difference(problem):
    delta = problem.solved()
    pull, direct, square, mixed = problem.dense(delta)
    exact = direct - mixed.T @ torch.linalg.solve(square, pull)
    computed = problem.computed(delta, 60, 1 / 0.6)
    torch.testing.assert_close(computed, exact)
    torch.manual_seed(2)
    for _ in range(3):  # of w -> outer(argmin inner(., w), w)
        way, ends = torch.randn_like(problem.weights), []
        for sign in (-1, 1):
            weights = problem.weights + sign * 1e-6 * way
            ends.append(problem.outer(problem.descended(delta, weights), weights))
        torch.testing.assert_close((ends[1] - ends[0]) / 2e-6, computed @ way, rtol=1e-5, atol=1e-8)


def check_step(bau, net, outside, inside, carriers, number):
    """A step on batch `outside` is BackdoorBench's fixed point, written by hand."""
    computed = grad(
        bau.training_step(outside, number), list(bau.model.parameters()), materialize_grads=True
    )
    (images, labels), (first_images, first_labels) = outside, inside
    weights, delta = list(net.parameters()), bau.delta.clone().requires_grad_()
    patch = torch.zeros_like(images)
    patch[carriers.flatten().bool()] = 1
    loss = F.cross_entropy(net(images + patch * 0.5 * delta), labels)
    pull, *direct = grad(loss, [delta, *weights], allow_unused=True)
    wrong = F.cross_entropy(net(first_images + 0.5 * delta), first_labels)
    (slope,) = grad(-wrong + 0.001 * delta.pow(2).sum(), delta, create_graph=True)
    mapped, series = delta - 0.1 * slope, torch.zeros_like(delta)
    for _ in range(5):
        series = grad(mapped, delta, series, retain_graph=True)[0] + pull
    implicit = grad(mapped, weights, series, allow_unused=True)
    for got, first, second in zip(computed, direct, implicit, strict=True):
        expected = first if second is None else first + second
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)


def some_delta():
    return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def test_one_step_is_that_of_the_reference(tiny):
    images, labels = (part.float() if part.is_floating_point() else part for part in batch(20))
    bau = ready(deepcopy(tiny), share=0.1)
    bau.delta = some_delta()
    carriers = bau.carriers(20)
    bau.generator = ready(tiny).generator
    given = images, labels
    check_step(bau, deepcopy(tiny).eval(), given, given, carriers, 0)


def test_the_inner_loss_is_that_of_the_first_batch_of_a_pass(tiny):
    images, labels = batch(36)[0].float(), batch(36)[1]
    first, second = (images[:20], labels[:20]), (images[20:], 1 - labels[20:])
    net, everyone = deepcopy(tiny).eval(), torch.ones(20, 1, 1, 1)
    bau = ready(deepcopy(tiny), share=1)
    bau.delta = some_delta()
    check_step(bau, net, first, first, everyone, 0)
    check_step(bau, net, second, first, everyone[:16], 1)
    check_step(bau, net, second, second, everyone[:16], 0)  # the next pass has another first one


def test_a_gradient_at_no_perturbation_is_finite(tiny):
    bau = ready(tiny)
    bau.delta = torch.zeros(1, 3, 8, 8)
    loss = bau.training_step((batch()[0].float(), batch()[1]), 0)
    assert all(part.isfinite().all() for part in grad(loss, list(tiny.parameters())))


def draws(aux, batch_size=16):
    return Batches(aux.data, batch_size, seed=5)


def test_the_perturbation_changes_the_model_s_own_answers(tiny, aux):
    bau = ready(tiny)
    bau.draws, bau.steps_per_epoch = draws(aux), 3
    delta = bau.perturbation()
    images = aux.data.images.float() / 255
    answers = tiny(images).argmax(1)
    clean, moved = (F.cross_entropy(tiny(images + shift), answers) for shift in (0, 0.5 * delta))
    assert moved > 1.05 * clean


def test_the_first_step_of_a_perturbation_by_hand(tiny, aux):
    images = aux.data.images.float() / 255
    found = {}
    for space, scale in (("normalised", 0.5), ("pixels", 1.0)):
        bau = ready(tiny, space=space)
        bau.draws, bau.steps_per_epoch = draws(aux, 40), 1
        shift = torch.zeros(1, 3, 8, 8, requires_grad=True)
        (slope,) = grad(F.cross_entropy(tiny(images + shift), tiny(images).argmax(1)), shift)
        found[space] = bau.perturbation()
        torch.testing.assert_close(found[space], 10 * scale * slope, rtol=1e-4, atol=1e-6)


def test_penalty_shortens_and_the_dry_run_stops_the_perturbation(tiny, aux):
    norms = []
    for penalty, steps in ((0.0, 3), (0.02, 3), (0.0, 1)):
        bau = ready(tiny, penalty=penalty)
        bau.draws, bau.steps_per_epoch = draws(aux), steps
        norms.append(bau.perturbation().norm())
    assert norms[1] < norms[0]
    assert norms[2] < norms[0]


@pytest.mark.parametrize(("share", "count", "carry"), [(0.01, 20, 1), (0.01, 250, 2), (1, 7, 7)])
def test_a_share_of_the_images_carries_it_one_at_least(tiny, share, count, carry):
    bau = ready(tiny, share=share)
    first, second = bau.carriers(count), bau.carriers(count)
    assert first.sum() == second.sum() == carry
    assert first.shape == (count, 1, 1, 1)
    assert carry == count or not torch.equal(first, second)


def purified(model, aux, engine=None, **changes):
    bau = defense(engine, **changes)
    return bau, bau.purify(deepcopy(model), aux)


def test_running_statistics_stay_and_every_weight_moves(tiny, aux):
    bau, model = purified(tiny, aux)
    before = tiny.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (name in dict(tiny.named_buffers())), name
    assert len(bau.details["perturbation_norms"]) == 2
    assert min(bau.details["perturbation_norms"]) > 0
    assert not model.training


def test_every_option_has_an_effect(tiny, aux):
    usual = purified(tiny, aux)[1].head.weight
    for changes in (
        {"terms": 0}, {"terms": 1}, {"inner_step": 0.5}, {"ascent_lr": 1}, {"penalty": 0.1},
        {"share": 1}, {"space": "pixels"}, {"augment": False}, {"amsgrad": False}, {"lr": 1e-4},
        {"rounds": 1}, {"batch_size": 20},
    ):  # fmt: skip
        assert not torch.equal(usual, purified(tiny, aux, **changes)[1].head.weight), changes


def test_images_are_augmented_in_both_passes_or_in_none(tiny, aux, monkeypatch):
    drawn = []
    original = CropFlip.draw

    def counted(self, count, generator):
        drawn.append(count)
        return original(self, count, generator)

    monkeypatch.setattr(CropFlip, "draw", counted)
    purified(tiny, aux, augment=False)
    assert drawn == []
    purified(tiny, aux)
    assert drawn == [40] * 4


def test_gradients_of_gradients_are_computed_in_fp32(tiny, aux):
    half = Engine(accelerator="cpu", precision="bf16-mixed", progress=False)
    expected = purified(tiny, aux)[1].state_dict()
    found = purified(tiny, aux, half)[1].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_adam_keeps_its_moments_from_round_to_round(tiny, aux, monkeypatch):
    made = []
    original = IBAU.configure_optimizers
    monkeypatch.setattr(
        IBAU, "configure_optimizers", lambda self: made.append(original(self)) or made[-1]
    )
    purified(tiny, aux, rounds=3)
    (config,) = made
    steps = {int(state["step"]) for state in config["optimizer"].state.values()}
    assert steps == {9}  # three batches of three rounds


def test_labels_are_asked_for_and_the_name_is_that_of_the_file(aux):
    assert spelled(defense()) == "i_bau"
    with pytest.raises(ConfigError, match="but defense=i_bau needs labels"):
        defense().check(has_images=True, labelled=False)
    with pytest.raises(ConfigError, match="aux.labelled=false"):
        defense().purify(Tiny(), AuxiliarySet("external", aux.data, False))
    with pytest.raises(ConfigError, match=r"1 image\(s\), but defense=i_bau needs more"):
        defense().check_size(1)


@pytest.mark.parametrize(
    ("key", "value"), [("rounds", 0), ("terms", -1), ("share", 0), ("space", "grey"), ("lr", 0)]
)
def test_bad_values_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        defense(**{key: value})


def test_what_torch_compile_makes_is_passed_by(tiny):
    """It has no second derivative."""

    def refuse(*_):
        raise AssertionError

    bau = ready(tiny)
    tiny._compiled_call_impl = refuse
    bau.delta = torch.zeros(1, 3, 8, 8)
    assert bau.training_step((batch()[0].float(), batch()[1]), 0).isfinite()


def test_a_hard_sigmoid_stays_what_it_is():
    line = torch.linspace(-4, 4, 99)
    with TwiceDifferentiable():
        found = nn.Hardsigmoid(inplace=True)(line)
    torch.testing.assert_close(found, F.hardsigmoid(line))


def test_mobilenetv3_is_twice_differentiable(spec, config, images):
    """Hard swish and sigmoid, squeeze and excitation, dropout."""
    cfg = config("model=mobilenetv3_large", "defense=i_bau")
    model = instantiate(plain_config(cfg, "model")).build(spec, seed=0)
    bau = defense(rounds=1, terms=2)
    bau.attach(bau.engine, spec, 0)
    few = AuxiliarySet("seen", images.take(torch.arange(8)), True)
    assert all(weight.isfinite().all() for weight in bau.purify(model, few).parameters())
