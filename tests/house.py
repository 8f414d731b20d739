"""The house: the packages of `patchnet_tf` by floors, what imports what, and a picture of it.

.venv/bin/python -m tests.house docs/house.png
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

ROOT = Path(__file__).parents[1]

# From the ground up, and on each floor from left to right: a package imports only from those before it.
FLOORS = {
    "ground": {
        "errors": "what can go wrong, in one line",
        "files": "whole files or none",
        "progress": "how far a task is",
        "contract": "what an exported file promises",
        "config": "the schema of configs/*.yaml",
        "images": "pixels in and out",
    },
    "models": {
        "model": "PatchNet, its layers and its heatmap",
        "baselines": "the paper's other networks and maps",
    },
    "work": {
        "data": "data sets, read and checked",
        "training": "from a configuration to a trained run",
        "evaluation": "how good a run and its maps are",
    },
    "delivery": {
        "serving": "exported files, without TensorFlow",
        "export": "exported files, proved when written",
    },
    "use": {
        "reporting": "charts and pages",
        "studies": "several runs, compared",
        "cli": "the command",
    },
}
PACKAGES = [package for floor in FLOORS.values() for package in floor]
PLACES = {"": "patchnet_tf", "export": "export", "serving": "serving"}  # packages' folders in the checkout
WIDTH, HEIGHT = 2.1, 0.75  # of a box in the picture


def modules() -> dict[str, Path]:
    """Return the file of each module, by its name below `patchnet_tf`, which itself is ""."""
    files = {}
    for package, folder in PLACES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            files[".".join(part for part in parts if part not in ("", "__init__"))] = path
    return files


def imports() -> dict[str, set[str]]:
    """Return the modules of ours that each module imports, anywhere in its file."""
    files = modules()
    return {name: set(imported(name, path, files)) - {name} for name, path in files.items()}


def imported(name: str, path: Path, files: dict[str, Path]) -> Iterator[str]:
    """Give the modules of ours that a file imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "patchnet_tf":
                    yield alias.name.partition(".")[2]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                above = package.split(".")[: -(node.level - 1) or None] if package else []
                start = ".".join(filter(None, [*above, node.module]))
            elif (node.module or "").partition(".")[0] == "patchnet_tf":
                start = node.module.partition(".")[2]
            else:
                continue
            for alias in node.names:  # a module, or a name in one
                below = f"{start}.{alias.name}".lstrip(".")
                yield below if below in files else start


def imports_by_string() -> list[str]:
    """Return where modules, except `__init__.py`, import our own by a string, or by one that is computed."""
    places = []
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if path.name == "__init__.py" or not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__"):
                name = node.args[0].value if isinstance(node.args[0], ast.Constant) else "."
                if name.startswith((".", "patchnet_tf")):
                    places.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return places


def between_packages() -> set[tuple[str, str]]:
    """Return which package imports from which."""
    pairs = ((a.partition(".")[0], b.partition(".")[0]) for a, of_a in imports().items() for b in of_a)
    return {(above, below) for above, below in pairs if above != below and above}


def draw(path: Path) -> None:
    """Draw floors as rows, packages as boxes, imports as arrows: grey if others imply it, red if wrong."""
    edges = between_packages()
    reached = {}  # by each package, through those that it imports
    for package in PACKAGES:
        below = {b for a, b in edges if a == package}
        reached[package] = below.union(*(reached.get(b, set()) for b in below))
    wide = 1.4 + 1.1 * WIDTH * max(map(len, FLOORS.values()))
    figure = Figure(figsize=(wide, 10), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, wide), ylim=(0, 10))
    axes.axis("off")
    place = {}
    for level, (floor, packages) in enumerate(FLOORS.items()):
        bottom = 0.45 + 1.9 * level
        axes.axhspan(bottom, bottom + 1.7, color=("#eef3f7", "#f7f3ee")[level % 2], zorder=0)
        axes.text(0.2, bottom + 0.5, floor, style="italic", fontsize=12)
        for number, (package, sentence) in enumerate(packages.items()):
            x, y = 1.4 + (wide - 1.4) * (number + 0.5) / len(packages), bottom + 0.55
            place[package] = x, y
            corner = (x - WIDTH / 2, y - HEIGHT / 2)
            box = Rectangle(corner, WIDTH, HEIGHT, facecolor="white", edgecolor="#333333", zorder=3)
            axes.add_patch(box)
            axes.text(x, y + 0.05, package, ha="center", weight="bold", fontsize=12, zorder=4)
            axes.text(x, y - 0.22, sentence, ha="center", fontsize=7.5, zorder=4)

    def end(package: str, other: str, others: set[str]) -> float:
        """Spread the arrows of one side of a box, in the order of what is at their other ends."""
        ranked = sorted(others, key=place.get)
        return place[package][0] + WIDTH * ((ranked.index(other) + 1) / (len(ranked) + 1) - 0.5)

    for above, below in edges:
        level = place[above][1] == place[below][1]
        from_above = {a for a, b in edges if b == below}
        side = {b for a, b in edges if a == above and (place[a][1] == place[b][1]) == level}
        start = end(above, below, side), place[above][1] + (HEIGHT if level else -HEIGHT) / 2
        stop = end(below, above, from_above), place[below][1] + HEIGHT / 2
        implied = any(below in reached[b] for a, b in edges if a == above)
        bend = 1.2 / abs(start[0] - stop[0]) if level else 0
        wrong = PACKAGES.index(above) < PACKAGES.index(below)
        arrow = FancyArrowPatch(
            start,
            stop,
            arrowstyle="-|>",
            connectionstyle=f"arc3,rad={-bend if wrong else bend}",
            mutation_scale=12,
            color="red" if wrong else "#b8b8b8" if implied else "#1f5f8b",
            linewidth=0.8 if implied else 1.8,
            shrinkA=0,
            shrinkB=0,
            zorder=1 if implied else 2,
        )
        axes.add_patch(arrow)
    note = "An arrow is an import. Grey: also imported, but reached through another package already."
    axes.text(0.2, 0.15, note, fontsize=9, color="#333333")
    FigureCanvasAgg(figure).print_png(path)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
