"""The house stands as CONTRIBUTING.md says: arrows point down, every library has its home, files are small and documented."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = sorted((ROOT / "ldm").rglob("*.py"))


def test_import_contracts():
    script = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([str(script), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_names_have_docstrings_and_files_are_small(file):
    text = file.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is for"
    assert len(text.splitlines()) < 320
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_ruff_and_mypy_are_content():
    for arguments in (["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."], ["-m", "mypy"]):
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def classes_of(file):
    """The public classes that a module defines; not those that nobody makes by choosing values: protocols, tuples, errors."""
    module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    found = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
    return [value for value in found if not value.__name__.startswith("_") and not _is_record(value)]


def _is_record(value):
    return issubclass(value, (tuple, Exception)) or getattr(value, "_is_protocol", False)


def told(parameter, texts):
    """Whether docstrings name a parameter, or its type does: a class of ours that is called as the parameter is."""
    ours = re.findall(r"\b[A-Z]\w+", str(parameter.annotation))
    same = parameter.name.replace("_", "") in [name.lower() for name in ours if name in PUBLIC]
    return same or any(re.search(rf"\b{parameter.name}\b", text) for text in texts)


PUBLIC = {value.__name__: value for file in SOURCES if file.stem != "__main__" for value in classes_of(file)}


@pytest.mark.parametrize("file", [file for file in SOURCES if file.stem != "__main__"], ids=lambda path: path.stem)
def test_docstrings_of_classes_name_their_parameters(file):
    """In the class, in a base class of ours, or where it says that its options are "those of" another class."""
    for value in classes_of(file):
        texts = [inspect.cleandoc(base.__doc__ or "") for base in value.__mro__ if base.__module__.startswith("ldm.")]
        texts += [PUBLIC[name].__doc__ for name in re.findall(r"those of (\w+)", texts[0]) if name in PUBLIC]
        named = [
            parameter
            for parameter in inspect.signature(value).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]
        assert [parameter.name for parameter in named if not told(parameter, texts)] == [], value.__name__
