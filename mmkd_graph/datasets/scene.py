"""Scenes of the demonstration set: textured shapes among clutter, with exact boxes.

Pure numpy and OpenCV; a scene is a function of a random generator and a size, nothing else.

A class is a pair (texture, shape). Every shape comes in every texture, so neither the outline nor the filling
alone tells the class, and distractors carry the same textures on other outlines and the same outlines with
other fillings. Colours, orientation and size say nothing about the class.
"""

from dataclasses import dataclass

import cv2
import numpy as np

TEXTURES = ('striped', 'checked')
SHAPES = ('disc', 'triangle', 'star')
CLASSES = tuple(f'{texture}_{shape}' for shape in SHAPES for texture in TEXTURES)
"""Class names in label order."""

MIN_VISIBLE = 0.4
"""Objects with a smaller visible fraction are marked difficult (VOC) and crowd (COCO): ignored in training
and in evaluation."""
MIN_DIFFICULT = 0.15
"""Objects with a smaller visible fraction are not annotated at all."""
MIN_SIDE = 6
"""Objects whose visible box has a shorter side, in pixels, are not annotated."""

PLACES = 4
"""Random places tried for a thing; one place gives crowds, many give scenes without occlusion."""
MAX_TURN = np.pi / 6
"""Shapes, and textures within a shape, are turned by at most this angle, in radians, to either side."""

_SHIFT = 4  # fractional bits of the polygon coordinates given to OpenCV
_NOBODY = -1


