"""A stranger's classifier through whole runs: judged, purified, and handed back as it came."""

import json

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from backdoor_lab.errors import ConfigError
from backdoor_lab.exports.model.graph import PACKAGES
from backdoor_lab.models import load_purified
from backdoor_lab.run.job import perform
from backdoor_lab.run.names import Names
from backdoor_lab.run.parts import Parts
from tests.strangers import (
    CLASSES,
    MEAN,
    PATCH,
    STD,
    BenchPreActResNet18,
    bench_result,
    colours,
    image_folder,
    torchvision_resnet,
    trained,
)

GIVEN = (
    "victim=imported", "aux=folder", "pictures=false", "trainer.progress=false",
    "trainer.precision=32-true", f"dataset.mean={list(MEAN)}", f"dataset.std={list(STD)}",
)  # fmt: skip
QUICK = {
    "unibp": ("defense.epochs=1", "defense.batch_size=16"),
    "bcu": ("defense.epochs=1", "defense.batch_size=16"),
    "cc": (
        "defense.epochs=1",
        "aux=none",
        "defense.images=16",
        "defense.batch_size=16",
        "defense.synthesis_iterations=2",
        "defense.attack_iterations=1",
    ),
    "none": (),
}


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return trained(torchvision_resnet(), epochs=5)


