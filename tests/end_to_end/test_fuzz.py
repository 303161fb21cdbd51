"""Bad configurations, each refused in one sentence that names the key; nothing is trained."""

import pytest
from hydra import compose
from hydra.errors import CompactHydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from backdoor_lab.config.choices import refuse_choices
from backdoor_lab.run.gate import gate, one_line
from backdoor_lab.run.parts import Parts
from backdoor_lab.tasks._defender import attach_defense

GROUPS = ("task", "victim", "model", "recipe", "attack", "defense", "aux", "calibration",
          "trainer", "logger", "dataset")  # fmt: skip
BAD = [
    *(([f"{group}=null"], group) for group in GROUPS),
    *(([f"~{group}"], group) for group in GROUPS),
    *(([f"{group}=nosuch"], group) for group in ("attack", "defense", "aux", "dataset")),
    (["attack=[wanet,badnets]"], "attack=[wanet,badnets] is a list"),
    (["aux=[seen,none]"], "aux=[seen,none] is a list"),
    (["attack=5"], "attack=5"),
    (["attack.target=[1]"], "attack.target"),
    (["attack.target=null"], "attack.target"),
    (["attack.target=nan"], "attack.target"),
    (["attack.poison_rate=-inf"], "attack.poison_rate"),
    (["attack.poison_rate=many"], "attack.poison_rate"),
    (["attack._target_=5"], "attack._target_"),
    (["attack._target_=os.path.nosuch"], "nosuch"),
    (["recipe.lr=inf"], "recipe.lr"),
    (["recipe.lr=-1"], "recipe.lr"),
    (["recipe.epochs=1.5"], "recipe.epochs"),
    (["recipe.optimizer=null"], "recipe.optimizer"),
    (["recipe.optimizer.momentum=-1"], "recipe.optimizer"),
    (["recipe.optimizer.momentum=1.5"], "recipe.optimizer.momentum"),
    (["recipe.lr=true"], "recipe.lr"),
    (["recipe.batch_size=99999999999"], "recipe.batch_size"),
    (["defense=ft", "defense.momentum=1.5"], "defense.momentum"),
    (["model.options.width=''"], "model.options"),
    (["model.options.width=-4"], "model.options"),
    (["+model.options.nosuch=1"], "model.options"),
    (["dataset.num_classes=1"], "dataset.num_classes"),
    (["dataset.reserved=1"], "dataset.reserved"),
    (["dataset.image_size=99999999999"], "dataset.image_size"),
    (["+recipe.schedule.warm_up=2"], "recipe.schedule.warm_up"),
    (["+recipe.schedule.warm_up=x"], "recipe.schedule.warm_up"),
    (["dataset.mean=[0.5]"], "dataset.mean"),
    (["dataset.mean=[.inf,0,0]"], "dataset.mean"),
    (["dataset.mean=[inf,0,0]"], "dataset.mean"),
    (["dataset.std=[0,1,1]"], "dataset.std"),
    (["dataset.std=[nan,1,1]"], "dataset.std"),
    (["dataset.image_size=3"], "dataset.image_size"),
    (["dataset.name=../../x"], "dataset.name"),
    (["dataset.name=''"], "dataset.name"),
    (["dataset.name=null"], "dataset.name"),
    (["paths.outputs=''"], "paths.outputs"),
    (["paths.outputs=/proc/nosuch"], "paths.outputs"),
    (["calibration=gic", "aux=none", "defense=clp"], "calibration=gic"),
    (["attack=combat", "attack.sigma_min=2"], "attack.sigma_min"),
    (["defense.lr_floor=1"], "defense.lr_floor"),
    (["trainer.devices=3"], "trainer.devices"),
    (["trainer.threads=0"], "trainer.threads"),
    (["trainer.precision=null"], "trainer.precision"),
    (["aux.ratio=nan"], "aux.ratio"),
    (["dataset.limit_test=1"], "dataset.limit_test"),
    (["dataset.limit_train=1"], "dataset.limit_train"),
    (["recipe.optimizer._partial_=[]"], "recipe"),
    (["attack=wanet", "attack.poison_rate=0.8"], "attack.cross_ratio"),
    (["attack=bpp", "attack.poison_rate=0.95"], "attack.negative_rate"),
    (["seed=null"], "seed"),
    (["seed=1.5"], "seed"),
    (["seed=-1"], "seed"),
    (["force=perhaps"], "force"),
]  # fmt: skip


UNFIT = (CompactHydraException, MissingConfigException, OmegaConfBaseException)


def prepare(whole, overrides):
    """All that a run does before it loads data."""
    refuse_choices(overrides)
    cfg = compose("config", whole, return_hydra_config=True)
    gate(cfg, "sweep.subdir")
    return Parts.of(cfg)


@pytest.mark.parametrize(("overrides", "names"), BAD, ids=lambda value: str(value))
def test_a_bad_configuration_is_one_sentence(config, tmp_path, overrides, names):
    config()
    known = {f"paths.{name}={tmp_path}" for name in ("outputs", "cache")}
    given = {one.partition("=")[0] for one in overrides}
    places = sorted(place for place in known if place.partition("=")[0] not in given)
    with pytest.raises(UNFIT) as refusal:
        prepare([*places, *overrides], overrides)
    assert names in one_line(refusal.value)
    assert not (tmp_path / "victims").exists()


LATE = [
    (["dataset.num_classes=7"], "dataset.num_classes"),
    (["aux.ratio=0.95", "aux.poisoned=left_out"], "aux.ratio"),
    (["attack.poison_rate=1", "aux.size=5", "aux.poisoned=left_out"], "attack.poison_rate"),
    (["attack=sig", "aux.per_class=50", "aux.poisoned=left_out"], "aux.per_class"),
]


@pytest.mark.parametrize(("overrides", "names"), LATE)
def test_what_the_data_contradict_is_refused_before_a_training(config, overrides, names):
    parts = Parts.of(config(*overrides))
    data = parts.dataset.load()

    def attached():
        parts.attach(data, 0)
        attach_defense(parts, data, 0, 0)

    with pytest.raises(CompactHydraException) as refusal:
        attached()
    assert names in str(refusal.value)
