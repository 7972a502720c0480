"""Draws `docs/flow.svg`, the way of the data, with the stages that `pipeline/graph.py` composes.

    python docs/flow.py

All text stands on filled shapes, and what does not is of a grey between: so it can be read on light and dark pages.
Numbers are pixels. The stages are read from the source: nothing of the pipeline is imported.
"""

from __future__ import annotations

import ast
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
GRAPH = HERE.parent / "pipeline" / "graph.py"
PICTURE = HERE / "flow.svg"

# What each stage does. A stage without an entry is an error, so that the picture cannot fall behind the code.
DOES = {
    "ReadManifest": ("check every row,", "the rest to a ledger"),
    "PlanDataset": ("split, label and", "shard of a speaker"),
    "GroupByShard": ("rows to their shard;", "audio never moves"),
    "WriteShards": ("decode, voice, level,", "log-mel, record"),
    "CommitDataset": ("sums must balance;", "metadata.json last"),
}
BLUE, TEAL, GREY = "#2f5d9b", "#1f6f68", "#768390"
SPEAKERS = ("#e0a63a", "#d9714a", "#c25a86", "#8c6bc4", "#5b86d6", "#46a3b5", "#5aa866", "#9aa83c")  # N = 8
WIDTH, HEIGHT, BOX, GAP = 920, 296, (156, 74), 24
TOP, BELOW = 62, 198


def stages(source: str) -> list[str]:
    """Labels of the stages, in the order in which the graph applies them (`"Label" >> Transform`)."""
    pairs = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.BinOp)]
    labels = [pair.left for pair in pairs if isinstance(pair.op, ast.RShift) and isinstance(pair.left, ast.Constant)]
    return [str(label.value) for label in sorted(labels, key=lambda label: label.lineno)]


def text(x: float, y: float, content: str, size: int = 13, fill: str = "#ffffff", weight: str = "normal") -> str:
    style = f'font-size="{size}" fill="{fill}" font-weight="{weight}" text-anchor="middle"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(content)}</text>'


def box(x: float, y: float, width: float, title: str, lines: tuple[str, ...], fill: str) -> list[str]:
    """A filled box with a title and one or two lines below it."""
    middle = x + width / 2
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{BOX[1]}" rx="8" fill="{fill}"/>'
    rows = [text(middle, y + 44 + 17 * number, line, 12) for number, line in enumerate(lines)]
    return [shape, text(middle, y + 23, title, 14, weight="bold"), *rows]


def arrow(*points: tuple[float, float]) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{GREY}" stroke-width="2" marker-end="url(#head)"/>'


def batch(x: float, y: float) -> list[str]:
    """A batch as a grid: a row of one colour for each of 8 speakers, 4 crops each."""
    cell = 'width="26" height="7" rx="1.5"'
    return [
        f'<rect x="{x + 30 * column:g}" y="{y + 9.5 * row:g}" {cell} fill="{colour}"/>'
        for row, colour in enumerate(SPEAKERS)
        for column in range(4)
    ]


def picture() -> str:
    """The whole SVG."""
    names = stages(GRAPH.read_text(encoding="utf-8"))
    step, middle = BOX[0] + GAP, BELOW + BOX[1] / 2
    left = [22 + step * number for number in range(len(names))]
    frame = f'<rect x="8" y="30" width="{WIDTH - 16}" height="120" rx="12" fill="none" stroke="{GREY}"/>'
    title = text(WIDTH / 2, 51, "ge2e run: Apache Beam on this machine, Flink, Spark or Dataflow", 13, GREY)
    parts = [frame, title, text(22 + BOX[0] / 2, 17, "manifest + audio", 14, GREY, "bold")]
    parts.append(arrow((22 + BOX[0] / 2, 23), (22 + BOX[0] / 2, TOP - 3)))
    for x, name in zip(left, names, strict=True):
        parts += box(x, TOP, BOX[0], name, DOES[name], BLUE)
    parts += [arrow((x + BOX[0], TOP + BOX[1] / 2), (x + step - 3, TOP + BOX[1] / 2)) for x in left[:-1]]
    dataset, loader, grid = left[-1] - 60, left[-1] - 330, left[-1] - 500
    parts.append(arrow((left[-1] + BOX[0] / 2, TOP + BOX[1]), (left[-1] + BOX[0] / 2, BELOW - 3)))
    parts += box(dataset, BELOW, BOX[0] + 60, "dataset", ("TFRecords by speaker,", "index, metadata.json"), TEAL)
    parts.append(arrow((dataset, middle), (loader + 210 + 3, middle)))
    parts += box(loader, BELOW, 210, "loader", ("seed + index: plan of batches,", "positional reads"), TEAL)
    parts.append(arrow((loader, middle), (grid + 126, middle)))
    parts += batch(grid, BELOW)
    parts.append(text(grid - 114, BELOW + 20, "N speakers x M utterances", 14, GREY, "bold"))
    parts.append(text(grid - 114, BELOW + 41, "[N*M, 40, 121] and labels", 13, GREY))
    parts.append(text(grid - 114, BELOW + 61, "TensorFlow, PyTorch, NumPy", 13, GREY))
    head = '<path d="M0,0 L8,4 L0,8 z"/>'
    size = 'markerWidth="8" markerHeight="8" refX="7" refY="4" markerUnits="userSpaceOnUse" orient="auto"'
    about = "Manifest and audio go through the stages of ge2e run to a dataset; the loader makes batches of it."
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
            f"<title>{about}</title>",
            f'<defs><marker id="head" {size} fill="{GREY}">{head}</marker></defs>',
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
