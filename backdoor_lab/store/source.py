"""A Python file as text: which statement binds a name, and which names it uses in turn."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path

Symbol = tuple[str, str]  # module, name; an empty name is the module as a whole
DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
PACKAGES = {"site-packages", "dist-packages"}  # of other environments on the path, as clusters have


@dataclass
class Source:
    """A module, parsed and never imported.

    Attributes:
        name: of the module, dotted.
        bound: top-level statements by the names that they bind.
        imported: what a name stands for that comes from elsewhere.
        effects: top-level statements that bind nothing; they act whenever the module is loaded.
    """

    name: str
    bound: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imported: dict[str, Symbol] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)

    @classmethod
    def read(cls, name: str, file: Path) -> Source:
        """Parse `file` as module `name`."""
        source = cls(name)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for statement in ast.parse(file.read_text()).body:
            source._add(statement, package)
        return source

    def _add(self, statement: ast.stmt, package: str) -> None:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                self.imported[alias.asname or whole] = (whole, "")
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                origin = _absolute(statement, package)
                self.imported[alias.asname or alias.name] = (origin, alias.name)
        elif isinstance(statement, ast.If | ast.Try):  # such as TYPE_CHECKING
            for inner in ast.iter_child_nodes(statement):
                if isinstance(inner, ast.stmt):
                    self._add(inner, package)
        else:
            names = _bound_by(statement)
            for name in names:
                self.bound.setdefault(name, []).append(statement)
            if not names and not _is_text(statement):
                self.effects.append(statement)

    def uses(self, statements: list[ast.stmt]) -> Iterator[Symbol]:
        """What `statements` name: symbols of this module, or of those that it imports from."""
        for statement in statements:
            attributes: set[int] = set()
            for node in ast.walk(statement):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    origin = self.imported.get(node.value.id)
                    if origin is not None:
                        attributes.add(id(node.value))
                        yield from _member(origin, node.attr)
                elif isinstance(node, ast.Name) and id(node) not in attributes:
                    yield from self.meant(node.id)

    def meant(self, name: str) -> Iterator[Symbol]:
        """What a name of this module stands for; nothing for built-in and local names."""
        if name in self.bound:
            yield self.name, name
        if name in self.imported:
            yield self.imported[name]


def text_of(statement: ast.stmt) -> str:
    """A statement without comments and docstrings, spelled in one way."""
    bare = ast.parse(ast.unparse(statement))
    for node in ast.walk(bare):
        if isinstance(node, DEFINITION) and _is_text(node.body[0]):
            del node.body[0]
    return ast.unparse(bare)


def find(module: str) -> Path | None:
    """The file of a module, without importing it; None for what is installed or not there."""
    path: list[str] | None = None
    file = Path()
    for depth in range(1, module.count(".") + 2):
        spec = PathFinder.find_spec(".".join(module.split(".")[:depth]), path)
        if spec is None or spec.origin is None or spec.origin in ("built-in", "frozen"):
            return None
        path, file = list(spec.submodule_search_locations or []), Path(spec.origin)
    installed = any(str(file).startswith(f"{folder}/") for folder in INSTALLED)
    installed |= not PACKAGES.isdisjoint(file.parts)
    standard = module.partition(".")[0] in sys.stdlib_module_names
    return None if installed or standard or file.suffix != ".py" else file


def _absolute(statement: ast.ImportFrom, package: str) -> str:
    if not statement.level:
        return statement.module or ""
    base = package.split(".")[: len(package.split(".")) - statement.level + 1]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def _member(origin: Symbol, name: str) -> Iterator[Symbol]:
    """`x.name` where x is imported: of a module its symbol, of anything else the thing itself."""
    module, symbol = origin
    yield origin if symbol else (module, name)
    if symbol:
        yield f"{module}.{symbol}", name


def _bound_by(statement: ast.stmt) -> list[str]:
    if isinstance(statement, DEFINITION):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    nodes = [node for target in targets for node in ast.walk(target)]
    return [node.id for node in nodes if isinstance(node, ast.Name)]


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
