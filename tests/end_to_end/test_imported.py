"""The command that a person types who was handed a model, twice."""

import torch

from tests.end_to_end.test_command_line import lab, results
from tests.strangers import image_folder, torchvision_resnet


def test_a_stranger_s_model_is_purified_and_handed_back(tmp_path):
    torch.save(torchvision_resnet().state_dict(), tmp_path / "model.pt")
    images = image_folder(tmp_path / "images")
    arguments = [
        "victim=imported", f"victim.path={tmp_path}/model.pt", "model=resnet18",
        f"dataset.root={images}", "defense=unibp", "aux=folder", "export=model",
        f"paths.outputs={tmp_path}/out", f"paths.cache={tmp_path}/cache", "defense.epochs=1",
    ]  # fmt: skip
    assert "ACC %" in lab(*arguments)
    (result,) = results(tmp_path / "out")
    assert result["victim"]["asr"] is None
    assert result["choices"]["attack"] == "unknown"
    (folder,) = (file.parent for file in (tmp_path / "out").rglob("result.json"))
    assert {file.name for file in (folder / "model").iterdir()} == {
        "README.md", "model.safetensors", "state_dict.pt",
    }  # fmt: skip
    assert (folder / "scores.png").exists()
    assert "finished already" in lab(*arguments)