@pytest.fixture(scope="module")
def bench():
    torch.manual_seed(0)
    return trained(BenchPreActResNet18(), epochs=5, target=0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture
def run(config, images, tmp_path):
    def purify(path, model, *choices, defense="none"):
        typed = (*GIVEN, f"victim.path={path}", f"model={model}", f"dataset.root={images}",
                 f"defense={defense}", *QUICK[defense], *choices)  # fmt: skip
        cfg = config(*typed)
        named = {"task": "purify", "victim": "imported", "dataset": "imagefolder", "model": model,
                 "attack": "unknown", "defense": defense, "aux": "folder"}  # fmt: skip
        folder = tmp_path / f"run {len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return perform(cfg, Names.of(cfg, named, typed), folder), folder

    return purify


def saved(folder, value, name="model.pt"):
    torch.save(value, folder / name)
    return folder / name


def handed_back(folder):
    return torch.load(folder / "model" / "state_dict.pt", weights_only=True)


def reached(net, count=60, seed=1):
    """Accuracy of a stranger's network on images like those of the folder."""
    images, labels = colours(count, 32, seed)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        return (net((images - mean) / std).argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("defense", ["unibp", "bcu"])
def test_torchvision_s_resnet_comes_back_under_its_own_names(run, resnet, tmp_path, defense):
    path = saved(tmp_path, {"state_dict": resnet.state_dict()})
    record, folder = run(path, "resnet18", "export=model", defense=defense)
    assert record.victim.asr is None
    assert record.purified.der is None
    assert record.details["test"] == {"source": "20% of the images, held out", "images": 12}
    assert record.details["aux"]["size"] == 48
    assert record.details["victim"]["accuracy_on_train"] == pytest.approx(reached(resnet), abs=0.1)
    back = torchvision_resnet().eval()
    back.load_state_dict(handed_back(folder)["state_dict"])
    state = load_file(folder / "model" / "model.safetensors")
    assert state.keys() == back.state_dict().keys()
    mine, mean = load_purified(folder), torch.tensor(MEAN).view(1, -1, 1, 1)
    some = torch.rand(4, 3, 32, 32)
    theirs = back((some - mean) / torch.tensor(STD).view(1, -1, 1, 1))
    assert torch.allclose(mine(some), theirs, atol=1e-4)
    card = (folder / "model" / "README.md").read_text()
    assert "20% of the images, held out" in card
    assert "No trigger is known" in card
    assert f"victim.path={path}" in card


def test_nothing_is_lost_on_the_way(run, bench, tmp_path):
    record, folder = run(saved(tmp_path, bench_result(bench)), "preact_resnet18_narrow",
                         "export=model")  # fmt: skip
    back = handed_back(folder)["model"]
    assert set(back) == set(bench.state_dict())
    for name, weights in bench.state_dict().items():
        assert torch.equal(back[name], weights), name
    assert record.victim == record.purified


def test_a_known_trigger_gives_an_asr(run, bench, tmp_path):
    path = saved(tmp_path, bench_result(bench))
    patch = ("attack=badnets", f"attack.size={PATCH}")
    record, _ = run(path, "preact_resnet18_narrow", *patch, defense="unibp")
    assert record.victim.asr > 0.9
    assert record.purified.der is not None
    assert record.trigger["psnr"] > 0


def test_a_folder_of_triggered_images_gives_one_too(run, bench, tmp_path):
    path = saved(tmp_path, bench_result(bench))
    for labelled in (True, False):
        triggered = image_folder(tmp_path / f"triggered {labelled}", 30)
        stamp(triggered, flat=not labelled)
        folder = ("pictures=true", f"attack.folder='{triggered}'", "attack.target=0")
        record, place = run(path, "preact_resnet18_narrow", *folder)
        assert record.victim.asr > 0.9
        assert (record.victim.ra is None) is not labelled
        assert record.trigger is None
        assert (place / "features.png").exists()
        assert not (place / "trigger.png").exists()


def stamp(folder, flat):
    for file in sorted(folder.rglob("*.png")):
        image = pil_to_tensor(Image.open(file))
        image[:, -PATCH:, -PATCH:] = 255
        to_pil_image(image).save(folder / file.name if flat else file)
        if flat:
            file.unlink()
    if flat:
        for name in CLASSES:
            (folder / name).rmdir()


def test_a_compressed_model_comes_back_under_names_like_its_own(run, bench, tmp_path):
    path = saved(tmp_path, {f"module.{n}": one for n, one in bench.state_dict().items()})
    choices = ("defense.compression=2", "export=model")
    record, folder = run(path, "preact_resnet18_narrow", *choices, defense="cc")
    assert record.costs["purified"].parameters < record.costs["victim"].parameters
    state = load_file(folder / "model" / "model.safetensors")
    assert all(name.startswith("module.") for name in state)
    assert len(state) > len(bench.state_dict())
    card = (folder / "model" / "README.md").read_text()
    assert "no longer the original's" in card
    assert load_purified(folder)(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_what_lay_beside_the_weights_comes_back(run, bench, tmp_path):
    state = {f"net.{name}": one for name, one in bench.state_dict().items()}
    state |= {"normalize.mean": torch.tensor(MEAN), "normalize.std": torch.tensor(STD)}
    save_file(state, tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors"
    _, folder = run(path, "preact_resnet18_narrow", "export=model")
    back = load_file(folder / "model" / "model.safetensors")
    assert set(back) == set(state)
    assert torch.equal(back["normalize.mean"], torch.tensor(MEAN))
    with pytest.raises(ConfigError, match=r"allowed: dataset\.mean=\[0\.4,0\.5,0\.6\]$"):
        run(path, "preact_resnet18_narrow", "dataset.mean=[0.5,0.5,0.5]")


def test_a_running_average_is_neither_judged_nor_handed_back(run, bench, tmp_path, caplog):
    state = bench.state_dict()
    both = {f"model.{name}": one for name, one in state.items()}
    both |= {f"ema_model.{name}": one for name, one in state.items()}
    path = saved(tmp_path, both)
    _, folder = run(path, "preact_resnet18_narrow", "export=model")
    assert "the weights a second time (ema_model." in caplog.text
    assert all(name.startswith("model.") for name in handed_back(folder))
    assert "left out: " in (folder / "model" / "README.md").read_text()


def test_normalisation_of_bytes_is_refused(config):
    with pytest.raises(ConfigError, match=r"mean.*less than or equal to 1"):
        Parts.of(config("dataset=digits", "dataset.mean=[123.7]"))


def test_a_size_that_the_network_does_not_take_is_refused(run, tmp_path):
    net = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    path = saved(tmp_path, net.state_dict())
    with pytest.raises(ConfigError, match=r"dataset\.image_size=32 does not suit vit_tiny"):
        run(path, "resnet18", "model.architecture=vit_tiny_patch16_224", "model.small_stem=false")


def test_a_folder_with_a_config_stays_one(run, bench, tmp_path):
    place = tmp_path / "theirs"
    place.mkdir()
    save_file(bench.state_dict(), place / "model.safetensors")
    config = {"architecture": "theirs", "label_names": list(CLASSES)}
    (place / "config.json").write_text(json.dumps(config))
    _, folder = run(place, "preact_resnet18_narrow", "export=model")
    assert json.loads((folder / "model" / "config.json").read_text()) == config
    other = place.rename(tmp_path / "others")
    (other / "config.json").write_text(json.dumps({"label_names": CLASSES[::-1]}))
    with pytest.raises(ConfigError, match=r"dataset\.classes=\[red,green,blue\]$"):
        run(other, "preact_resnet18_narrow")


def test_a_permuted_order_is_recognised_and_can_be_stated(run, bench, tmp_path):
    state = bench.state_dict()
    state |= {name: state[name][[2, 0, 1]] for name in ("linear.weight", "linear.bias")}
    path = saved(tmp_path, state)
    with pytest.raises(ConfigError, match=r"allowed: dataset\.classes=\[red,blue,green\]$"):
        run(path, "preact_resnet18_narrow")
    record, folder = run(
        path, "preact_resnet18_narrow", "dataset.classes=[red,blue,green]", "export=model"
    )
    assert record.victim.acc > 0.9
    back = handed_back(folder)
    assert torch.equal(back["linear.weight"], state["linear.weight"])


def test_other_heads_and_weights_that_are_none_are_refused(run, bench, tmp_path):
    path = saved(tmp_path, BenchPreActResNet18(classes=7).state_dict())
    with pytest.raises(ConfigError, match="3 classes of images, but the model's head has 7"):
        run(path, "preact_resnet18_narrow")
    state = {name: one.clone() for name, one in bench.state_dict().items()}
    state["layer1.0.bn1.bias"][3] = float("nan")
    with pytest.raises(ConfigError, match=r"'layer1\.0\.bn1\.bias' with 1 NaN"):
        run(saved(tmp_path, state), "preact_resnet18_narrow")


def test_the_file_is_its_content_and_not_its_place(run, config, bench, images, tmp_path):
    path = saved(tmp_path, bench.state_dict())
    first, _ = run(path, "preact_resnet18_narrow")
    moved = path.rename(tmp_path / "other.pt")
    again, _ = run(moved, "preact_resnet18_narrow", "force=true")
    assert again.victim_name == first.victim_name
    assert again.spent.victim_cached
    assert first.victim_name.startswith(f"imported-{first.details['victim']['file'][:12]}")
    state = bench.state_dict()
    saved(tmp_path, state | {"linear.bias": state["linear.bias"] + 1e-3}, "other.pt")
    another, _ = run(moved, "preact_resnet18_narrow")
    assert another.victim_name != first.victim_name


TOGETHER = {
    ("aux=seen",): "aux=seen draws on the victim's training images",
    ("evaluation.relearn=5", "attack=badnets"): "nobody knows how this victim was trained",
    ("task=victim", "export=model"): "export=model, but task=victim does not write that",
    ("task=export", "export=model"): "export=model, but task=export does not write that",
    ("attack=unknown", "export=poisoned"): "attack=unknown has no triggered images",
    ("attack=unknown", "attack.folder=/nowhere"): "attack.folder=/nowhere is no folder",
}


@pytest.mark.parametrize("chosen", TOGETHER, ids=" ".join)
def test_what_makes_no_sense_is_refused(config, bench, images, tmp_path, chosen):
    path = saved(tmp_path, bench.state_dict())
    common = (*GIVEN, f"victim.path={path}", "model=preact_resnet18_narrow")
    with pytest.raises(ConfigError, match=TOGETHER[chosen]):
        Parts.of(config(*common, f"dataset.root={images}", *chosen))


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ("aux=folder", "aux=folder draws the images beside an imported model"),
        ("attack=unknown", "attack=unknown, but a victim that is trained here"),
    ],
)
def test_what_a_trained_victim_has_no_use_for_is_refused(config, chosen, said):
    with pytest.raises(ConfigError, match=said):
        Parts.of(config(chosen))


def test_a_graph_answers_as_the_model(run, bench, tmp_path):
    for package in PACKAGES:
        pytest.importorskip(package)
    path = saved(tmp_path, bench.state_dict())
    _, folder = run(path, "preact_resnet18_narrow", "export=model", "export.onnx=true")
    assert (folder / "model" / "model.onnx").stat().st_size > 10**6


def test_a_graph_without_its_packages_is_refused(config, bench, images, tmp_path, monkeypatch):
    monkeypatch.setattr("backdoor_lab.exports.model.graph.find_spec", lambda name: None)
    path = saved(tmp_path, bench.state_dict())
    common = (*GIVEN, f"victim.path={path}", "model=preact_resnet18_narrow", "defense=none")
    with pytest.raises(ConfigError, match=r"export\.onnx=true needs onnx"):
        Parts.of(config(*common, f"dataset.root={images}", "export=model", "export.onnx=true"))
