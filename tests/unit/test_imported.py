"""A stranger's classifier: what is read, under whose names, and what is refused in which words."""

import json
import os
import pickle
import shlex
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from backdoor_lab.attacks.blended import Blended
from backdoor_lab.attacks.lc import LC
from backdoor_lab.attacks.unknown import Unknown
from backdoor_lab.config.identity import held
from backdoor_lab.datasets import DataSpec
from backdoor_lab.digests import model_digest
from backdoor_lab.errors import ConfigError
from backdoor_lab.models import ModelFactory
from backdoor_lab.victims.imported import Imported
from backdoor_lab.victims.imported.layout import Layout, matched
from backdoor_lab.victims.imported.namings import readings
from backdoor_lab.victims.imported.opening import opened, taken
from backdoor_lab.victims.imported.order import meant_order
from backdoor_lab.victims.imported.quarantine import (
    COPIES,
    LARGEST,
    ROOM,
    SECONDS,
    room_for,
    seconds_for,
)
from backdoor_lab.victims.imported.reading import inspect, stored
from backdoor_lab.victims.imported.statements import as_typed
from backdoor_lab.victims.imported.zoo import fitted
from tests.strangers import BenchPreActResNet18, bench_result, torchvision_resnet

NARROW = ModelFactory("preact_resnet18", options={"width": 16})
THREE = DataSpec("three", ("a", "b", "c"), (3, 32, 32), (0.5,) * 3, (0.5,) * 3, 0, False)
RESNET = ModelFactory("resnet18", small_stem=True)


@pytest.fixture(scope="module")
def bench():
    torch.manual_seed(0)
    return BenchPreActResNet18()


def saved(folder, value, name="model.pt", **options):
    torch.save(value, folder / name, **options)
    return folder / name


def looked_at(path, factory=NARROW):
    Imported(path).check(Unknown(), factory)
    return opened(path, factory)


def refusal(path, factory=NARROW):
    with pytest.raises(ConfigError) as refused:
        looked_at(path, factory)
    first, *lines = str(refused.value).split("\n")
    assert first.isprintable()
    assert "allowed: " in first
    return first, lines


WRAPPED = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "lightning": lambda state: {
        "state_dict": OrderedDict(
            [(f"model.{name}", one) for name, one in state.items()]
            + [("criterion.weight", torch.ones(3))]
        ),
        "pytorch-lightning_version": "2.6.0",
        "hyper_parameters": {"lr": 0.1},
    },
    "parallel": lambda state: {"net": {f"module.{name}": one for name, one in state.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_the_weights_are_found_wherever_a_training_keeps_them(bench, tmp_path, wrap):
    found = looked_at(saved(tmp_path, wrap(bench.state_dict())))
    layout = found.layout
    assert found.format == "a checkpoint"
    assert layout.names["layer2.0.shortcut.weight"].endswith("layer2.0.shortcut.0.weight")
    assert set(layout.aside) <= {"criterion.weight"}


def test_checkpoints_of_every_age_are_read(bench, tmp_path):
    old = {n: one for n, one in bench.state_dict().items() if "num_batches" not in n}
    path = saved(tmp_path, old, _use_new_zipfile_serialization=False)
    assert len(looked_at(path).layout.names) == len(old)
    save_file(bench.state_dict(), tmp_path / "model.safetensors")
    assert looked_at(tmp_path / "model.safetensors").format == "safetensors"


def test_backdoorbench_s_result_is_read_and_arrays_elsewhere_are_not(bench, tmp_path):
    result = bench_result(bench)
    found = looked_at(saved(tmp_path, result))
    assert found.format == "BackdoorBench's result"
    assert found.layout.wrapped == "model"
    del result["model_name"]
    assert "numpy" in refusal(saved(tmp_path, result))[0]
    assert np.ndarray not in torch.serialization.get_safe_globals()


def test_a_folder_of_timm_tells_classes_and_normalisation(tmp_path):
    net = timm.create_model("resnet18", num_classes=3)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "resnet18", "num_classes": 3, "label_names": ["c", "b", "a"],
              "pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = looked_at(tmp_path, RESNET)
    assert found.told.classes == ("c", "b", "a")
    assert found.told.mean == (0.4, 0.5, 0.6)
    assert not found.factory.small_stem  # the file proves it
    assert found.outputs == 3
    assert found.layout.names["fc.weight"] == "fc.weight"


@pytest.fixture
def narrow_folder(bench, tmp_path):
    """A repository in Hugging Face's cache, whose files are links to the blobs beside it."""
    snapshot = tmp_path / "repository" / "snapshots" / "0a1b"
    blobs = snapshot.parents[1] / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    save_file(bench.state_dict(), blobs / "b0")
    for name in ("b1", "b2"):
        (blobs / name).write_text("{}")
    names = ("model.safetensors", "config.json", "preprocessor_config.json")
    for number, name in enumerate(names):
        (snapshot / name).symlink_to(f"../../blobs/b{number}")
    return snapshot


def test_a_folder_of_hugging_face_s_cache_links_to_its_blobs(narrow_folder):
    assert looked_at(narrow_folder).format == "a folder with safetensors"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "preprocessor_config.json", "blobs"]
)
def test_a_link_out_of_a_folder_is_refused(narrow_folder, tmp_path, name):
    if name == "blobs":  # a cache is none that has its blobs elsewhere
        blobs = narrow_folder.parents[1] / "blobs"
        blobs.rename(tmp_path / "secret")
        blobs.symlink_to(tmp_path / "secret")
    else:
        secret = tmp_path / "secret"
        (narrow_folder / name).resolve().rename(secret)
        (narrow_folder / name).unlink()
        (narrow_folder / name).symlink_to(secret)
    said, _ = refusal(narrow_folder)
    assert "is a link out of it, to " in said
    assert str(tmp_path / "secret")[:20] in said


