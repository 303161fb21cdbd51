"""What lies in a folder is told behind links too, whatever else lies there."""

import pytest

from backdoor_lab.datasets.files import image_files
from backdoor_lab.digests import files_below, folder_digest, state_below


@pytest.fixture
def subset(tmp_path):
    """A folder whose class folder is a link; beside it what no walk may stumble over."""
    for kind in ("siamese", "persian"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a.png").write_bytes(kind.encode())
    folder = tmp_path / "subset"
    folder.mkdir()
    (folder / "cat").symlink_to(tmp_path / "siamese")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    (folder / "itself").symlink_to("itself")
    (tmp_path / "siamese" / "back").symlink_to(folder)
    return folder


def digest_of(folder):
    folder_digest.cache_clear()
    return folder_digest(str(folder))


def test_a_walk_follows_links_and_ends(subset):
    found = [str(file.relative_to(subset)) for file in files_below(subset)]
    assert found == ["cat/a.png", "gone.png", "itself"]


def test_two_links_to_one_folder_are_two_classes(subset):
    (subset / "kitten").symlink_to(subset.parent / "siamese")
    assert {file.parent.name for file in files_below(subset)} >= {"cat", "kitten"}


def test_the_order_is_that_of_sorted_paths(tmp_path):
    for name in ("b/a.png", "b.png", "b-/a.png", "B.png", "b/a/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths = list(files_below(tmp_path))
    assert paths == sorted(paths)
    assert len(paths) == 5


def test_other_images_behind_a_link_are_another_folder(subset):
    before = digest_of(subset)
    (subset / "cat").unlink()
    (subset / "cat").symlink_to(subset.parent / "persian")
    assert digest_of(subset) != before


def test_images_that_change_behind_a_link_change_the_state(subset):
    before = state_below(subset)
    assert state_below(subset) == before
    (subset.parent / "siamese" / "a.png").write_bytes(b"a longer one")
    assert state_below(subset) != before


def test_what_is_told_is_what_is_read(subset):
    read = image_files(subset)
    assert subset / "cat" / "a.png" in read
    assert subset / "gone.png" in read  # and refused by name, when it is decoded
