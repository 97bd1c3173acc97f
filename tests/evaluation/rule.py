"""The rule of src/judgment once more, in numpy: for sweeps over many settings, and for an attacker who judges at home.

`agreement.py` checks it against the sidecar's own rulings; nothing that is reported as Refrain's rests on this copy alone. It follows src/judgment
and is changed with it; tests/fixtures/judgment/make_golden.py has the rule a third time, written apart on purpose, and shares nothing with this file.
"""

import dataclasses
import hashlib
import math
from collections import OrderedDict, deque

import numpy as np

# Set bits of every byte.
ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.uint8)

# That of two levels' deviation in each channel's 64 cells.
LOWEST_RELIEF = 1344 * 3 * 64 * 2**2

FORWARD, REPLAY, REFUSE = "forward", "replay", "refuse"


@dataclasses.dataclass(frozen=True)
class Rules:
    """The settings of `[judgment]`, and of `[store]` as far as they decide; the names are theirs."""

    profile: str = "hardened"
    threshold: float = 0.1
    tolerance: int = 0
    flat_contrast: float = 4.0
    cell_level: int = 16
    cell_contrast: float = 0.5
    reuse_bits: int = 10
    reuse_positions: int = 30
    reuse_cells: int = 63
    bits_share: float = 0.15
    guard_share: float = 0.98
    guard_level: int = 20
    guard_cell: int = 20
    suspect_bits: int = 25
    suspect_positions: int = 102
    suspect_cells: int = 12
    suspect_level: int = 10
    suspect_cast_level: int = 8
    suspect_contrast: float = 0.3
    suspect_palette: float = 0.07
    palette_chroma: float = 12.0
    suspect_correlation: float = 0.93
    on_suspected: str = "reject"
    anchors_never_hit: int = 128
    anchors_hit: int = 128
    ghosts: int = 1024
    suspicions: int = 0
    # What is no setting, and the sweep tries without.
    plain: bool = True  # where both pictures go on alike as plainly as possible there is nothing to compare

    def settings(self, section):
        """What of `[judgment]` or `[store]` differs from the defaults, as a dictionary."""
        store = {"anchors_never_hit", "anchors_hit", "ghosts", "suspicions"}
        changed = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default and f.name != "profile"
        }
        return {name: value for name, value in changed.items() if (name in store) == (section == "store")}


