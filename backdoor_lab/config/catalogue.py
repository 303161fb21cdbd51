"""Every name that can be typed, for `--help`."""

from __future__ import annotations

from pathlib import Path

from backdoor_lab.config.places import CONF


def catalogue() -> str:
    """Every name of every group with the first line of its file."""
    lines = []
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        group = folder.name.removesuffix("_data")
        lines.append(f"\n{group}")
        for file in sorted(folder.glob("[!_]*.yaml")):
            lines.append(f"  {group}={file.stem:<24}{first_comment(file)}")
    return "\n".join(lines)


def first_comment(file: Path) -> str:
    """The first comment line of a yaml that is no directive."""
    return next(iter(comments(file)), "")


def comments(file: Path) -> list[str]:
    """The comment lines of a yaml that are no directive and stand before its keys."""
    found = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("# ") and not line.startswith("# @package"):
            found.append(line.removeprefix("# "))
    return found
