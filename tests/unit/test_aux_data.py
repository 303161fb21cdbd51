from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from backdoor_lab.aux_data._fonts import fonts_with
from backdoor_lab.aux_data.brightness import Brightness, brighten
from backdoor_lab.aux_data.external import External
from backdoor_lab.aux_data.none import NoAuxiliary
from backdoor_lab.aux_data.reserved import Reserved
from backdoor_lab.aux_data.seen import Seen
from backdoor_lab.aux_data.synthetic import Synthetic
from backdoor_lab.datasets import Data, ImageSet
from backdoor_lab.datasets.digits import Digits
from backdoor_lab.errors import ConfigError
from backdoor_lab.seeds import derive

NONE = torch.empty(0, dtype=torch.int64)


@pytest.fixture(scope="module")
def data() -> Data:
    return Digits(
        paper=0.4,
        ink=0.25,
        name="digits",
        image_size=32,
        num_classes=10,
        mean=(0.5,),
        std=(0.1,),
        padding=2,
        flip=False,
        split_seed=0,
        reserved=0.05,
        reserved_from="train",
        limit_train=None,
        limit_test=None,
        root=None,
        cache=Path("unused"),
    ).load()


def external(folder=None, ratio=0.15, size=None, labelled=True, **options):
    options |= {"ratio": ratio, "size": size, "labelled": labelled}
    return External(folder, "cifar10", 4, 8, **options)


def synthetic(folder=None, ratio=0.15, size=None, labelled=True, **options):
    return Synthetic(folder, 20, 5, ratio=ratio, size=size, labelled=labelled, **options)


def brightness(ratio=0.03, size=None):
    return Brightness(0.5, ratio=ratio, size=size)


def whole(kind, data, poisoned=NONE):
    """Every image of a kind, and its label."""
    pool = kind.pool(data, poisoned, 0)
    return ImageSet.of(pool.read(torch.arange(len(pool))), pool.labels)


def kinds():
    return [
        Seen(0.05),
        Reserved(0.03),
        brightness(),
        synthetic(),
        external(),
    ]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: type(kind).__name__.lower())
def test_drawn_to_size_and_by_seed(kind, data):
    kind.check()
    drawn = kind.draw(data, NONE, 0)
    assert drawn.kind == type(kind).__name__.lower()
    assert len(drawn.data) == round(kind.ratio * len(data.train))
    assert drawn.data.images.shape[1:] == data.spec.shape
    assert torch.equal(drawn.data.images, kind.draw(data, NONE, 0).data.images)
    assert not torch.equal(drawn.data.images, kind.draw(data, NONE, 1).data.images)
    assert sum(drawn.details["per_class"]) == len(drawn.data)


def test_none_holds_nothing(data):
    kind = NoAuxiliary()
    kind.check()
    assert kind.draw(data, NONE, 0).images is None
    assert len(kind.pool(data, NONE, 0)) == 0


def keys(images):
    return {image.numpy().tobytes() for image in images}


def test_seen_draws_clean_originals_unless_they_are_left_out(data):
    poisoned = torch.arange(0, len(data.train), 2)
    assert len(Seen(0.05).pool(data, poisoned, 0)) == len(data.train)
    kept = whole(Seen(0.05, poisoned="left_out"), data, poisoned)
    assert torch.equal(kept.images, data.train.images[1::2])


def test_a_clean_label_attack_leaves_seen_its_target_class(data, caplog):
    target = (data.train.labels == 3).nonzero().flatten()
    drawn = Seen(0.1).draw(data, target, 0)
    share = len(target) / len(data.train) * len(drawn.data)
    assert abs(drawn.details["per_class"][3] - share) <= 1
    assert not caplog.records
    drawn = Seen(0.1, poisoned="left_out").draw(data, target, 0)
    assert drawn.details["per_class"][3] == 0
    assert [record.message for record in caplog.records] == [
        "aux.poisoned=left_out keeps less than half of the share of class 3"
    ]


def test_a_generator_learns_the_target_class_of_a_clean_label_attack(data):
    target = (data.train.labels == 3).nonzero().flatten()
    assert synthetic().draw(data, target, 0).details["per_class"][3] > 10
    left_out = synthetic(poisoned="left_out").draw(data, target, 0)
    assert left_out.details["per_class"][3] == 0
    assert len(left_out.data) == round(0.15 * len(data.train))