def _weights(source, result):
    """How much of each source pixel lies under each result pixel, in whole steps of their common grid."""
    common = math.gcd(source, result)
    at, to = np.arange(source), np.arange(result)[:, None]
    shared = np.minimum((at + 1) * result, (to + 1) * source) - np.maximum(at * result, to * source)
    return (np.maximum(shared, 0) // common).astype(np.float64)


def _sums(pictures, height, width):
    """Weighted sums under each result pixel, and what the weights of one add up to."""
    down, across = _weights(pictures.shape[1], height), _weights(pictures.shape[2], width)
    rows = np.einsum("yh,nhwc->nywc", down, pictures.astype(np.float64), optimize=True)
    return np.einsum("xw,nywc->nyxc", across, rows, optimize=True), down[0].sum() * across[0].sum()


def area_average(pictures, height, width):
    """The exact area average, halves rounded up: (n, h, w, 3) levels to (n, height, width, 3)."""
    if pictures.shape[1:3] == (height, width):
        return pictures
    sums, weight = _sums(pictures, height, width)
    return ((sums + weight // 2) // weight).astype(np.uint8)


def _cosines(side):
    """The rows of the orthonormal DCT-II of which the sixteen lowest frequencies are kept."""
    frequency, at = np.arange(16)[:, None], np.arange(side)
    basis = np.cos(np.pi * (2 * at + 1) * frequency / (2 * side)) * np.sqrt(2 / side)
    basis[0] /= np.sqrt(2)
    return basis


def _thumbnails(pictures):
    return pictures if max(pictures.shape[1:3]) <= 32 else area_average(pictures, 32, 32)


def _rings(height, width):
    """Which ring around the middle each position lies in, in whole numbers."""
    down, across = abs(2 * np.arange(height) + 1 - height) ** 2, abs(2 * np.arange(width) + 1 - width) ** 2
    far = 64 * (down[:, None] * width**2 + across * height**2)
    return (far[:, :, None] >= np.array([9, 25, 49]) * height**2 * width**2).sum(2).reshape(-1)


def _root_of_share(total, of):
    return np.sqrt((total / of).astype(np.float32))


def palettes(thumbnails):
    """What colours a picture shows, and how they lie around its middle: 36 bytes, and its chroma in levels."""
    count, height, width = thumbnails.shape[:3]
    flat = thumbnails.reshape(count, -1, 3).astype(np.int64)
    of, ring = flat.shape[1], _rings(height, width)
    sums, squares = flat.sum(1), (flat**2).sum(1)
    mean = sums.astype(np.float32) / np.float32(of)
    deviation = _root_of_share((of * squares - sums**2).sum(1), 3 * of * of) + np.float32(2)
    shares = np.array_split(np.sort(flat, axis=1), 8, axis=1)
    inner = [flat[:, ring == at] for at in range(4)]
    tones, rings = ([_mean_of(part, mean) for part in parts] for parts in (shares, inner))
    steps = [(level - mean) * np.float32(48) for level in tones] + [(level - mean) * np.float32(19.2) for level in rings]
    levels = np.floor(np.stack(steps, 2) / deviation[:, None, None] + np.float32(128.5)).clip(0, 255).astype(np.uint8)
    apart = flat[:, :, :2] - flat[:, :, 1:]
    chroma = _root_of_share((of * (apart**2).sum(1) - apart.sum(1) ** 2).sum(1), 2 * of * of)
    return levels.reshape(count, 36), np.floor(chroma)


def _mean_of(pixels, otherwise):
    return pixels.sum(1).astype(np.float32) / np.float32(pixels.shape[1]) if pixels.shape[1] else otherwise


def _plain(pixels):
    """Where a pixel is the same as those to the left and above."""
    plain = np.ones(pixels.shape, bool)
    plain[:, :, 1:] &= pixels[:, :, 1:] == pixels[:, :, :-1]
    plain[:, 1:] &= pixels[:, 1:] == pixels[:, :-1]
    plain[:, 0, 0] = False
    return plain.reshape(len(pixels), -1)


class Likenesses:
    """What is kept of each of many pictures of one size, (n, h, w, 3) levels, to compare them by."""

    def __init__(self, pictures, rules=None):
        rules = rules or Rules()
        pictures = np.ascontiguousarray(pictures, np.uint8)
        count = len(pictures)
        self.digests = [hashlib.blake2b(picture.tobytes() + str(picture.shape).encode(), digest_size=16).digest() for picture in pictures]
        self.thumbnails = _thumbnails(pictures)
        side = 16 if max(pictures.shape[1:3]) <= 32 else 32
        self.sides = np.full(count, side)

        sums, weight = _sums(self.thumbnails, side, side)
        grey = sums @ np.array([299.0, 587.0, 114.0]) / (1000 * weight)
        basis = _cosines(side)
        block = np.floor(basis @ grey @ basis.T + 0.5 + 1e-6).astype(np.int64).reshape(count, 256)
        total, direct = block.sum(1), block[:, 0]
        if rules.profile == "paper":
            bits = block * 256 > total[:, None]
            self.flat = np.zeros(count, bool)
        else:
            mean = (2 * (total - direct) + 255) // 510
            bits = block > np.maximum(mean, 0)[:, None]
            self.flat = (block[:, 1:] ** 2).sum(1) < rules.flat_contrast**2 * side * side
        self.hashes = np.packbits(bits, axis=1)

        self.fine = area_average(self.thumbnails, 8, 8).reshape(count, 64, 3)
        self.coarse = area_average(self.thumbnails, 4, 4).reshape(count, 16, 3)
        self.set_bits = ONES[self.hashes].sum(1, dtype=np.int64)
        self.palettes, self.chromas = palettes(self.thumbnails)
        fine = self.fine.astype(np.int64)
        spread = (64 * (fine**2).sum(1) - fine.sum(1) ** 2).sum(1)
        self.deviations = np.sqrt(spread / (3 * 64 * 64)).astype(np.float32)
        self.relief = _covariance(fine, fine)
        shown = area_average(self.thumbnails, side, side) if rules.profile == "paper" else self.thumbnails
        wide = shown.reshape(count, -1, 3).astype(np.uint32)
        self.positions = wide[:, :, 0] << 16 | wide[:, :, 1] << 8 | wide[:, :, 2]
        self.plain = _plain(self.positions.reshape(shown.shape[:3]))

    def __len__(self):
        return len(self.digests)

    def of(self, rows):
        """Those of some rows."""
        some = object.__new__(type(self))
        some.digests = [self.digests[row] for row in rows]
        for name, value in vars(self).items():
            if name != "digests":
                setattr(some, name, None if value is None else value[rows])
        return some

    @classmethod
    def joined(cls, parts):
        """One of many, all with thumbnails of one size."""
        whole = object.__new__(cls)
        whole.digests = [digest for part in parts for digest in part.digests]
        for name in (
            "thumbnails",
            "sides",
            "flat",
            "hashes",
            "fine",
            "coarse",
            "deviations",
            "relief",
            "positions",
            "plain",
            "set_bits",
            "palettes",
            "chromas",
        ):
            setattr(whole, name, np.concatenate([getattr(part, name) for part in parts]))
        return whole


@dataclasses.dataclass
class Measures:
    """How far one row is from each of some other rows, by every measure, before any rule says how near is near.

    Fine cells come ranked, the nearest first: so many are within a level if the last of so many is.
    """

    bits: np.ndarray
    positions: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray
    cast: np.ndarray  # doubled, as the median of sixteen is the mean of two
    palette: np.ndarray
    together: np.ndarray  # what the fine cells vary together beside their slopes
    shown: np.ndarray  # positions that show more than the ground which both pictures lie on

    def at(self, anchors):
        return Measures(*(None if value is None else value[anchors] for value in vars(self).values()))


def _apart(a, b):
    return np.maximum(a, b) - np.minimum(a, b)


def measures(of, row, anchors, rules):
    """From one row to others, by their places."""
    if rules.tolerance == 0:
        positions = (of.positions[anchors] != of.positions[row]).sum(1)
    else:
        positions = (_apart(of.thumbnails[anchors], of.thumbnails[row]).max(3) > rules.tolerance).sum((1, 2))
    coarse = of.coarse[anchors]
    return Measures(
        ONES[of.hashes[anchors] ^ of.hashes[row]].sum(1, dtype=np.int64),
        positions,
        np.sort(_apart(of.fine[anchors], of.fine[row]).max(2), axis=1),
        _apart(coarse, of.coarse[row]).max(2),
        _after_cast(coarse, of.coarse[row]),
        _apart(of.palettes[anchors], of.palettes[row]).sum(1, dtype=np.int64),
        _covariance(of.fine[anchors].astype(np.int64), of.fine[row].astype(np.int64)[None]),
        _shown(of, row, anchors) if rules.plain else np.full(len(positions), of.positions.shape[1]),
    )


def _shown(of, row, anchors):
    """Positions at which there is something to compare: not those where both pictures go on as plainly as each other."""
    both = of.plain[anchors] & of.plain[row] & (of.positions[anchors] == of.positions[row])
    return of.positions.shape[1] - both.sum(1)


def _after_cast(coarse, grid):
    difference = coarse.astype(np.int16) - grid
    ranked = np.sort(difference, axis=1)
    cast = ranked[:, 7] + ranked[:, 8]
    return np.abs(2 * difference - cast[:, None]).max(2)


def _covariance(a, b):
    """Of fine cells, (n, 64, 3) each, less each channel's mean and slopes, times 64 and 1,344; summed over the channels."""
    slope = 2 * np.arange(8) - 7
    across, down = np.tile(slope, 8)[:, None], np.repeat(slope, 8)[:, None]
    product = 1344 * (a * b).sum(1) - 21 * a.sum(1) * b.sum(1)
    return (product - (across * a).sum(1) * (across * b).sum(1) - (down * a).sum(1) * (down * b).sum(1)).sum(1)


def _within(ranked, needed, level):
    """Whether at least so many of the ranked distances are within the level of each."""
    if needed > ranked.shape[1]:
        return np.zeros(len(ranked), bool)
    return ranked[:, needed - 1] <= level


def reach(of, row, anchors, found, rules):
    """For each anchor the innermost radius, "reuse", "suspect" or "", and the first reason for it."""
    bits = _counted_bits(of, row, anchors, found, rules)
    smaller = np.minimum(of.deviations[anchors], of.deviations[row])
    level = np.minimum(np.float32(rules.cell_contrast) * smaller, rules.cell_level).astype(np.uint8)
    tests = [
        ("reuse", "bits", bits <= rules.reuse_bits),
        ("reuse", "pixels", found.positions <= rules.reuse_positions * found.shown // 1024),
        ("reuse", "cells", _within(found.fine, rules.reuse_cells, level)),
        ("suspect", "bits", bits <= rules.suspect_bits),
        ("suspect", "pixels", found.positions <= rules.suspect_positions * found.shown // 1024),
        *_coarsely(of, row, anchors, found, rules),
    ]
    hits = [hit for _, _, hit in tests]
    return np.select(hits, [radius for radius, _, _ in tests], ""), np.select(hits, [reason for _, reason, _ in tests], "")


def _counted_bits(of, row, anchors, found, rules):
    bits = found.bits
    if rules.profile == "hardened":
        bits = np.where(of.flat[anchors] | of.flat[row], 10_000, bits)
    if rules.bits_share:
        bits = np.where(bits <= rules.bits_share * (of.set_bits[anchors] + of.set_bits[row]), bits, 10_000)
    return bits


def _coarsely(of, row, anchors, found, rules):
    """What makes a row suspect beside bits and positions."""
    grids = of.coarse[anchors], np.broadcast_to(of.coarse[row], (len(found.bits), 16, 3))
    for reason, apart, limit, levels in (
        ("coarse", found.coarse, rules.suspect_level, 1),
        ("colour_cast", found.cast, rules.suspect_cast_level, 2),
    ):
        near = (apart <= levels * limit).sum(1) >= rules.suspect_cells
        if rules.suspect_contrast and near.any():
            among = (apart <= levels * limit)[:, :, None]
            contrast = np.minimum(*(_deviation_of(grid, among) for grid in grids))
            level = np.minimum(limit, (np.float32(rules.suspect_contrast) * contrast).astype(np.int64))
            near &= ((apart <= levels * level[:, None]).sum(1) >= rules.suspect_cells) & (level >= 1)
        yield "suspect", reason, near
    if rules.suspect_correlation <= 1:
        both = np.sqrt(of.relief[anchors].astype(np.float64) * of.relief[row])
        enough = np.minimum(of.relief[anchors], of.relief[row]) >= LOWEST_RELIEF
        yield "suspect", "correlation", enough & (found.together / np.maximum(both, 1) >= rules.suspect_correlation)
    if rules.suspect_palette:
        chroma = np.minimum(np.minimum(of.chromas[anchors], of.chromas[row]) / np.float32(rules.palette_chroma), 1)
        yield "suspect", "palette", found.palette.astype(np.float32) / np.float32(48 * 24) < np.float32(rules.suspect_palette) * chroma


def _deviation_of(cells, among):
    """The root of the mean over the channels of the variance of some of the cells, (n, 16, 3) and (n, 16, 1)."""
    count = among.sum(1).clip(1).astype(np.int64)
    cells = cells.astype(np.int64) * among
    spread = (count * (cells**2).sum(1) - cells.sum(1) ** 2).sum(1)
    return np.sqrt(spread / (3 * count[:, 0] ** 2)).astype(np.float32)


def guards(likenesses, row, anchors, rules):
    """Whether each anchor's answer may serve the row."""
    thumbnails = likenesses.thumbnails
    outside = int((1 - rules.guard_share) * thumbnails.shape[1] * thumbnails.shape[2] + 1e-6)
    level, cell = rules.guard_level, rules.guard_cell
    beyond = (_apart(thumbnails[anchors], thumbnails[row]).max(3) > level).sum((1, 2))
    farthest = _apart(likenesses.fine[anchors], likenesses.fine[row]).max((1, 2))
    return (beyond <= outside) & (farthest <= cell)


@dataclasses.dataclass(frozen=True)
class Ruled:
    """What became of one row, why, whether it counts, and which row answers for it."""

    ruling: str
    reason: str
    suspect: bool = False
    anchor: int | None = None


class Session:
    """One caller's past with one model in one view; time stands still."""

    def __init__(self, likenesses, rules, measured=None):
        """`measured` keeps what was measured between these likenesses, for whoever judges them by many rules."""
        self.of, self.rules, self.measured = likenesses, rules, measured
        self.never_hit, self.hit = deque(), OrderedDict()
        self.ghosts, self.answered, self.suspicion = deque(), {}, 0

    def judge(self, row):
        """Rules on the row at this place of the likenesses, and remembers it."""
        ruled = self._by_the_paper(row) if self.rules.profile == "paper" else self._hardened(row)
        if ruled.ruling == FORWARD:
            if ruled.suspect:
                self.suspicion = min(self.suspicion + 1, self.rules.suspicions)
            self._add(row)
        elif ruled.ruling == REPLAY and self.rules.profile == "hardened" and ruled.reason != "exact":
            self.answered[self.of.digests[row]] = ruled.anchor
            self._promote(ruled.anchor)
        return ruled

    def _measures(self, row, anchors):
        if self.measured is None:
            return measures(self.of, row, anchors, self.rules)
        if row not in self.measured:
            self.measured[row] = measures(self.of, row, np.arange(row), self.rules)
        return self.measured[row].at(anchors)

    def _anchors(self):
        return np.fromiter([*self.never_hit, *self.hit], np.int64)

    def _add(self, row):
        self.never_hit.append(row)
        kept = 1 if self.rules.profile == "paper" else self.rules.anchors_never_hit
        while len(self.never_hit) > kept:
            self._leave(self.never_hit.popleft())

    def _leave(self, anchor):
        self.ghosts.append(anchor)
        while len(self.ghosts) > self.rules.ghosts:
            self.ghosts.popleft()

    def _promote(self, anchor):
        if anchor in self.hit:
            self.hit.move_to_end(anchor)
            return
        self.never_hit.remove(anchor)
        self.hit[anchor] = None
        while len(self.hit) > self.rules.anchors_hit:
            self._leave(self.hit.popitem(last=False)[0])

    def _nearest(self, row, anchors):
        pixels = self.of.thumbnails
        difference = np.abs(pixels[anchors].astype(np.int16) - pixels[row]).sum((1, 2, 3))
        return int(anchors[np.argmin(difference)])

    def _by_the_paper(self, row):
        if not self.never_hit:
            return Ruled(FORWARD, "new")
        anchor = self.never_hit[0]
        if self.of.digests[anchor] == self.of.digests[row]:
            return Ruled(REPLAY, "exact", anchor=anchor)
        bits = int(ONES[self.of.hashes[anchor] ^ self.of.hashes[row]].sum())
        if bits <= int(self.rules.threshold * 256 + 1e-6):
            return Ruled(REPLAY, "bits", anchor=anchor)
        of = int(self.of.sides[row]) ** 2
        same = self.of.sides[anchor] == self.of.sides[row]
        positions = int((self.of.positions[anchor] != self.of.positions[row]).sum()) if same else of
        similar = positions <= int(self.rules.threshold * of + 1e-6)
        return Ruled(REPLAY, "pixels", anchor=anchor) if similar else Ruled(FORWARD, "new")

    def _hardened(self, row):
        rules, digest = self.rules, self.of.digests[row]
        anchors = self._anchors()
        before = self.answered.get(digest)
        if before is not None and before in anchors:
            return Ruled(REPLAY, "exact", anchor=before)
        exact = [anchor for anchor in anchors if self.of.digests[anchor] == digest]
        if not exact and any(self.of.digests[ghost] == digest for ghost in self.ghosts):
            return Ruled(FORWARD, "exact")
        if exact:
            return Ruled(REPLAY, "exact", anchor=int(exact[0]))
        near = np.zeros(0, np.int64)
        if len(anchors):
            radius, reason = reach(self.of, row, anchors, self._measures(row, anchors), rules)
            within = radius != ""
            near, radius, reason = anchors[within], radius[within], reason[within]
        if len(near):
            guarded = guards(self.of, row, near, rules)
            reusable = guarded & (radius == "reuse")
            if reusable.any():
                anchor = self._nearest(row, near[reusable])
                return Ruled(REPLAY, str(reason[near == anchor][0]), anchor=anchor)
            closest = self._nearest(row, near)
            why = str(reason[near == closest][0]) if radius[near == closest][0] == "suspect" else "unguarded"
        elif self._haunted(row):
            guarded, why = np.zeros(0, bool), "ghost"
        else:
            return Ruled(FORWARD, "new")
        if self.suspicion < rules.suspicions:
            return Ruled(FORWARD, why, suspect=True)
        if guarded.any():
            return Ruled(REPLAY, why, suspect=True, anchor=self._nearest(row, near[guarded]))
        if rules.on_suspected == "forward":
            return Ruled(FORWARD, why, suspect=True)
        if rules.on_suspected == "replay" and len(near):
            return Ruled(REPLAY, why, suspect=True, anchor=self._nearest(row, near))
        return Ruled(REFUSE, why, suspect=True)

    def _haunted(self, row):
        if not self.ghosts:
            return False
        ghosts = np.fromiter(self.ghosts, np.int64)
        found = self._measures(row, ghosts)
        bits = _counted_bits(self.of, row, ghosts, found, self.rules)
        coarsely = [near for _, reason, near in _coarsely(self.of, row, ghosts, found, self.rules) if reason not in ("palette", "correlation")]
        return bool(((bits <= self.rules.suspect_bits) | np.any(coarsely, axis=0)).any())
