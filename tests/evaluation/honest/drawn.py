"""Pictures that no photograph stands for: pages of text, icons, blank sheets and gradients. Drawn from a seed, always the same."""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 224
SYLLABLES = "ba de fi go hu ka le mi no pu ra se ti vo wu xa lin mor ten cal ver nos ple tri".split()


@functools.cache
def _font(size):
    return ImageFont.load_default(size)


def _word(random):
    return "".join(random.choice(SYLLABLES) for _ in range(random.integers(1, 5)))


def page(random):
    """A page of text as a scanner or a screenshot gives it: paper of some tint, a heading or none, one or two columns."""
    paper = random.integers(225, 256) - np.array([0, random.integers(0, 4), random.integers(0, 16)])
    sheet = Image.new("RGB", (SIDE, SIDE), tuple(int(level) for level in np.maximum(paper, 0)))
    draw = ImageDraw.Draw(sheet)
    ink, size = int(random.integers(0, 90)), int(random.integers(8, 15))
    margin, y = int(random.integers(6, 26)), int(random.integers(6, 30))
    if random.random() < 0.5:
        draw.text((margin, y), f"{_word(random)} {_word(random)}".title(), fill=(ink,) * 3, font=_font(int(size * 1.7)))
        y += int(size * 2.4)
    columns = 1 + int(random.random() < 0.3)
    width = (SIDE - 2 * margin) // columns
    for column in range(columns):
        down = y
        while down < SIDE - margin:
            if random.random() < 0.9:  # the rest are the gaps between paragraphs
                text, fits = "", width * random.uniform(0.55, 1.0)
                while draw.textlength(text, font=_font(size)) < fits:
                    text += _word(random) + " "
                draw.text((margin + column * width, down), text, fill=(ink,) * 3, font=_font(size))
            down += int(size * 1.35)
    return np.asarray(sheet)


def icon(random):
    """One or a few plain shapes on one colour, as an interface or a logo has them."""
    colour = lambda: tuple(int(level) for level in random.integers(0, 256, 3))  # noqa: E731
    ground = (255, 255, 255) if random.random() < 0.5 else colour()
    sheet = Image.new("RGB", (SIDE, SIDE), ground)
    draw = ImageDraw.Draw(sheet)
    for _ in range(random.integers(1, 5)):
        left, top = random.integers(10, 130, 2)
        right, bottom = left + random.integers(25, 84), top + random.integers(25, 84)
        box, kind = [int(value) for value in (left, top, right, bottom)], random.integers(0, 4)
        if kind == 0:
            draw.rectangle(box, fill=colour())
        elif kind == 1:
            draw.ellipse(box, fill=colour())
        elif kind == 2:
            draw.polygon([(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) // 2, box[1])], fill=colour())
        else:
            draw.text(box[:2], _word(random)[:2].title(), fill=colour(), font=_font(box[2] - box[0]))
    return np.asarray(sheet)


def blank(random):
    """A picture of one colour: a lens cap, an empty page, a placeholder."""
    return np.broadcast_to(random.integers(0, 256, 3).astype(np.uint8), (SIDE, SIDE, 3)).copy()


def gradient(random):
    """A smooth course from one colour to another, as a sky or a background has it."""
    first, last = random.integers(0, 256, (2, 3))
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1) - 0.5
    share = np.clip(0.5 + (x * np.cos(angle) + y * np.sin(angle)) / 1.3, 0, 1)[..., None]
    return np.round(first + (last - first) * share).astype(np.uint8)


def drawn(kind, count, seed):
    """So many pictures of one kind, (count, 224, 224, 3)."""
    random = np.random.default_rng([seed, sum(kind.__name__.encode())])
    return np.stack([kind(random) for _ in range(count)])