@pytest.mark.parametrize("kind", [Seen(0.05), Reserved(0.03)], ids=["seen", "reserved"])
def test_nothing_else_can_be_reached_through_an_auxiliary_set(kind, data):
    drawn = kind.draw(data, NONE, 0).data
    assert len(drawn.store) == len(drawn)
    assert drawn.store.untyped_storage().nbytes() == drawn.nbytes
    assert drawn.paint is None


def test_a_size_is_a_share_of_the_split_or_of_the_original_set(data):
    assert len(Seen(0.05).draw(data, NONE, 0).data) == round(0.05 * len(data.train))
    assert len(Seen(0.05, ratio_base="original").draw(data, NONE, 0).data) == round(0.05 * 1437)
    assert len(Seen(0.05, 7, ratio_base="original").draw(data, NONE, 0).data) == 7


def test_as_many_of_each_class(data):
    assert Seen(0.5, per_class=3).draw(data, NONE, 0).details["per_class"] == [3] * 10
    assert len(Seen(0.5, per_class=3, size=7).draw(data, NONE, 0).data) == 7
    assert synthetic(per_class=300).draw(data, NONE, 0).details["per_class"] == [300] * 10
    with pytest.raises(ConfigError, match=r"aux\.per_class=500 .*allowed: 1 to \d+$"):
        Seen(0.5, per_class=500).foresee(data, NONE, 0)


@pytest.mark.parametrize("make", [Seen, Reserved, external, synthetic])
def test_some_classes(make, data):
    counts = make(ratio=0.01, classes=(0, 3)).draw(data, NONE, 0).details["per_class"]
    assert [label for label, count in enumerate(counts) if count] == [0, 3]
    taken = [
        tuple(make(ratio=0.02, classes=4).draw(data, NONE, seed).data.labels.unique().tolist())
        for seed in (0, 0, 1, 2)
    ]
    assert [len(labels) for labels in taken] == [4] * 4
    assert taken[0] == taken[1]
    assert len(set(taken)) > 1


@pytest.mark.parametrize("classes", [11, (3, 10)])
def test_classes_that_are_not_there_are_refused(classes, data):
    with pytest.raises(ConfigError, match=r"aux\.classes=.*allowed"):
        Seen(0.05, classes=classes).foresee(data, NONE, 0)


def test_a_draw_has_a_seed_of_its_own(data):
    own, same, other = (Seen(0.05, seed=1), 1), (Seen(0.05), 1), (Seen(0.05, seed=2), 1)
    drawn = [kind.draw(data, NONE, seed).data.images for kind, seed in (own, same, other)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    seeds = []
    kind = Seen(0.05)
    kind.pool = lambda data, poisoned, seed: seeds.append(seed) or Seen.pool(kind, data, NONE, 0)
    kind.draw(data, NONE, 1)
    assert seeds == [derive(1, "aux")]


def test_what_a_data_set_brings_is_external(data):
    elsewhere = data.train.take(torch.arange(300))
    drawn = external().draw(replace(data, elsewhere=elsewhere), NONE, 0)
    assert keys(drawn.data.images) <= keys(elsewhere.images)


def test_reserved_is_disjoint_from_training(data):
    drawn = Reserved(0.03).draw(data, NONE, 0)
    assert keys(drawn.data.images) <= keys(data.reserved.images)
    assert keys(drawn.data.images).isdisjoint(keys(data.train.images))


def test_brightness_keeps_labels_and_bounds_the_ratio(data):
    pool = whole(brightness(), data)
    assert torch.equal(pool.labels, data.reserved.labels)
    before, after = data.reserved.images.float(), pool.images.float()
    ratio = (after / before).flatten(1)
    assert ratio.max() <= 1.5
    assert ratio.min() >= 0.5 - 1 / 100
    assert ratio.mean(1).std() > 0.2


def test_brighten_clamps_and_truncates():
    images = torch.tensor([200, 101, 0], dtype=torch.uint8).view(1, 1, 1, 3)
    assert brighten(images, torch.tensor([1.5])).flatten().tolist() == [255, 151, 0]
    assert torch.equal(brighten(images, torch.tensor([1.0])), images)


def test_generated_images_keep_class_and_levels(data):
    pool = whole(synthetic(), data)
    means = torch.stack(
        [data.train.images[data.train.labels == c].float().mean(0) for c in range(10)]
    ).flatten(1)
    nearest = torch.cdist(pool.images.float().flatten(1), means).argmin(1)
    assert (nearest == pool.labels).float().mean() > 0.85
    assert pool.images.min() >= data.train.images.min()
    assert pool.images.max() <= data.train.images.max()


def test_generator_may_make_more_than_it_saw(data):
    assert len(synthetic(ratio=None, size=2000).draw(data, NONE, 0).data) == 2000


def test_fonts_that_print_digits():
    names = {path.stem for path in fonts_with(tuple("0123456789"))}
    assert len(names) >= 20
    assert names.isdisjoint({"LastResortHE-Regular", "cmex10", "cmsy10", "STIXNonUni"})


def test_printed_digits_are_many_and_grey_alike(data):
    pool = whole(external(), data)
    assert len(pool) >= 400
    assert len(pool.images.flatten(1).unique(dim=0)) > 0.9 * len(pool)
    assert pool.images.min() == data.train.images.min()
    assert pool.images.max() == data.train.images.max()


def write(folder, name, count, size=8):
    (folder / name).mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (size, size), (10 * number, 0, 255)).save(folder / name / f"{number}.png")


