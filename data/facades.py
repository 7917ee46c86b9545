"""Procedural façades: pairs of a photo and its label map, small and learnable in minutes.

An image depends on size, seed, split and number only. Nearly all of a photo follows from its labels (the
label of a wall also decides the colours of trim, roof and door).
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

log = logging.getLogger(__name__)

Colour = tuple[int, int, int]
SPLITS = ("train", "val", "test")  # the position of a split is part of the random seed of its images
GRID = 128  # façades are laid out on a GRID x GRID lattice, whatever the image size
SCALE = 4  # images are drawn this many times larger; photos are averaged down, labels subsampled
# fmt: off
LABEL_COLOURS: dict[str, Colour] = {  # similar to the CMP façades
    "sky": (0, 0, 170), "pavement": (0, 0, 85), "roof": (0, 170, 85), "chimney": (85, 85, 85),
    "cream": (0, 0, 255), "ochre": (85, 0, 255), "rose": (170, 0, 255),
    "sage": (255, 0, 255), "brick": (255, 0, 170), "stone": (170, 85, 255),
    "window": (0, 85, 255), "door": (0, 170, 255), "cornice": (0, 255, 255), "sill": (85, 255, 170),
    "balcony": (170, 255, 85), "blind": (255, 255, 0), "deco": (255, 170, 0), "awning": (255, 85, 0),
    "pillar": (255, 0, 0), "shop": (170, 0, 0), "plant": (0, 255, 85),
}
CLASSES = tuple(LABEL_COLOURS)
TERRACOTTA, SLATE = (184, 98, 72), (98, 108, 124)
FINISHES: dict[str, tuple[Colour, Colour, Colour, Colour]] = {  # wall label: wall, trim, roof, accent
    "cream": ((240, 222, 182), (252, 246, 232), TERRACOTTA, (66, 110, 98)),
    "ochre": ((230, 180, 104), (250, 238, 212), TERRACOTTA, (88, 112, 78)),
    "rose": ((222, 156, 138), (252, 238, 226), SLATE, (78, 92, 124)),
    "sage": ((166, 188, 178), (246, 246, 238), TERRACOTTA, (132, 66, 60)),
    "brick": ((172, 92, 72), (238, 224, 200), SLATE, (40, 70, 88)),
    "stone": ((212, 202, 184), (240, 235, 224), SLATE, (112, 48, 54)),
}
COMMON = {"chimney": (164, 96, 78), "pavement": (160, 156, 154), "plant": (84, 134, 70), "iron": (46, 48, 56),
          "flower": (228, 84, 100), **{name: finish[0] for name, finish in FINISHES.items()}}
# How far a part protrudes from the wall (negative: is set back), in lattice units: the length of its shadow.
RELIEF = {"sill": 1.2, "cornice": 2.0, "balcony": 2.0, "deco": 1.0, "pillar": 0.9, "blind": 0.7,
          "awning": 2.5, "plant": 1.0, "window": -1.0, "door": -1.2, "shop": -1.0}
# Bars across a part: distance, thickness, colour, brightness, whether they are vertical.
BARS = {"balcony": (2, 0.8, "iron", 1.0, True), "awning": (4, 2.0, "trim", 1.0, True),
        "blind": (2, 0.9, "accent", 0.74, False), "pillar": (4, 0.7, "trim", 0.76, False),
        "plant": (2, 1.0, "flower", 1.0, True)}
# Masonry: block height and width, variation of brightness between blocks, brightness of the joints.
BLOCKS = {"brick": (2, 4, 0.07, 1.12), "chimney": (2, 4, 0.07, 1.12), "stone": (4, 8, 0.035, 0.91),
          "roof": (2, 2, 0.03, 0.84), "pavement": (3, 9, 0.02, 0.88)}
# fmt: on


@dataclass(frozen=True)
class Part:
    """One shape of a façade: its class, its box in lattice units and the form of its outline."""

    kind: str
    x0: float
    y0: float
    x1: float
    y1: float
    form: str = "rectangle"

    def outline(self) -> list[tuple[float, float]]:
        """Return the corner points in lattice units."""
        middle, half = (self.x0 + self.x1) / 2, (self.x1 - self.x0) / 2
        slope = {"triangle": half, "mansard": (self.y1 - self.y0) * 0.3}.get(self.form, 0.0)
        top = [(self.x0 + slope, self.y0), (self.x1 - slope, self.y0)]
        if self.form == "arch":
            turns = [math.pi * (1 - k / 16) for k in range(17)]
            top = [(middle + half * math.cos(t), self.y0 + half * (1 - math.sin(t))) for t in turns]
        return [(self.x0, self.y1), *top, (self.x1, self.y1)]


@dataclass(frozen=True)
class Facade:
    """The wall finish and the parts from back to front."""

    finish: str
    parts: tuple[Part, ...]


class FacadeSampler:
    """Samples one façade; whole lattice units keep edges sharp and windows evenly spaced."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.parts = rng, list[Part]()
        self.finish, self.columns, edge = str(rng.choice(list(FINISHES))), self._pick(3, 6), self._pick(5, 7)
        self.floors, self.base, ground = self._pick(2, 4), GRID - self._pick(7, 9), self._pick(23, 27)
        self.split = self.base - ground  # where the ground floor ends and the upper storeys begin
        self.roof_height = int(rng.choice([5, 14, 16]))
        self.storey = min(27, (self.split - self.roof_height - self._pick(8, 12)) // self.floors)
        self.pitch = (self._pick(100, 118) - 2 * edge) // self.columns
        # At most three quarters of the height.
        opening = min(round(self.pitch * rng.uniform(0.40, 0.54)), round(self.storey * 0.46))
        self.opening = opening + (self.pitch - opening) % 2  # same parity as the pitch, to be centred
        self.left = (GRID - self.pitch * self.columns) // 2 - edge + self._pick(-2, 2)
        self.right = self.left + self.pitch * self.columns + 2 * edge
        self.gap = (self.pitch - self.opening) // 2 - 1  # width left for shutters or shops
        self.starts = [self.left + edge + k * self.pitch + self.gap + 1 for k in range(self.columns)]
        self.form = "arch" if self._chance(0.3) else "rectangle"
        self.shutters = self.form == "rectangle" and self.gap >= 3 and self._chance(0.5)
        self.plants = self._chance(0.5)

    def _pick(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def _add(self, kind: str, x0: float, y0: float, x1: float, y1: float, form: str = "rectangle") -> None:
        self.parts.append(Part(kind, x0, y0, x1, y1, form))

    def facade(self) -> Facade:
        """Return the façade, from pavement to roof."""
        base, split, storey = self.base, self.split, self.storey
        top = split - self.floors * storey
        self._add("pavement", 0, base, GRID, GRID)
        self._roof(top, self.roof_height)
        self._add(self.finish, self.left, top, self.right, base)
        if self._chance(0.6):
            self._add("stone", self.left, split, self.right, base)
        for x in (self.left, self.right - 4) if self._chance(0.6) else ():
            self._add("pillar", x, top, x + 4, base)
        pediments, courses = self.form == "rectangle" and self._chance(0.6), self._chance(0.5)
        for floor in range(self.floors):
            y = top + floor * storey
            if floor and courses:
                self._add("cornice", self.left, y - 1, self.right, y + 1)
            balcony, last = self._chance(0.4), floor == self.floors - 1
            self._windows(y + 3 + storey // 9, y + storey - (1 if last else 0), balcony, pediments and last)
        self._add("cornice", self.left, split - 1, self.right, split + 2)
        self._add("cornice", self.left - 2, top - 1, self.right + 2, top + 3)
        self._ground_floor(split, base)
        return Facade(self.finish, tuple(self.parts))

    def _roof(self, top: int, height: int) -> None:
        left, right, middle, eaves = self.left, self.right, (self.left + self.right) // 2, top - height
        if height < 8:  # a parapet
            self._add(self.finish, left, eaves, right, top)
            self._add("deco", middle - 16, eaves - 7, middle + 16, eaves - 1, "triangle")
            self._add("cornice", left - 1, eaves - 1, right + 1, eaves + 1)
            return
        for x in (left + 18, right - 24):
            if self._chance(0.7):
                self._add("chimney", x, eaves - 5, x + 6, top - 2)
        self._add("roof", left - 1, eaves, right + 1, top, "mansard")
        for x in (start + (self.opening - 7) // 2 for start in self.starts):
            self._add("deco", x - 1, top - 13, x + 8, top - 9, "triangle")
            self._add("window", x, top - 9, x + 7, top)

    def _windows(self, top: int, floor: int, balcony: bool, pediment: bool) -> None:
        bottom, wide = floor - (2 if balcony else 1 + self.storey // 9), min(self.gap, self.opening // 2 + 1)
        for x in self.starts:
            right = x + self.opening
            self._add("window", x, top, right, bottom, self.form)
            for side in (x - wide, right) if self.shutters else ():
                self._add("blind", side, top, side + wide, bottom)
            if pediment:
                self._add("deco", x - 2, top - 4, right + 2, top - 1, "triangle")
            if balcony:
                self._add("balcony", x - 2, bottom - 6, right + 2, bottom + 1)
            else:
                self._add("sill", x - 1, bottom, right + 1, bottom + 1)
                if self.plants:
                    self._add("plant", x, bottom - 2, right, bottom)

    def _ground_floor(self, top: int, base: int) -> None:
        shops, entrance = self._chance(0.6), self.starts[self._pick(0, self.columns - 1)]
        for x in self.starts:
            right = x + self.opening
            if x == entrance:
                self._add("door", x, top + 6, right, base, self.form)
            elif shops:
                self._add("shop", x - self.gap, top + 4, right + self.gap, base)
                self._add("awning", x - self.gap, top + 7, right + self.gap, top + 12)
            else:
                self._add("window", x, top + 6, right, base - 6, self.form)
                self._add("sill", x - 1, base - 6, right + 1, base - 5)


def tone(colour: Colour, factor: float) -> Colour:
    """Return a colour times a brightness factor, clipped to 0..255."""
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


class Canvas:
    """A square image that is drawn on in lattice units."""

    def __init__(self, mode: str, side: int, fill: int = 0) -> None:
        self.image, self.unit = Image.new(mode, (side, side), fill), side / GRID
        self.draw = ImageDraw.Draw(self.image)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour | int) -> None:
        """Fill a rectangle, without its right and lower edges, so that neighbours do not overlap."""
        left, top, right, bottom = (round(edge * self.unit) for edge in (x0, y0, x1, y1))
        if right > left and bottom > top:
            self.draw.rectangle((left, top, right - 1, bottom - 1), fill=fill)

    def part(self, part: Part, fill: Colour | int, shift: float = 0.0) -> None:
        """Fill the outline of a part, moved right and down by `shift`."""
        if part.form == "rectangle":
            self.box(part.x0 + shift, part.y0 + shift, part.x1 + shift, part.y1 + shift, fill)
        else:
            points = [((x + shift) * self.unit, (y + shift) * self.unit) for x, y in part.outline()]
            self.draw.polygon(points, fill=fill)

    def glass(self, pane: Part, light: Colour, dark: Colour) -> None:
        """Fill a shape with a gradient from `light` (top) to `dark`, from below the round part of an arch."""
        self.part(pane, light)
        start = pane.y0 + ((pane.x1 - pane.x0) / 2 if pane.form == "arch" else 0)
        for k in range(12):
            red, green, blue = (round(a + (b - a) * k / 11) for a, b in zip(light, dark, strict=True))
            self.box(pane.x0, start + (pane.y1 - start) * k / 12, pane.x1, pane.y1, (red, green, blue))

    def bars(self, part: Part, step: float, thick: float, fill: Colour, upright: bool) -> None:
        """Fill the box of a part with bars, from its left edge on (from its upper edge unless `upright`)."""
        start, end = (part.x0, part.x1) if upright else (part.y0, part.y1)
        for k in range(math.ceil((end - start) / step)):
            near, far = start + k * step, min(end, start + k * step + thick)
            self.box(*((near, part.y0, far, part.y1) if upright else (part.x0, near, part.x1, far)), fill)


def paint_opening(canvas: Canvas, part: Part, trim: Colour, accent: Colour) -> None:
    """Paint a window, a door or a shop front."""
    x0, y0, x1, y1, middle = part.x0, part.y0, part.x1, part.y1, (part.x0 + part.x1) / 2
    canvas.part(part, accent if part.kind == "shop" else trim)
    if part.kind == "window":
        canvas.glass(Part("window", x0 + 1, y0 + 1, x1 - 1, y1 - 1, part.form), (186, 212, 232), (44, 58, 80))
        transom = y0 + (middle - x0 if part.form == "arch" else (y1 - y0) * 0.35)
        canvas.box(middle - 0.5, y0 + 1, middle + 0.5, y1 - 1, trim)
        canvas.box(x0 + 1, transom - 0.4, x1 - 1, transom + 0.4, trim)
    elif part.kind == "shop":
        canvas.glass(Part("shop", x0 + 1, y0 + 3, x1 - 1, y1 - 3), (255, 228, 164), (150, 110, 86))
        canvas.box(middle - 0.5, y0 + 3, middle + 0.5, y1 - 3, accent)
        canvas.box(x0 + 1, y1 - 2.2, x1 - 1, y1 - 1, tone(accent, 1.35))
    else:
        light = y0 + (x1 - x0) / 2
        canvas.glass(Part("door", x0 + 1, y0 + 1, x1 - 1, light, part.form), (255, 232, 180), (176, 132, 92))
        canvas.box(x0 + 1, light, x1 - 1, y1, accent)
        for left in (x0 + 2, middle + 0.7):
            canvas.box(
                left, light + 1.2, left + middle - x0 - 2.7, (light + y1) / 2 - 0.6, tone(accent, 0.72)
            )
            canvas.box(left, (light + y1) / 2 + 0.6, left + middle - x0 - 2.7, y1 - 1, tone(accent, 0.72))


def paint_part(canvas: Canvas, part: Part, colours: dict[str, Colour]) -> None:
    """Paint one part of the photo."""
    trim, accent = colours["trim"], colours["accent"]
    if part.kind in ("window", "door", "shop"):
        paint_opening(canvas, part, trim, accent)
        return
    if part.kind != "balcony":  # the window behind shows through the railing
        canvas.part(part, accent if part.kind in ("blind", "awning") else colours.get(part.kind, trim))
    if part.kind in BARS:
        step, thick, name, factor, upright = BARS[part.kind]
        canvas.bars(part, step, thick, tone(colours[name], factor), upright)
    if part.kind == "plant":
        canvas.box(part.x0, part.y0 + 1, part.x1, part.y1, colours["plant"])
    if part.kind == "deco" and part.y1 - part.y0 > 5:
        field = Part("deco", part.x0 + 5, part.y0 + 2.4, part.x1 - 5, part.y1 - 1, part.form)
        canvas.part(field, tone(trim, 0.82))
    if part.kind == "balcony":
        canvas.box(part.x0, part.y0, part.x1, part.y0 + 0.9, colours["iron"])
        canvas.box(part.x0, part.y1 - 1.8, part.x1, part.y1, trim)
    if part.kind == "cornice":
        if part.y1 - part.y0 > 3:  # dentils
            row = Part("cornice", part.x0, part.y0 + 2, part.x1, part.y1)
            canvas.bars(row, 2, 1.0, tone(trim, 0.74), upright=True)
        canvas.box(part.x0, part.y1 - 0.6, part.x1, part.y1, tone(trim, 0.8))


def draw_labels(facade: Facade, size: int) -> np.ndarray:
    """Return class numbers (positions in CLASSES), uint8, (SCALE * size, SCALE * size)."""
    canvas = Canvas("L", size * SCALE, CLASSES.index("sky"))
    for part in facade.parts:
        canvas.part(part, CLASSES.index(part.kind))
    return np.asarray(canvas.image)


def draw_sky(rng: np.random.Generator, side: int) -> Image.Image:
    """Return a gradient with a few faint clouds, RGB, side x side."""
    y, x = np.mgrid[0:GRID, 0:GRID]
    depth = np.minimum(1.0, y / (0.7 * GRID))[..., None]
    sky = np.array((122, 172, 222)) * (1 - depth) + np.array((234, 236, 232)) * depth
    for cx, cy in rng.uniform((0, 2), (GRID, 28), (2, 2)):
        for dx, dy in rng.normal(0, (7, 1.5), (5, 2)):
            puff = np.exp(-(((x - cx - dx) / 6) ** 2) - ((y - cy - dy) / 2.5) ** 2)
            sky += (255 - sky) * 0.45 * puff[..., None]
    return Image.fromarray(sky.astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR)


def daylight(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Return brightness factors near 1 (masonry, light from the upper left), float32, (side, side)."""
    coarse = labels[::2, ::2]  # half the resolution is enough for joints, and four times as fast
    y, x = (axis.astype(np.float32) * (GRID / len(coarse)) for axis in np.ogrid[: len(coarse), : len(coarse)])
    blotches = Image.fromarray(rng.uniform(0.97, 1.03, (16, 16)).astype(np.float32))
    factor = np.array(blotches.resize(coarse.shape, Image.Resampling.BICUBIC))
    factor *= 1.06 - 0.12 * (x + 0.4 * y) / GRID
    for kind, (tall, wide, spread, joint) in BLOCKS.items():
        shades = rng.uniform(1 - spread, 1 + spread, (GRID, GRID)).astype(np.float32)
        where = coarse == CLASSES.index(kind)
        row = (y // tall).astype(int)
        along = x + row % 2 * (wide / 2)
        is_joint = (y % tall < 0.5) | (along % wide < 0.5)
        blocks = np.where(is_joint, joint, shades[row, (along // wide).astype(int)])
        np.multiply(factor, blocks, out=factor, where=where)
    factor[coarse == CLASSES.index("sky")] = 1.0
    return factor.repeat(2, axis=0).repeat(2, axis=1)


def draw_photo(facade: Facade, labels: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Return the photo for enlarged labels, (side, side): RGB, side / SCALE wide and high."""
    _, trim, roof, accent = FINISHES[facade.finish]
    colours = {**COMMON, "trim": trim, "roof": roof, "accent": accent}
    canvas, shadow = Canvas("RGB", len(labels)), Canvas("L", len(labels))
    canvas.image.paste(draw_sky(rng, len(labels)))
    for part in facade.parts:
        relief = RELIEF.get(part.kind, 0.0)
        paint_part(canvas, part, colours)
        shadow.part(part, 255 if relief else 0, max(0.0, relief))
        if relief:
            shadow.part(part, 0, max(0.0, -relief))
    shade = shadow.image.filter(ImageFilter.GaussianBlur(0.4 * shadow.unit))
    cast = np.asarray(shade, np.float32) * (labels != CLASSES.index("sky")) * np.float32(0.42 / 255)
    factor = daylight(rng, labels) * (1 - cast)
    tint = rng.uniform(0.97, 1.03) * np.array((1.0, 1.0, rng.uniform(0.98, 1.02)))
    pixels = np.asarray(canvas.image, np.float32) * factor[..., None] * tint.astype(np.float32)
    photo = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).reduce(SCALE)
    grain = rng.normal(0, 1.5, (photo.height, photo.width, 1))
    return Image.fromarray(np.clip(np.asarray(photo) + grain, 0, 255).astype(np.uint8))


def draw_pair(size: int, seed: int, split: str, number: int) -> Image.Image:
    """Return one pair, RGB, 2 * size wide and size high: the photo (A) left, its labels (B) right.

    Args:
        size: even, at least 32.
        split: one of SPLITS.
        number: of the image in its split, from 1.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    facade = FacadeSampler(rng).facade()
    labels = draw_labels(facade, size)
    palette = np.array(list(LABEL_COLOURS.values()), np.uint8)
    pair = Image.new("RGB", (2 * size, size))
    pair.paste(draw_photo(facade, labels, rng), (0, 0))
    pair.paste(Image.fromarray(palette[labels[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]]), (size, 0))
    return pair


def write_pairs(folder: Path, counts: dict[str, int], size: int = 128, seed: int = 0) -> None:
    """Write ``counts[split]`` pairs, 0001.png, 0002.png, ..., to ``folder/<split>`` for every split.

    Raises:
        ValueError: The size is odd or below 32, a count or the seed is negative, or `folder` is a file.
    """
    if size < 32 or size % 2:
        raise ValueError(f"--size must be an even number of at least 32, not {size}")
    negative = [name for name, value in {**counts, "seed": seed}.items() if value < 0]
    if negative:
        raise ValueError(f"--{negative[0]} must not be negative")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out must be a folder, but {folder} is a file")
    for split, count in counts.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            draw_pair(size, seed, split, number).save(folder / split / f"{number:04d}.png")
        log.info("%s: %d images of %d x %d", folder / split, count, 2 * size, size)
