"""Colours of figures on a dark page."""


def dark(colour: str) -> str:
    """Return the colour that stands for a colour of a figure on a dark page.

    Greys are exchanged, black for nearly white. Other colours keep their hue and are made lighter until they stand out
    from the background as far as text must, with a ratio of luminances of 4.5.

    >>> dark("#000000"), dark("#ffffff"), dark("#56b4e9")
    ('#e8e8e8', '#16181b', '#56b4e9')
    """
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    if max(red, green, blue) - min(red, green, blue) < 0.04:
        ends = ((0xE8, 0xE8, 0xE8), (0x16, 0x18, 0x1B))
        mixed = [round(a + (b - a) * red) for a, b in zip(*ends, strict=True)]
        return "#" + "".join(f"{part:02x}" for part in mixed)
    share = 0.0
    while _contrast(red, green, blue, share) < 4.5:
        share += 0.02
    return "#" + "".join(f"{round(255 * (part + (1 - part) * share)):02x}" for part in (red, green, blue))


def _contrast(red: float, green: float, blue: float, share: float) -> float:
    """Return the contrast ratio of a colour, mixed with a share of white, to the background of the dark page."""
    parts = [part + (1 - part) * share for part in (red, green, blue)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (luminance + 0.05) / (0.0092 + 0.05)