@pytest.fixture
def photographs(data):
    spec = replace(data.spec, name="pets", classes=("Cat", "dog", "owl"))
    labels = data.train.labels % 3
    return replace(data, spec=spec, train=ImageSet.of(data.train.images, labels))


@pytest.mark.parametrize("kind", [external, synthetic])
def test_folders_are_matched_by_name(kind, photographs, tmp_path, caplog):
    write(tmp_path, "DOG", 3)
    write(tmp_path, "cat", 2)
    write(tmp_path, "fish", 4)
    drawn = kind(tmp_path, ratio=None, size=5).draw(photographs, NONE, 0)
    assert drawn.data.labels.tolist() == [0, 0, 1, 1, 1]
    assert drawn.data.images.shape == (5, 3, 32, 32)
    assert drawn.data.images[1, :, 0, 0].tolist() == [10, 0, 255]
    assert drawn.details["missing"] == ["owl"]
    assert len(caplog.records) == 1
    assert "owl" in caplog.text


def test_excluded_and_hidden_files_are_left_out(photographs, tmp_path):
    write(tmp_path, "cat", 3)
    (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / "cifar10-train-1.png")
    (tmp_path / "cat" / "._0.png").write_bytes(b"what macOS leaves")
    assert whole(external(tmp_path), photographs).images[:, 0, 0, 0].tolist() == [0, 20]


@pytest.mark.parametrize("kind", [external, synthetic])
def test_unlabelled_folders_need_no_names(kind, photographs, tmp_path):
    write(tmp_path, "anything", 3)
    Image.new("L", (40, 20)).save(tmp_path / "flat.png")
    drawn = kind(tmp_path, ratio=None, size=4, labelled=False).draw(photographs, NONE, 0)
    assert not drawn.labelled
    assert drawn.data.labels.tolist() == [0] * 4


def empty(data):
    return replace(data, reserved=data.train.take(NONE))


def test_what_is_left_out_is_foreseen(data):
    target = (data.train.labels == 3).nonzero().flatten()
    with pytest.raises(ConfigError, match=r"aux\.per_class"):
        Seen(0.1, per_class=2, poisoned="left_out").foresee(data, target[1:], 0)
    with pytest.raises(ConfigError, match="leaves no image"):
        Seen(0.1, poisoned="left_out").foresee(data, torch.arange(len(data.train)), 0)
    many = synthetic(poisoned="left_out", size=2 * len(data.train), ratio=None)
    assert many.foresee(data, target, 0) == 2 * len(data.train)  # a generator makes more


def test_leaving_out_nothing_is_said(data, caplog):
    Seen(0.1, poisoned="left_out").draw(data, NONE, 0)
    assert "leaves nothing out" in caplog.text


