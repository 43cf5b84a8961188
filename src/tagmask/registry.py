"""The methods there are: the listing of ``recipes/`` is the registry, read without importing a recipe (or torch)."""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tagmask.errors import OptionError, did_you_mean

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Method:
    """One recipe: its name, and what its docstring says of it."""

    name: str
    title: str  # "SEC - seed with sure cues, ..."
    paper: str
    extra_supervision: str
    options: tuple[tuple[str, str, str], ...]  # (name, default as written, what it is)

    @property
    def path(self) -> Path:
        """The recipe's file."""
        return FOLDER / f"{self.name}.py"

    def load(self) -> tuple[type[Any], Callable[..., Any]]:
        """Import the recipe and return its ``Options`` and its ``run``."""
        module = import_module(f"tagmask.recipes.{self.name}")
        return module.Options, module.run


def methods() -> tuple[Method, ...]:
    """Return all methods, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)]))
    return tuple(_read(FOLDER / f"{name}.py") for name in names)


def find_method(name: str) -> Method:
    """Return the method of that name; raises OptionError naming the ones there are."""
    names = [module.name for module in pkgutil.iter_modules([str(FOLDER)])]
    if name not in names:
        known = ", ".join(sorted(names))
        raise OptionError(f"method {name!r} is not known{did_you_mean(name, names)}; expected one of: {known}.")
    return _read(FOLDER / f"{name}.py")


def _read(path: Path) -> Method:
    """Read a recipe's head: title, reference, then ``Extra supervision`` and the fields of ``Options``."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    title, _, rest = (ast.get_docstring(tree) or "").partition("\n\n")
    paper, _, facts = rest.partition("\nExtra supervision")
    return Method(
        name=path.stem,
        title=" ".join(title.split()),
        paper=" ".join(paper.split()),
        extra_supervision=facts.partition("\n")[0].strip(),
        options=options_in(source),
    )


def options_in(source: str) -> tuple[tuple[str, str, str], ...]:
    """Return name, default and comment of each field of the class ``Options`` in a module's source."""
    found, tree, lines = [], ast.parse(source), source.splitlines()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Options":
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.value is not None:
                    comment = lines[field.lineno - 1].partition("  # ")[2]
                    found.append((field.target.id, ast.unparse(field.value), comment))
    return tuple(found)