def test_what_lies_beside_a_model_gives_it_no_room_no_time_and_no_other_name(narrow_folder):
    before = room_for(narrow_folder), seconds_for(narrow_folder)
    digest = held({"path": str(narrow_folder)})
    sparse(narrow_folder / "junk", 2**40)
    model_digest.cache_clear()
    assert (room_for(narrow_folder), seconds_for(narrow_folder)) == before
    assert held({"path": str(narrow_folder)}) == digest
    (narrow_folder / "config.json").write_text("[]")
    model_digest.cache_clear()
    assert held({"path": str(narrow_folder)}) != digest


def sparse(file, size):
    file.touch()
    os.truncate(file, size)
    return file


def test_the_holes_of_a_sparse_file_give_it_no_room(tmp_path):
    file = sparse(tmp_path / "model.pt", 2**40)
    assert room_for(file) < 2 * ROOM
    assert seconds_for(file) == SECONDS


def test_room_and_time_end_somewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("backdoor_lab.victims.imported.quarantine.size_of", lambda path: 2**40)
    assert room_for(tmp_path) == ROOM + COPIES * LARGEST
    assert seconds_for(tmp_path) < 10 * 60


@pytest.mark.parametrize("junk", [False, True], ids=["alone", "beside a sparse file"])
def test_a_tensor_that_repeats_its_bytes_is_not_written_out(bench, tmp_path, junk):
    place = tmp_path / "theirs"
    place.mkdir()
    state = {f"net.{name}": one for name, one in bench.state_dict().items()}
    torch.save(state | {"z": torch.zeros(1).expand(50_000_000)}, place / "pytorch_model.bin")
    (place / "config.json").write_text("{}")
    if junk:
        sparse(place / "junk", 2**40)
    with pytest.raises(ConfigError, match="holds tensors that are larger than it is"):
        taken(place, looked_at(place).layout, NARROW.build(THREE, 0), tmp_path)
    assert not (tmp_path / "aside.safetensors").exists()


def test_bytes_that_tensors_share_count_once():
    one = torch.zeros(8)
    assert stored([one, one[2:], one.view(2, 4), one[:1].expand(10**6)]) == 32
    assert stored([one, one.clone()]) == 64
    assert stored([]) == 0


