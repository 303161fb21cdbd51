"""Which code shaped a number: what an object reaches through names and imports, and no more.

Read from source text, so that a finished run is recognised before torch is loaded, and so that an
addition that nothing uses makes nothing stale. Comments and docstrings do not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from backdoor_lab.store.source import Source, Symbol, find, text_of

PACKAGE = "backdoor_lab"
CARRIERS = (
    "callbacks.fit_progress", "config", "console", "errors", "records", "reports", "run", "store",
    "tracking",
)  # fmt: skip
SILENT = tuple(f"{PACKAGE}.{name}" for name in CARRIERS)  # they carry numbers, and shape none


class Provenance:
    """Digests of code; files are parsed once.

    Args:
        root: the folder that holds the package.
    """

    def __init__(self, root: Path = Path(__file__).parents[2]) -> None:
        self.root = root
        self.sources: dict[str, Source | None] = {}
        self.texts: dict[Symbol, str] = {}
        self.edges: dict[Symbol, list[Symbol]] = {}

    def of(self, config: Any) -> str:
        """A digest of the code behind every name of this project in a plain config.

        Such names are `_target_`s, and architectures that `register_model` tells timm of.
        """
        return self.of_symbols(self.roots(config))

    def of_symbols(self, symbols: Iterable[Symbol]) -> str:
        """A digest of the code that `symbols` reach."""
        seen: set[Symbol] = set()
        waiting = list(symbols)
        while waiting:
            symbol = waiting.pop()
            if symbol not in seen:
                seen.add(symbol)
                waiting += self.reached(symbol)
        texts = sorted(text for symbol in seen if (text := self.texts.get(symbol)))
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]

    def hold(self, modules: Iterable[str]) -> None:
        """Read the source of some modules now, whatever their files become."""
        for module in modules:
            if module.partition(".")[0] == PACKAGE:
                self._source(module)

    def roots(self, config: Any) -> Iterator[Symbol]:
        """The symbols that a plain config names."""
        if isinstance(config, dict | list):
            values = config.values() if isinstance(config, dict) else config
            for value in values:
                yield from self.roots(value)
            if isinstance(config, dict) and isinstance(target := config.get("_target_"), str):
                module, _, name = target.rpartition(".")
                yield module, name
        elif isinstance(config, str) and config in self.architectures:
            yield self.architectures[config], config

    @cached_property
    def architectures(self) -> dict[str, str]:
        """The module of every architecture that this project adds to timm's."""
        folder = self._file(f"{PACKAGE}.models")
        found = {}
        for file in sorted(folder.parent.glob("[!_]*.py")) if folder else []:
            module = f"{PACKAGE}.models.{file.stem}"
            source = self._source(module)
            for name, statements in source.bound.items() if source else []:
                decorators = getattr(statements[0], "decorator_list", [])
                if any(getattr(one, "id", "") == "register_model" for one in decorators):
                    found[name] = module
        return found

    def reached(self, symbol: Symbol) -> list[Symbol]:
        """What a symbol names directly; its own text is noted on the way."""
        if symbol not in self.edges:
            self.edges[symbol] = list(self._look(*symbol))
        return self.edges[symbol]

    def _look(self, module: str, name: str) -> Iterator[Symbol]:
        source = None if module.startswith(SILENT) else self._source(module)
        if source is None:
            return
        if not name:
            yield from ((module, one) for one in source.bound)
            return
        if name in source.imported and name not in source.bound:
            yield source.imported[name]
            return
        if name not in source.bound:  # a submodule, which counts by what is used of it
            return
        statements = [*source.bound[name], *source.effects]
        self.texts[module, name] = "\n".join(map(text_of, statements))
        yield from source.uses(statements)

    def _source(self, module: str) -> Source | None:
        if module not in self.sources:
            file = self._file(module)
            self.sources[module] = Source.read(module, file) if file else None
        return self.sources[module]

    def _file(self, module: str) -> Path | None:
        if module.partition(".")[0] != PACKAGE:
            return find(module)
        path = self.root.joinpath(*module.split("."))
        files = (path / "__init__.py", path.with_suffix(".py"))
        return next((file for file in files if file.is_file()), None)