REFUSED = {
    "no folder": (lambda folder: external(), r"paths\.external=null"),
    "gone": (lambda folder: external(folder / "gone"), r"paths\.external=.*gone is no folder"),
    "no class": (lambda folder: external(folder), "fish.*Cat, dog, owl"),
    "no image": (lambda folder: external(folder / "none", labelled=False), "holds no image"),
    "folder too small": (lambda folder: synthetic(folder, None, 9, False), "allowed: 1 to 2,"),
    "seen too small": (lambda folder: Seen(size=10**6), "allowed: 1 to 13"),
    "nothing reserved": (lambda folder: Reserved(0.1), r"dataset\.reserved=0.*aux=reserved"),
    "nothing to brighten": (lambda folder: brightness(), "aux=brightness"),
    "less than an image": (lambda folder: synthetic(ratio=1e-9), "means 0 image.*1 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_foreseen(case, photographs, tmp_path):
    write(tmp_path, "fish", 2)
    (tmp_path / "none").mkdir()
    kind, sentence = REFUSED[case]
    with pytest.raises(ConfigError, match=sentence):
        kind(tmp_path).foresee(empty(photographs), NONE, 0)


def test_a_share_is_what_the_split_of_whole_images_left_of_it(data):
    held = len(data.reserved)
    ratio = (held + 1) / data.original  # one image more than the classes could give
    assert len(Reserved(ratio, ratio_base="original").draw(data, NONE, 0).data) == held
    with pytest.raises(ConfigError, match="allowed: 1 to"):
        Reserved((held + 10) / data.original, ratio_base="original").foresee(data, NONE, 0)


def test_a_reserved_part_bounds_the_size(data):
    brightness(None, len(data.reserved)).foresee(data, NONE, 0)
    with pytest.raises(ConfigError, match=f"allowed: 1 to {len(data.reserved)},"):
        Reserved(size=len(data.reserved) + 1).foresee(data, NONE, 0)


def test_nothing_is_foreseen_for_nothing(photographs):
    NoAuxiliary().foresee(photographs, NONE, 0)


def test_foreseeing_reads_no_image_and_makes_none(photographs, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        pytest.fail("too dear")

    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr("backdoor_lab.aux_data.synthetic.sample", refuse)
    synthetic().foresee(photographs, NONE, 0)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").touch()
    external(tmp_path, None, 1).foresee(photographs, NONE, 0)


def test_only_the_images_that_are_drawn_are_decoded(photographs, tmp_path, monkeypatch):
    write(tmp_path, "cat", 20)
    write(tmp_path, "dog", 20)
    opened = []
    plain = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file) or plain(file))
    external(tmp_path, ratio=None, size=6).draw(photographs, NONE, 0)
    assert len(opened) == 6


@pytest.mark.parametrize("key", ["classes", "per_class"])
def test_unlabelled_images_without_folders_have_no_classes_to_choose(tmp_path, key):
    with pytest.raises(ConfigError, match=rf"aux\.{key}=2.*no sub-folder"):
        external(tmp_path, labelled=False, **{key: 2}).check()
    external(labelled=False, **{key: 2}).check()


def test_unlabelled_images_are_drawn_from_so_many_folders_and_no_label_is_told(
    photographs, tmp_path
):
    for number, name in enumerate(("n01", "n02", "n03")):  # of other classes than the data set's
        (tmp_path / name / "images").mkdir(parents=True)
        for one in range(4):
            picture = Image.new("RGB", (32, 32), (80 * number, one, 0))
            picture.save(tmp_path / name / "images" / f"{one}.png")
    kind = external(tmp_path, labelled=False, ratio=None, classes=2, per_class=3)
    kind.check()
    drawn = kind.draw(photographs, NONE, 0)
    assert sorted(drawn.data.images[:, 0, 0, 0].unique(return_counts=True)[1].tolist()) == [3, 3]
    assert drawn.data.labels.tolist() == [0] * 6
    assert drawn.details["per_class"] is None
    with pytest.raises(ConfigError, match=r"aux\.classes=4; allowed: 1 to 3"):
        external(tmp_path, labelled=False, ratio=None, classes=4, per_class=3).foresee(
            photographs, NONE, 0
        )


def test_a_damaged_image_is_named(photographs, tmp_path):
    write(tmp_path, "cat", 2)
    (tmp_path / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(
        ConfigError, match=r"paths\.external holds .*1\.png, which cannot be decoded"
    ):
        external(tmp_path, None, 2).draw(photographs, NONE, 0)


def test_a_folder_that_is_not_there_is_refused_before_data_loads(tmp_path):
    with pytest.raises(ConfigError, match=r"paths\.synthetic=.*absent is no folder"):
        synthetic(tmp_path / "absent").check()
