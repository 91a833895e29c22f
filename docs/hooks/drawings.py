"""Draws the figures of docs/concepts/ as SVG: `python docs/hooks/drawings.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

PICTURES = Path(__file__).resolve().parents[1] / "pictures"
BLUE, ORANGE, GREEN, GREY, RED = "#3b7dd8", "#e08a1e", "#2f9e68", "#8a94a0", "#cc4b4b"
INK, PAPER = "#26303a", "#ffffff"


class Drawing:
    """Boxes, arrows and words on a white sheet, which is readable on dark pages, too."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._parts: list[str] = []

    def box(  # noqa: PLR0917 - coordinates read best in their order
        self, x: float, y: float, w: float, h: float, words: str = "", colour: str = GREY
    ) -> None:
        """A rounded box with words in its middle, a line each."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{colour}" '
            f'fill-opacity="0.14" stroke="{colour}" stroke-width="1.6"/>'
        )
        lines = words.split("\n") if words else []
        for number, line in enumerate(lines):
            self.words(x + w / 2, y + h / 2 + 5 + 17 * (number - (len(lines) - 1) / 2), line)

    def bar(self, x: float, y: float, w: float, h: float, colour: str) -> None:
        """A filled bar."""
        self._parts.append(
            f'<rect x="{x}" y="{y:.1f}" width="{w}" height="{h:.1f}" fill="{colour}"/>'
        )

    def words(
        self,
        x: float,
        y: float,
        text: str,
        colour: str = INK,
        *,
        anchor: str = "middle",
        size: int = 14,
    ) -> None:
        """One line of text."""
        self._parts.append(
            f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" '
            f'fill="{colour}">{escape(text)}</text>'
        )

    def arrow(self, *points: tuple[float, float], colour: str = INK, dashed: bool = False) -> None:
        """A line through the points with a head at its end."""
        path = " ".join(f"{'L' if n else 'M'}{x} {y}" for n, (x, y) in enumerate(points))
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash} '
            'marker-end="url(#head)"/>'
        )

    def save(self, name: str, title: str) -> None:
        """Writes it into docs/pictures/."""
        width, height = self._size
        PICTURES.joinpath(f"{name}.svg").write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="system-ui, sans-serif">\n'
            f"<title>{escape(title)}</title>\n"
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{INK}"/></marker>'
            "</defs>\n"
            f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n",
            encoding="utf-8",
        )


def search() -> None:
    """The four steps of a search."""
    drawing = Drawing(760, 190)
    steps = [
        ("Trace", "which channels live\nor die together", GREY),
        ("Trials", "train, prune,\nfine-tune", ORANGE),
        ("Families", "same shapes from\nscratch, rescaled", BLUE),
        ("Verdict", "certified, compared\nwith chance in mind", GREEN),
    ]
    for number, (name, what, colour) in enumerate(steps):
        x = 20 + 187 * number
        drawing.box(x, 55, 155, 80, what, colour)
        drawing.words(x + 77, 42, f"{number + 1}. {name}", colour, size=15)
        if number < len(steps) - 1:
            drawing.arrow((x + 157, 95), (x + 184, 95))
    drawing.words(98, 165, "network, data,", GREY)
    drawing.words(98, 182, "task, budget", GREY)
    drawing.words(659, 165, "files, report, MLflow", GREY)
    drawing.save("search", "The steps of a search")


def channel_graph() -> None:
    """A stem, a residual block, a head: two groups."""
    drawing = Drawing(760, 250)
    drawing.box(20, 110, 90, 50, "stem", BLUE)
    drawing.box(185, 110, 90, 50, "conv1", ORANGE)
    drawing.box(315, 110, 90, 50, "norm1\nReLU", ORANGE)
    drawing.box(445, 110, 90, 50, "conv2", BLUE)
    drawing.box(585, 110, 50, 50, "+", BLUE)
    drawing.box(670, 110, 70, 50, "head", GREY)
    drawing.arrow((110, 135), (183, 135), colour=BLUE)
    drawing.arrow((275, 135), (313, 135), colour=ORANGE)
    drawing.arrow((405, 135), (443, 135), colour=ORANGE)
    drawing.arrow((535, 135), (583, 135), colour=BLUE)
    drawing.arrow((635, 135), (668, 135), colour=BLUE)
    drawing.arrow((145, 135), (145, 60), (610, 60), (610, 108), colour=BLUE)
    drawing.words(378, 50, "stream: outputs of stem and conv2 are added, so they stay equal", BLUE)
    drawing.words(
        360, 195, "inner group: outputs of conv1, scales of norm1, inputs of conv2", ORANGE
    )
    drawing.words(360, 217, "free: nobody else reads it", ORANGE)
    drawing.save("channel-graph", "The groups of a residual block")


def pinned() -> None:
    """A block behind a layer normalisation."""
    drawing = Drawing(760, 190)
    parts = [
        ("embedding", GREY),
        ("layer norm", RED),
        ("linear, wider", ORANGE),
        ("GELU", ORANGE),
        ("linear, back", GREY),
    ]
    for number, (name, colour) in enumerate(parts):
        x = 20 + 147 * number
        drawing.box(x, 70, 122, 46, name, colour)
        if number < len(parts) - 1:
            drawing.arrow((x + 122, 93), (x + 145, 93))
    drawing.words(155, 150, "pinned: the mean over all these channels", RED)
    drawing.words(155, 170, "would be another without one of them", RED)
    drawing.words(515, 150, "free: 26,496 such channels in ConvNeXt-T", ORANGE)
    drawing.words(
        380, 40, "what a normalisation over channels reads stays whole, what lies inside is free"
    )
    drawing.save("pinned", "Pinned and free channels")


def gates() -> None:
    """A gate between a producer and its consumers."""
    drawing = Drawing(760, 210)
    drawing.box(20, 85, 110, 46, "convolution", GREY)
    drawing.box(165, 85, 120, 46, "norm, ReLU", GREY)
    drawing.box(455, 35, 120, 46, "consumer", GREY)
    drawing.box(455, 135, 120, 46, "consumer", GREY)
    drawing.arrow((130, 108), (163, 108))
    drawing.box(340, 88, 60, 40, "× z", ORANGE)
    drawing.arrow((285, 108), (338, 108))
    drawing.arrow((400, 108), (428, 108), (428, 58), (453, 58))
    drawing.arrow((400, 108), (428, 108), (428, 158), (453, 158))
    drawing.arrow((575, 58), (620, 58), (620, 98), (645, 98))
    drawing.arrow((575, 158), (620, 158), (620, 118), (645, 118))
    drawing.box(647, 85, 93, 46, "loss", GREEN)
    drawing.words(370, 78, "gate", ORANGE)
    drawing.words(240, 165, "z = 1: as it was;  z = 0: removed", ORANGE)
    drawing.words(240, 187, "∂ loss / ∂ z: what removing it would do", ORANGE)
    drawing.save("gates", "Where gates act")


def families() -> None:
    """Widths of a found shape, rescaled, and of the base narrowed by one factor."""
    drawing = Drawing(760, 260)
    base = [32, 32, 64, 64, 128, 128]
    found = [24, 28, 60, 40, 34, 12]
    shapes: Sequence[tuple[str, list[float], str]] = (
        ("base", [float(width) for width in base], GREY),
        ("found: α = 1", [float(width) for width in found], ORANGE),
        ("copycat: α = 0.6", [0.6 * width for width in found], BLUE),
        ("uniformly narrowed", [0.28 * width for width in base], GREEN),
    )
    for place, (name, widths, colour) in enumerate(shapes):
        x = 30 + 185 * place
        for number, width in enumerate(widths):
            drawing.bar(x + 24 * number, 205 - 1.3 * width, 18, 1.3 * width, colour)
        drawing.words(x + 69, 230, name, colour)
    drawing.words(380, 24, "channels of each layer")
    drawing.arrow((300, 120), (392, 120))
    drawing.words(346, 110, "× α")
    drawing.save("families", "A shape, rescaled")


def equal_compute() -> None:
    """What lies behind three networks of the same shape."""
    drawing = Drawing(760, 210)
    rows = (
        (
            "fine-tuned",
            ((440, GREY, "sparse training of the whole network"), (70, ORANGE, "tuning")),
        ),
        ("from scratch, equal epochs", ((140, BLUE, "as many epochs"),)),
        ("from scratch, equal compute", ((280, GREEN, "longer, at most twice the epochs"),)),
    )
    for number, (name, spans) in enumerate(rows):
        x, y = 225, 40 + 50 * number
        drawing.words(x - 12, y + 22, name, anchor="end")
        for width, colour, words in spans:
            drawing.box(x, y, width, 34, "", colour)
            drawing.words(x + width / 2, y + 22, words, size=13)
            x += width
    drawing.arrow((225, 192), (735, 192))
    drawing.words(
        480, 184, "training images × FLOPs of one run (a sketch, not to scale)", GREY, size=13
    )
    drawing.save("equal-compute", "Compute behind one shape")


DRAWINGS: Sequence[Callable[[], None]] = (
    *(search, channel_graph, pinned, gates, families, equal_compute),
)

if __name__ == "__main__":
    for draw in DRAWINGS:
        draw()
