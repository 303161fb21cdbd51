"""Draws bad values for every key, and tells how they are refused.

    python -m benchmarks.fuzz --count 1000 --seed 0

A draw is one override, of one key of one name of a group. Nothing is loaded or trained.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import traceback
from collections import Counter

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich import print as show

from backdoor_lab.config import CONF, register
from backdoor_lab.config.choices import refuse_choices
from backdoor_lab.run.gate import UNFIT, gate, one_line
from backdoor_lab.run.parts import Parts

VALUES = ("null", "[]", "[1,2]", "{}", "{a:1}", "''", "nosuch", "true", "-1", "0", "1", "1.5",
          "inf", "-inf", "nan", "1e30", "1e400", "-1e-30", "99999999999", "../../x", "/dev/null",
          "[null]", "[nan]")  # fmt: skip
GROUPS = ("attack", "defense", "aux_data", "calibration", "dataset", "model", "recipe", "trainer",
          "logger", "task", "victim", "protocol")  # fmt: skip
TOP = ("seed", "force", "pictures", "keep_model", "paths.outputs", "paths.cache", "values_for")


def keys(group: str, name: str) -> list[str]:
    """All keys of a name of a group, as they are typed."""
    typed = group.removesuffix("_data")
    node = compose("config", [f"{typed}={name}"])[typed]
    if not OmegaConf.is_config(node):
        return []
    flat: list[str] = []

    def walk(value: object, key: str) -> None:
        flat.append(key)
        for below, one in value.items() if isinstance(value, dict) else ():
            if below != "facts":
                walk(one, f"{key}.{below}")

    walk(OmegaConf.to_container(node), typed)
    return flat


def outcome(overrides: list[str]) -> tuple[str, str]:
    """`refused`, `unnamed`, `traceback` or `accepted`, and what was said."""
    key = overrides[-1].partition("=")[0]
    with tempfile.TemporaryDirectory() as folder:
        places = [f"paths.{one}={folder}" for one in ("outputs", "cache")]
        places = [place for place in places if not place.startswith(key)]
        try:
            refuse_choices(overrides)
            cfg = compose("config", [*places, *overrides], return_hydra_config=True)
            gate(cfg, "sweep.subdir")
            Parts.of(cfg)
        except UNFIT as error:
            said = one_line(error)
            return ("refused" if key in said or key.split(".")[-1] in said else "unnamed"), said
        except Exception:  # noqa: BLE001 - what a user would see as a traceback
            return "traceback", traceback.format_exc(limit=-2)
    return "accepted", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable()
    register()
    draw, counts = random.Random(options.seed), Counter[str]()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        pool: list[tuple[list[str], str]] = [([], key) for key in TOP]
        for group in GROUPS:
            for file in sorted((CONF / group).glob("[!_]*.yaml")):
                typed = f"{group.removesuffix('_data')}={file.stem}"
                pool += [([typed], key) for key in keys(group, file.stem)]
        for _ in range(options.count):
            chosen, key = draw.choice(pool)
            overrides = [*chosen, f"{key}={draw.choice(VALUES)}"]
            kind, said = outcome(overrides)
            counts[kind] += 1
            if kind != "refused":
                show(f"{kind:<10}{' '.join(overrides)}  {said}")
    show(dict(counts))


if __name__ == "__main__":
    main()