@dataclass(frozen=True)
class Scene:
    """One rendered image with its annotations.

    Attributes:
        image: ``(H, W, 3)`` uint8, BGR.
        boxes: ``(N, 4)`` int64, ``x1, y1, x2, y2`` in pixels; ``x2`` and ``y2`` are exclusive. Tight around
            the visible pixels.
        labels: ``(N,)`` int64, indices into :data:`CLASSES`.
        difficult: ``(N,)`` bool, visible fraction below :data:`MIN_VISIBLE`.
        visible: ``(N,)`` float64, visible pixels over the area of the whole shape, in ``[0, 1]``.
        owner: ``(H, W)`` int16, the index of the annotation that is visible at a pixel, ``-1`` for none.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    visible: np.ndarray
    owner: np.ndarray


def render_scene(
    rng: np.random.Generator,
    size: tuple[int, int] = (256, 192),
    num_objects: tuple[int, int] = (2, 6),
    num_distractors: tuple[int, int] = (1, 4),
    diameter: tuple[float, float] = (22.0, 150.0),
    noise: float = 6.0,
) -> Scene:
    """Renders one scene.

    Args:
        rng: the only source of randomness; equal generators give equal scenes.
        size: width and height of the image in pixels.
        num_objects: fewest and most objects drawn. Hidden ones are not annotated, so fewer may be returned.
        num_distractors: fewest and most things drawn that belong to no class.
        diameter: smallest and largest diameter of an object in pixels; its logarithm is uniform, so every
            level of a feature pyramid gets objects.
        noise: largest standard deviation of the sensor noise, in grey levels.

    Returns:
        The image with its boxes and labels.

    Raises:
        ValueError: if a range is empty or the size is smaller than 32 pixels.
    """
    width, height = size
    if min(size) < 32:
        raise ValueError(f'size must be at least 32x32 pixels, got {size}')
    ranges = dict(num_objects=num_objects, num_distractors=num_distractors, diameter=diameter)
    for name, (low, high) in ranges.items():
        if not 0 <= low <= high:
            raise ValueError(f'{name} must be an ascending pair of non-negative numbers, got {(low, high)}')

    canvas = _background(rng, width, height)
    owner = np.full((height, width), _NOBODY, np.int16)
    objects, distractors = (int(rng.integers(low, high + 1)) for low, high in (num_objects, num_distractors))
    things = [(_draw_size(rng, *diameter), True) for _ in range(objects)]
    # Distractors stay smaller, or they would hide too much.
    things += [(_draw_size(rng, diameter[0], diameter[1] * 0.5), False) for _ in range(distractors)]
    # Large things are drawn first, roughly: otherwise they would hide nearly everything.
    depth = np.log([thing[0] for thing in things]) + rng.normal(0, 0.35, len(things)) if things else []

    labels, areas = [], []
    for index in np.argsort(depth, kind='stable')[::-1]:
        extent, is_object = things[index]
        if is_object:
            label = int(rng.integers(len(CLASSES)))
            texture, shape = CLASSES[label].split('_')
            areas.append(_paint(canvas, owner, rng, shape, texture, extent, len(labels)))
            labels.append(label)
        else:
            _distract(canvas, owner, rng, extent)

    boxes, kept, visible = [], [], []
    for index, area in enumerate(areas):
        rows, columns = np.nonzero(owner == index)
        fraction = min(1.0, len(rows) / area)
        if fraction >= MIN_DIFFICULT and min(np.ptp(rows), np.ptp(columns)) + 1 >= MIN_SIDE:
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            kept.append(index)
            visible.append(fraction)
    renumber = np.full(len(labels) + 1, _NOBODY, np.int16)  # the last entry serves owner == -1
    renumber[kept] = np.arange(len(kept))
    return Scene(
        image=_expose(canvas, rng, noise),
        boxes=np.array(boxes, np.int64).reshape(-1, 4),
        labels=np.array([labels[index] for index in kept], np.int64),
        difficult=np.array(visible, np.float64) < MIN_VISIBLE,
        visible=np.array(visible, np.float64),
        owner=renumber[owner],
    )


def _draw_size(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(max(low, 1.0)), np.log(max(high, 1.0)))))


def _circle(radius: float, count: int = 48) -> np.ndarray:
    angle = np.arange(count) * (2 * np.pi / count) - np.pi / 2  # from the top, so that a triangle stands
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _contours(shape: str) -> list[np.ndarray]:
    """Closed contours of a shape inside the unit circle, even-odd filled; each ``(K, 2)``."""
    star = _circle(1.0, 10)
    star[1::2] *= 0.5
    arm = np.array([[1, 0.3], [0.3, 0.3], [0.3, 1], [-0.3, 1], [-0.3, 0.3], [-1, 0.3]])
    return {
        'disc': [_circle(0.92)],
        'triangle': [_circle(1.0, 3)],
        'star': [star],
        'ring': [_circle(0.95), _circle(0.55)],
        'cross': [0.95 * np.concatenate([arm, -arm])],
        'bar': [np.array([[-1, -0.25], [1, -0.25], [1, 0.25], [-1, 0.25]])],
        'half': [_circle(0.95)[:25]],
    }[shape]


def _paint(
    canvas: np.ndarray,
    owner: np.ndarray,
    rng: np.random.Generator,
    shape: str,
    texture: str,
    extent: float,
    identity: int,
) -> float:
    """Draws one textured shape in place; returns the area in pixels inside its outline, hidden parts included."""
    height, width = owner.shape
    aspect = np.exp(rng.uniform(-0.2, 0.2))
    turn, squeeze = rng.uniform(-MAX_TURN, MAX_TURN), rng.uniform(0, 2 * np.pi)
    # Turn the shape, then stretch it along an independent direction.
    stretch = _rotation(squeeze) @ np.diag([aspect, 1 / aspect]) @ _rotation(-squeeze)
    affine = stretch @ _rotation(turn) * (extent / 2)
    centre = _place(rng, owner, extent)

    contours = [contour @ affine.T + centre for contour in _contours(shape)]
    corners = np.concatenate(contours)
    left, top = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, (width - 1, height - 1))
    right, bottom = np.clip(np.ceil(corners.max(0)).astype(int) + 2, (left + 1, top + 1), (width, height))

    mask = np.zeros((bottom - top, right - left), np.uint8)
    fixed = [np.round((contour - (left, top)) * (1 << _SHIFT)).astype(np.int32) for contour in contours]
    cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, _SHIFT)
    alpha = mask.astype(np.float32)[..., None] / 255

    ys, xs = np.ogrid[top:bottom, left:right]
    xs, ys = (xs - centre[0]).astype(np.float32), (ys - centre[1]).astype(np.float32)
    inverse = np.linalg.inv(affine).astype(np.float32)
    u = inverse[0, 0] * xs + inverse[0, 1] * ys
    v = inverse[1, 0] * xs + inverse[1, 1] * ys
    patch = canvas[top:bottom, left:right]
    patch += alpha * (_fill(rng, texture, u, v, extent) - patch)
    owner[top:bottom, left:right][mask >= 128] = identity
    x, y = contours[0].T
    return float(0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))  # shoelace formula


def _place(rng: np.random.Generator, owner: np.ndarray, extent: float) -> np.ndarray:
    """The centre for the next thing, ``x, y``: of a few places, the one that hides least of the objects."""
    height, width = owner.shape
    # Large shapes stay away from the border, or they would mostly be outside.
    margin = min(0.35 * extent, 0.35 * width, 0.35 * height)
    places = rng.uniform((margin, margin), (width - margin, height - margin), (PLACES, 2))
    hidden = []
    for x, y in places:
        top, left = max(0, int(y - extent / 2)), max(0, int(x - extent / 2))
        hidden.append(np.count_nonzero(owner[top : int(y + extent / 2), left : int(x + extent / 2)] >= 0))
    return places[int(np.argmin(hidden))]


def _fill(rng: np.random.Generator, texture: str, u: np.ndarray, v: np.ndarray, extent: float) -> np.ndarray:
    """Colours of a texture at the coordinates ``u, v`` of a shape: ``(h, w, 3)`` float32."""
    # A saturated body with a darker pattern, plain to see or faint. Red, green and blue in any order.
    first = rng.permuted([rng.uniform(20, 90), rng.uniform(40, 220), rng.uniform(180, 250)])
    second = first * rng.uniform(0.15, 0.4)
    # A period is never below 6 pixels, or small textures would average out to a plain colour.
    period = max(2 / rng.uniform(2.5, 3.5), 6.0 * 2 / extent)
    phase = rng.uniform(0, 2 * np.pi, 2).astype(np.float32)
    turn = (_rotation(rng.uniform(-MAX_TURN, MAX_TURN)) * (2 * np.pi / period)).astype(np.float32)
    along = turn[0, 0] * u + turn[1, 0] * v
    if texture == 'striped':
        wave = 3 * np.sin(along + phase[0])
    elif texture == 'checked':
        across = turn[0, 1] * u + turn[1, 1] * v
        wave = 4.5 * np.sin(along + phase[0]) * np.sin(across + phase[1])
    elif texture == 'plain':
        wave = 0.45 * along
    else:  # rough
        wave = 1.8 * rng.standard_normal(u.shape, np.float32)
    weight = 0.5 + 0.5 * np.tanh(wave)[..., None]
    return first.astype(np.float32) + weight * (second - first).astype(np.float32)


def _distract(canvas: np.ndarray, owner: np.ndarray, rng: np.random.Generator, extent: float) -> None:
    """Draws something in place that belongs to no class, and hides what is under it."""
    kind = rng.random()
    if kind < 0.3:  # the outline of a class, another filling
        texture = str(rng.choice(['plain', 'rough']))
        _paint(canvas, owner, rng, str(rng.choice(SHAPES)), texture, extent, _NOBODY)
    elif kind < 0.65:  # the filling of a class, another outline
        shape = str(rng.choice(['ring', 'cross', 'bar', 'half']))
        _paint(canvas, owner, rng, shape, str(rng.choice(TEXTURES)), extent, _NOBODY)
    else:
        height, width = owner.shape
        start = rng.uniform(0, 1, 2) * (width, height)
        steps = np.cumsum(rng.normal(0, extent / 3, (6, 2)), axis=0)
        points = np.round((start + steps) * (1 << _SHIFT)).astype(np.int32)
        thickness = int(rng.integers(1, 4))
        colour = tuple(float(channel) for channel in rng.uniform(20, 235, 3))
        cv2.polylines(canvas, [points], False, colour, thickness, cv2.LINE_8, _SHIFT)
        stroke = np.zeros(owner.shape, np.uint8)
        cv2.polylines(stroke, [points], False, 1, thickness, cv2.LINE_8, _SHIFT)
        owner[stroke > 0] = _NOBODY


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Soft coloured clouds at three scales, ``(H, W, 3)`` float32."""
    canvas = np.full((height, width, 3), rng.uniform(90, 165) + rng.uniform(-15, 15, 3), np.float32)
    for cells, strength in ((3, 14.0), (8, 8.0), (32, 5.0)):
        grid = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        canvas += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return canvas


def _expose(canvas: np.ndarray, rng: np.random.Generator, noise: float) -> np.ndarray:
    """Light from one side, a colour cast, a soft lens and sensor noise; returns uint8."""
    height, width = canvas.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.ogrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    light = 1 + rng.uniform(0, 0.7) * (np.cos(angle) * xs + np.sin(angle) * ys)[..., None]
    light = light * rng.uniform(0.65, 1.2) * rng.uniform(0.9, 1.1, 3)
    blur = rng.uniform(0, 0.9)
    if blur > 0.3:  # below, the kernel is a single pixel in effect
        canvas = cv2.GaussianBlur(canvas, (5, 5), blur)
    grain = rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(0.25, 1.0) * noise)
    exposed = canvas * light.astype(np.float32) + grain
    return np.clip(np.rint(exposed), 0, 255).astype(np.uint8)


def _rotation(angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])
