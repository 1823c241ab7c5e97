"""The structure of the package: imports point downwards, and importing it stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import holderjax

PACKAGE = Path(holderjax.__file__).parent
# A part may import the parts of lower floors, and itself.
FLOORS = {
    **{"pooling": 0, "naming": 0, "files": 0, "device": 0},
    **{"networks": 1, "likelihoods": 1},
    **{"models": 2, "data": 2},
    "training": 3,
    "evaluation": 4,
    "cli": 5,
}
# Flax itself imports rich.
HEAVY = (
    *("matplotlib", "sklearn", "skimage", "tensorboardX", "orbax.checkpoint", "PIL"),
    *("scipy.io", "tensorflow_datasets"),
)


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """The parts of holderjax that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {part_of(a.name) for a in node.names if a.name.startswith("holderjax.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("holderjax"):
            part = part_of(node.module or "")
            found |= {part} if part else {alias.name for alias in node.names}
    return found


def test_imports_point_downwards():
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part == "__init__":
            assert imports(path) == set()
            continue
        for other in imports(path) - {part}:
            assert FLOORS[other] < FLOORS[part], f"{path} imports {other}"


def test_importing_models_loads_no_data_library_no_plotting_and_no_logger():
    code = f"import sys, holderjax.models; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
