"""Batches: order, crops and streams."""

import torch

from backdoor_lab.datasets import ImageSet, evenly, stratified, without
from backdoor_lab.training import Batches, CropFlip
from backdoor_lab.training.augment import crop_flip
from backdoor_lab.training.batches import Streamed, whole


def everything(batches):
    parts = list(batches)
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def test_an_epoch_shows_every_image_once(images):
    seen, labels = everything(Batches(images, 16, seed=3))
    assert len(seen) == len(images)
    assert torch.equal(labels.sort().values, images.labels.sort().values)
    assert seen.min() >= 0
    assert seen.max() <= 1


def test_epochs_differ_and_repeat_by_number(images):
    batches = Batches(images, 16, seed=3, augment=CropFlip(2, True))
    first, second = everything(batches)[0], everything(batches)[0]
    assert not torch.equal(first, second)
    batches.sampler.set_epoch(0)
    assert torch.equal(everything(batches)[0], first)


def test_streams_show_what_resident_sets_show(images):
    options = {"seed": 1, "augment": CropFlip(2, True)}
    resident, labels = everything(Batches(images, 16, **options))
    streamed = Streamed(images, 16, device=torch.device("cpu"), **options)
    streamed.workers = 0
    assert torch.equal(everything(streamed)[0], resident)
    streamed.set_epoch(0)
    assert torch.equal(everything(streamed)[1], labels)


def test_a_last_batch_of_one_is_dropped_in_training_alone(images):
    some = images.take(torch.arange(33))
    assert [len(labels) for _, labels in Batches(some, 16)] == [16, 16]
    assert sum(len(part) for part, _ in whole(Batches(some, 16, shuffle=False))) == 33


def test_every_crop_is_a_window_of_the_padded_image():
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    shifted = crop_flip(image, torch.tensor([[0, 1, 0]]), padding=1)
    assert shifted[0, 0].tolist() == [[0, 0, 0, 0], *image[0, 0, :3].tolist()]
    flipped = crop_flip(image, torch.tensor([[1, 1, 1]]), padding=1)
    assert torch.equal(flipped, image.flip(3))


def test_crop_geometry_of_a_corner_patch():
    """Padding 4 on 32 pixels: a 3x3 corner patch is whole in 25, gone in 32 of 81 crops."""
    image = torch.zeros(81, 1, 32, 32)
    image[..., 29:, 29:] = 1
    offsets = torch.cartesian_prod(torch.arange(9), torch.arange(9))
    views = crop_flip(image, torch.cat([offsets, torch.zeros(81, 1).long()], 1), 4)
    visible = views.flatten(1).sum(1)
    assert (visible == 9).sum() == 25
    assert (visible == 0).sum() == 32


def test_painted_rows_leave_the_store_alone(images):
    before = images.images.clone()
    paint = torch.full((2, *images.shape), 7, dtype=torch.uint8)
    painted = images.overwrite(torch.tensor([4, 9]), paint, torch.tensor([1, 1]))
    assert torch.equal(images.images, before)
    assert (painted.take(torch.tensor([9, 4])).images == 7).all()
    assert torch.equal(painted.images[:4], before[:4])
    assert isinstance(painted.to(torch.device("cpu")), ImageSet)


def test_stratified_takes_the_same_share_of_each_class(images):
    chosen = stratified(images.labels, 0.5, torch.Generator().manual_seed(0))
    assert images.labels[chosen].bincount().tolist() == [3] * 10


def test_positions_left_and_positions_spread():
    assert without(5, torch.tensor([3, 0])).tolist() == [1, 2, 4]
    assert evenly(9, 3).tolist() == [0, 4, 8]
    assert evenly(3, 100).tolist() == [0, 1, 2]
    assert len(evenly(0, 5)) == 0