def hugging_face(name):
    """transformers' name for a weight of a ResNet."""
    for ours, theirs in {"conv1": "convolution", "bn1": "normalization"}.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, f"resnet.embedder.embedder.{theirs}")
    if name.startswith("fc."):
        return name.replace("fc.", "classifier.1.")
    stage, block, layer, *rest = name.split(".")
    place = f"resnet.encoder.stages.{int(stage[-1]) - 1}.layers.{block}"
    kinds = ("convolution", "normalization")
    if layer == "downsample":
        return ".".join([place, "shortcut", kinds[int(rest[0])], *rest[1:]])
    kind = kinds[layer.startswith("bn")]
    return ".".join([place, "layer", str(int(layer[-1]) - 1), kind, *rest])


def test_a_folder_tells_the_side_of_its_images(tmp_path):
    save_file(timm.create_model("resnet18", num_classes=3).state_dict(),
              tmp_path / "model.safetensors")  # fmt: skip
    for config, side in (
        ({"pretrained_cfg": {"input_size": [3, 96, 96]}}, 96), ({"image_size": 64}, 64),
        ({"image_size": True}, None), ({"pretrained_cfg": {"input_size": "big"}}, None), ({}, None),
    ):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert inspect(tmp_path)["told"]["side"] == side


def test_normalisation_of_bytes_is_told_of_images_in_0_to_1(tmp_path):
    save_file({"a.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    for mean, std in (([127.5, 51, 0], [51, 51, 255]), ([0.5, 0.2, 0], [0.2, 0.2, 1])):
        config = {"pretrained_cfg": {"mean": mean, "std": std}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        told = inspect(tmp_path)["told"]
        assert told["mean"] == pytest.approx((0.5, 0.2, 0))
        assert told["std"] == pytest.approx((0.2, 0.2, 1))


def test_normalisation_of_bytes_among_the_weights_is_told_of_images_in_0_to_1(tmp_path):
    of_bytes = {"normalize.mean": [127.5, 51, 0], "normalize.std": [51.0, 51, 255]}
    state = {name: torch.tensor(values).view(1, 3, 1, 1) for name, values in of_bytes.items()}
    save_file(state, tmp_path / "model.safetensors")
    told = inspect(tmp_path / "model.safetensors")["told"]
    assert told["mean"] == pytest.approx((0.5, 0.2, 0))
    assert told["std"] == pytest.approx((0.2, 0.2, 1))
    assert told["holds_normalisation"]


def test_a_dictionary_without_tensors_is_told_by_its_keys(bench, tmp_path):
    path = saved(tmp_path, {"ema": bench.state_dict(), "epoch": 3})
    assert "holds 'ema', 'epoch', and no tensors there or below state_dict" in refusal(path)[0]


@pytest.mark.parametrize(
    ("classes", "typed"),
    [
        (["dog", "cat"], "dataset.classes=[dog,cat]"),
        (["2", "0"], """'dataset.classes=["2","0"]'"""),
        (["true", "a, b"], """'dataset.classes=["true","a, b"]'"""),
    ],
)
def test_classes_are_said_as_they_are_typed(config, classes, typed):
    assert as_typed(classes) == typed
    (argument,) = shlex.split(typed)
    assert list(config("dataset=imagefolder", argument).dataset.classes) == classes


def test_a_second_set_of_the_weights_is_no_part_of_the_network(bench, tmp_path):
    state = bench.state_dict()
    both = {f"model.{name}": one for name, one in state.items()}
    both |= {f"ema_model.{name}": one for name, one in state.items()} | {"step": torch.ones(1)}
    layout = looked_at(saved(tmp_path, both)).layout
    assert sorted(layout.copies) == sorted(f"ema_model.{name}" for name in state)
    assert layout.aside == tuple(sorted([*layout.copies, "step"]))
    assert not looked_at(saved(tmp_path, {"net": state, "extra": {}})).layout.copies


def test_files_of_thousands_of_names_are_not_compared_one_by_one(tmp_path, monkeypatch):
    names = {f"a.b.c.{number}.x": torch.ones(1) for number in range(3000)}
    save_file(names, tmp_path / "model.safetensors")
    tried = []
    monkeypatch.setattr(
        "backdoor_lab.victims.imported.zoo.fitted",
        lambda ways, *_: tried.append(ways),
    )
    assert "none of conf/model fits" in refusal(tmp_path / "model.safetensors")[0]
    assert not tried
    many = {f"a.{number}": torch.ones(1) for number in range(5001)}
    save_file(many, tmp_path / "model.safetensors")
    assert "5001 tensors" in refusal(tmp_path / "model.safetensors")[0]


def test_odd_digits_in_names_are_no_numbers(tmp_path):
    save_file({"features.\u00b2.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    refusal(tmp_path / "model.safetensors", ModelFactory("mobilenetv2_100"))


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (ModelFactory("resnetv2_50"), "model.architecture=resnetv2_50 has no linear layer"),
        (ModelFactory("resnet18", options={"foo": 1}), "model.options={.*foo.* do not fit"),
    ],
)
def test_architectures_that_cannot_be_filled_are_refused(bench, tmp_path, factory, said):
    with pytest.raises(ConfigError, match=said):
        looked_at(saved(tmp_path, bench.state_dict()), factory)


def test_every_naming_leads_to_ours_and_back():
    resnet = {n: tuple(t.shape) for n, t in torchvision_resnet().state_dict().items()}
    theirs = {hugging_face(name): shape for name, shape in resnet.items()}
    layout = matched(readings(theirs), theirs, resnet, "fc", None)
    assert isinstance(layout, Layout)
    assert {name: hugging_face(name) for name in resnet} == layout.names
    small = {n.replace("downsample", "shortcut").replace("fc.", "linear."): s
             for n, s in resnet.items()}  # fmt: skip
    layout = matched(readings(small), small, resnet, "fc", None)
    assert layout.theirs("fc.bias") == "linear.bias"


def test_a_layer_that_a_defense_put_in_is_called_after_the_one_that_stood_there():
    layout = Layout({"layer1.0.conv1.weight": "m.layer1.0.conv1.weight"}, {})
    assert layout.theirs("layer1.0.conv1.2.weight") == "m.layer1.0.conv1.2.weight"
    assert layout.theirs("new.weight") == "new.weight"


TORCHVISION = {
    "densenet121": "densenet121",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_v2_s": "efficientnetv2_s",
}


def with_statistics(net):
    """Batch normalisation that has seen something: fresh one hides its epsilon."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.01, 1)
    return net.eval()


@pytest.mark.parametrize("theirs", TORCHVISION)
def test_torchvision_s_weights_give_the_same_answers_in_timm_s_architecture(tmp_path, theirs):
    torch.manual_seed(0)
    net = with_statistics(torchvision.models.get_model(theirs, num_classes=3))
    state = {f"module.{name}": one for name, one in net.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")  # which sorts the names
    found = looked_at(tmp_path / "model.safetensors", ModelFactory(TORCHVISION[theirs]))
    ours = timm.create_model(TORCHVISION[theirs], num_classes=3, **found.factory.options).eval()
    fresh = ours.state_dict()
    ours.load_state_dict({
        name: state[theirs].reshape(fresh[name].shape)
        for name, theirs in found.layout.names.items()
    })  # fmt: skip
    images = torch.rand(2, 3, 64, 64)
    expected = net(images)
    assert torch.allclose(expected, ours(images), rtol=1e-4, atol=1e-5 * expected.std().item())


@pytest.mark.parametrize("theirs", [f"efficientnet_b{size}" for size in range(1, 8)])
def test_deep_efficientnets_normalise_as_torchvision_s_do(theirs):
    with torch.device("meta"):
        net = torchvision.models.get_model(theirs, num_classes=3)
    shapes = {name: tuple(one.shape) for name, one in net.state_dict().items()}
    _, own = fitted(readings(shapes), shapes, ModelFactory(theirs))
    (eps,) = {one.eps for one in net.modules() if isinstance(one, torch.nn.BatchNorm2d)}
    assert own.options.get("bn_eps", 1e-5) == eps


def test_torchvision_s_vggs_have_matrices_where_timm_s_have_convolutions():
    with torch.device("meta"):
        net = torchvision.models.vgg11_bn(num_classes=3)
    shapes = {name: tuple(one.shape) for name, one in net.state_dict().items()}
    layout, _ = fitted(readings(shapes), shapes, ModelFactory("vgg11_bn"))
    assert layout.names["pre_logits.fc1.weight"] == "classifier.0.weight"
    assert layout.names["head.fc.bias"] == "classifier.6.bias"
    assert layout.shapes == {
        "pre_logits.fc1.weight": [4096, 25088], "pre_logits.fc2.weight": [4096, 4096]
    }  # fmt: skip


def test_another_architecture_is_refused_with_those_that_fit(tmp_path):
    path = saved(tmp_path, torchvision_resnet().state_dict())
    said, _ = refusal(path, ModelFactory("resnet34"))
    assert "lacks layer1.2" in said
    assert said.endswith("allowed: model=resnet18")
    larger = saved(tmp_path, torchvision.models.resnet34(num_classes=3).state_dict())
    assert "that no layer takes" in refusal(larger, RESNET)[0]
    wide = torchvision.models.wide_resnet50_2(num_classes=3)
    assert "none of conf/model fits" in refusal(saved(tmp_path, wide.state_dict()), RESNET)[0]


def test_missing_and_misshapen_weights_are_named(bench, tmp_path):
    state = bench.state_dict()
    del state["layer3.1.bn2.weight"]
    state["conv1.weight"] = torch.zeros(16, 3, 5, 5)
    said, _ = refusal(saved(tmp_path, state))
    assert "lacks layer3.1.bn2.weight" in said
    assert "conv1.weight of 16x3x5x5 where 16x3x3x3 belong" in said


def test_a_whole_module_is_refused_with_the_lines_that_convert_it(bench, tmp_path, monkeypatch):
    said, lines = refusal(saved(tmp_path, bench, "it's mine.pt"))
    assert "tests.strangers.BenchPreActResNet18" in said
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line.strip() for line in lines))
    looked_at(tmp_path / "model.safetensors")


def test_what_is_no_file_of_tensors_is_called_by_its_name(tmp_path):
    script = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(script))
    assert "TorchScript" in refusal(script)[0]
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "program.pt2")
    assert ".pt2" in refusal(tmp_path / "program.pt2")[0]
    (tmp_path / "graph.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    assert "ONNX" in refusal(tmp_path / "graph.onnx")[0]
    (tmp_path / "page.pt").write_bytes(b"<!DOCTYPE html>")
    assert "a web page" in refusal(tmp_path / "page.pt")[0]
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": Imported}))
    assert "imported.Imported" in refusal(tmp_path / "plain.pkl")[0]
    assert "no file" in refusal(tmp_path / "nowhere")[0]
    assert "config.json" in refusal(tmp_path)[0]


def test_a_trigger_that_must_be_learnt_is_refused(bench, tmp_path):
    victim = Imported(saved(tmp_path, bench.state_dict()))
    victim.check(Blended(0.1, 0), NARROW)
    with pytest.raises(ConfigError, match="attack=lc must train"):
        victim.check(LC.__new__(LC), NARROW)


def test_what_was_read_is_plain_text(bench, tmp_path):
    said = inspect(saved(tmp_path, bench.state_dict()))
    assert json.loads(json.dumps(said))["shapes"]["conv1.weight"] == [16, 3, 3, 3]


def answers(order, share=1.0, each=10):
    """Of each class, `each` images; of these a share is answered as `order` says, others as 0."""
    labels = torch.arange(len(order)).repeat(each)
    given = torch.tensor(order)[labels]
    given[torch.arange(len(labels)) >= share * len(labels)] = 0
    return given, labels


def test_another_order_of_the_classes_is_recognised():
    assert meant_order(*answers([0, 1, 2, 3]), 4) is None
    assert meant_order(*answers([2, 0, 1, 3]), 4) == [1, 2, 0, 3]
    assert meant_order(*answers([2, 0, 1, 3], share=0.8), 4) == [1, 2, 0, 3]
    assert meant_order(*answers([1, 0, 2, 3]), 4) == [1, 0, 2, 3]


def test_a_bad_model_has_no_other_order():
    assert meant_order(*answers([0, 0, 0, 0]), 4) is None
    assert meant_order(*answers([2, 0, 1, 3], share=0.4), 4) is None
    assert meant_order(*answers([2, 0, 1, 3], each=2), 4) is None
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 4
    assert meant_order(torch.randint(0, 4, (40,), generator=draw), labels, 4) is None
