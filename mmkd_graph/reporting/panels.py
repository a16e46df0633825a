"""Detections drawn into images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import mmcv
import numpy as np
from mmengine.visualization import Visualizer
from numpy.typing import NDArray

from .detections import Image, Matches, Predictions

OBJECT, TRUE, FALSE, MISSED = '#ffffff', '#2ee66b', '#ff5a3c', '#ffd21f'
"""Colours of boxes; their lines differ as well: solid, solid, dashed, dotted."""

_WIDTH = 640
"""Pixels of a panel's width; smaller images are enlarged, larger ones reduced."""


class Panels:
    """Draws one image several times: the objects in it, and what each model finds.

    Args:
        image: what is drawn into.
        classes: names of the classes.
    """

    def __init__(self, image: Image, classes: Sequence[str]) -> None:
        pixels = mmcv.imread(image.path, channel_order='rgb')
        self._scale = _WIDTH / pixels.shape[1]
        size = (_WIDTH, max(1, round(pixels.shape[0] * self._scale)))
        self._pixels = mmcv.imresize(pixels, size, interpolation='area' if self._scale < 1 else 'bicubic')
        self._image, self._classes = image, classes

    def truth(self) -> bytes:
        """A JPEG with all objects that count, and their classes."""
        counted = ~self._image.ignored
        drawing = Visualizer(image=self._pixels)
        boxes = self._image.boxes[counted]
        self._boxes(drawing, boxes, OBJECT, '-')
        self._names(drawing, boxes, [self._classes[label] for label in self._image.labels[counted]], OBJECT)
        return _jpeg(drawing)

    def predictions(self, found: Predictions, matches: Matches) -> bytes:
        """A JPEG with what a model finds: true and false detections with classes and scores, and missed objects."""
        drawing = Visualizer(image=self._pixels)
        self._boxes(drawing, self._image.boxes[~matches.found & ~self._image.ignored], MISSED, ':')
        for mask, colour, line in ((matches.shown & ~matches.true, FALSE, '--'), (matches.true, TRUE, '-')):
            which = np.flatnonzero(mask)
            which = which[np.argsort(found.scores[which])]  # the best ones on top
            boxes = found.boxes[which]
            self._boxes(drawing, boxes, colour, line)
            pairs = zip(found.labels[which], found.scores[which], strict=True)
            self._names(drawing, boxes, [f'{self._classes[label]} {score:.2f}' for label, score in pairs], colour)
        return _jpeg(drawing)

    def _scaled(self, boxes: NDArray) -> NDArray:
        height, width = self._pixels.shape[:2]
        return np.clip(boxes * self._scale, 0, [width - 1, height - 1] * 2)

    def _boxes(self, drawing: Visualizer, boxes: NDArray, colour: str, line: str) -> None:
        boxes = self._scaled(boxes)
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
        if len(boxes):
            drawing.draw_bboxes(boxes, edge_colors='black', line_widths=5, alpha=0.5)  # legible on any image
            drawing.draw_bboxes(boxes, edge_colors=colour, line_styles=line, line_widths=2.5, alpha=1.0)

    def _names(self, drawing: Visualizer, boxes: NDArray, names: Sequence[str], colour: str) -> None:
        if len(boxes):
            style = dict(facecolor='black', edgecolor='none', alpha=0.9, pad=1)
            drawing.draw_texts(list(names), self._scaled(boxes)[:, :2] + 2, 13, colour, bboxes=style)


def _jpeg(drawing: Visualizer) -> bytes:
    return cv2.imencode('.jpg', drawing.get_image()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
