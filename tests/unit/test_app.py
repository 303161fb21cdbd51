"""A finished run is shown again, unless a method of it has changed or the user insists."""

import json

import pytest

from backdoor_lab.app import finished
from backdoor_lab.parts import Parts


@pytest.fixture
def cfg(config):
    return config("attack=badnets", "defense=clp", "aux=none")


def leave(folder, **facts):
    (folder / "result.json").write_text(json.dumps({"purified": {}, **facts}))


def test_a_result_of_the_same_code_is_shown(cfg, tmp_path):
    leave(tmp_path, code=Parts.of(cfg).code(), seed=7)
    assert finished(cfg, tmp_path)["seed"] == 7


@pytest.mark.parametrize("facts", [{"code": "of another day"}, {}])
def test_a_result_of_other_code_is_made_again(cfg, tmp_path, facts):
    leave(tmp_path, **facts)
    assert finished(cfg, tmp_path) is None


def test_force_makes_it_again(cfg, tmp_path):
    leave(tmp_path, code=Parts.of(cfg).code())
    cfg.force = True
    assert finished(cfg, tmp_path) is None


def test_nothing_is_finished_in_an_empty_folder(cfg, tmp_path):
    assert finished(cfg, tmp_path) is None


@pytest.mark.parametrize("choice", ["defense=ft", "aux=reserved", "calibration=gic"])
def test_every_method_of_a_run_is_in_its_code(config, choice):
    common = ("attack=badnets", "defense=clp", "aux=seen")
    assert Parts.of(config(*common)).code() != Parts.of(config(*common, choice)).code()
