"""Draw the images of the pages on figures: python docs/draw_gallery.py [report].

`ranklens talk --out report` writes one record for each study. This script draws each record again at a small size and
writes docs/gallery/STUDY.png. It also runs the lines of docs/figures.md and writes each figure that they make to the
image that stands below them.
"""

import doctest
import io
import re
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

import ranklens as rl

DOCS = Path(__file__).parent
# Dots per inch: panels are some 4 inches wide, so that text stays readable at about 300 pixels a panel.
RESOLUTION = 75
# Colours of the palette of an image. Lines and text need few, and the files become a quarter of the size.
COLOURS = 48


def keep(figure: Figure, path: Path) -> Path:
    """Write a figure as a small PNG and return its path."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=RESOLUTION, format="png")
    path.parent.mkdir(exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    return path


def run_page(page: Path) -> list[Path]:
    """Run the examples of a page and write the figure that each image of the page shows, `figure` in the lines above.

    Returns:
        The paths of the images.
    """
    names: dict[str, object] = {}
    written = []
    text = page.read_text(encoding="utf-8")
    for part in re.split(r"(!\[[^\]]*\]\([^)]+\.png\))", text):
        if part.startswith("!["):
            figure = names["figure"]
            assert isinstance(figure, Figure), "the lines above an image make a figure of that name"
            written.append(keep(figure, page.parent / part[part.rindex("(") + 1 : -1]))
        for example in doctest.DocTestParser().get_examples(part):
            exec(compile(example.source, str(page), "single"), names)
    return written


def main() -> None:
    """Draw every record of the report's folder, and the figures of the page on figures."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "report")
    records = sorted(folder.glob("*.nc"))
    if not records:
        raise SystemExit(f"{folder} holds no records; write them first: ranklens talk --out {folder}")
    for path in run_page(DOCS / "figures.md"):
        print(path)
    for record_path in records:
        record = rl.load(record_path)
        print(keep(rl.plot(record), DOCS / "gallery" / f"{record.attrs['study']}.png"))


if __name__ == "__main__":
    main()
