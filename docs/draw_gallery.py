"""Draw the images of the gallery from the records of a report: python docs/draw_gallery.py [report].

`ranklens talk --out report` writes one record for each study. This script draws each record again at a small size and
writes docs/gallery/STUDY.png.
"""

import io
import sys
from pathlib import Path

from PIL import Image

import ranklens as rl
from ranklens import studies

FOLDER = Path(__file__).parent / "gallery"
# Dots per inch: panels are some 4 inches wide, so that text stays readable at about 300 pixels a panel.
RESOLUTION = 75
# Colours of the palette of an image. Lines and text need few, and the files become a quarter of the size.
COLOURS = 48


def draw(record_path: Path) -> Path:
    """Draw one record and return the path of its image."""
    record = rl.load(record_path)
    drawn = io.BytesIO()
    studies.load(record.attrs["study"]).draw(record).savefig(drawn, dpi=RESOLUTION, format="png")
    path = FOLDER / f"{record.attrs['study']}.png"
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    return path


def main() -> None:
    """Draw every record of the report's folder."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "report")
    records = sorted(folder.glob("*.nc"))
    if not records:
        raise SystemExit(f"{folder} holds no records; write them first: ranklens talk --out {folder}")
    for record_path in records:
        print(draw(record_path))


if __name__ == "__main__":
    main()
