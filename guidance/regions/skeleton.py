"""The centre lines of what a brush drew: a mask of any thickness -> polylines along its middle, and the thickness."""

from __future__ import annotations

import functools

import numpy as np

from .raster import opencv

Cell = tuple[int, int]  # row, column

_AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # (row, column), clockwise from above
_SLACK = 1.0  # cells by which a polyline may cut a corner
_WEIGHTS = np.zeros((3, 3), np.float32)
for _bit, (_row, _column) in enumerate(_AROUND):
    _WEIGHTS[1 + _row, 1 + _column] = 1 << _bit


def lines(mask: np.ndarray) -> tuple[list[list[tuple[float, float]]], float]:
    """bool (h, w), one connected part -> polylines of (x, y) in cells along its skeleton, and its thickness in cells.

    The first polyline is the longest way through the skeleton, the next ones are what it left out: branches, the other
    side of a loop. The thickness is the mean over the skeleton.
    """
    cv2 = opencv()
    rows, columns = np.nonzero(mask)
    top, left = int(rows.min()), int(columns.min())
    crop = np.pad(mask[top : rows.max() + 1, left : columns.max() + 1], 1)
    thin = skeleton(crop)
    inside = cv2.distanceTransform(crop.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    thickness = max(1.0, float(2 * (inside[thin] - 0.5).mean()))
    near = thickness / 2 + 1  # what is so near to a polyline is drawn with it
    paths: list[list[tuple[float, float]]] = []
    rest = thin.copy()
    while rest.any():
        path = _longest(rest)
        line = np.ones(rest.shape, np.uint8)
        line[tuple(np.array(path).T)] = 0
        rest &= cv2.distanceTransform(line, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > near
        if not paths or len(path) > near:
            corners = cv2.approxPolyDP(np.array(path, np.float32)[:, None], _SLACK, False)[:, 0]
            paths.append([(float(x) + left - 0.5, float(y) + top - 0.5) for y, x in corners])  # less the padding's cell
    return paths, thickness


def skeleton(mask: np.ndarray) -> np.ndarray:
    """bool (h, w) with an empty border -> bool (h, w): as connected as the mask, one cell thin.

    Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 32 (1989).
    """
    cv2 = opencv()
    image = mask.astype(np.uint8)
    while True:
        before = cv2.countNonZero(image)
        for table in _keep():
            code = cv2.filter2D(image, cv2.CV_8U, _WEIGHTS, borderType=cv2.BORDER_CONSTANT)
            image &= cv2.LUT(code, table)
        if cv2.countNonZero(image) == before:
            return image.astype(bool)


def _longest(thin: np.ndarray) -> list[Cell]:
    """The way between the two cells of one connected part of a skeleton that are farthest apart along it."""
    cells: set[Cell] = {(row, column) for row, column in np.argwhere(thin).tolist()}
    far = list(_reached(cells, next(iter(cells))))[-1]
    came_from = _reached(cells, far)
    way: list[Cell] = []
    step: Cell | None = list(came_from)[-1]
    while step is not None:
        way.append(step)
        step = came_from[step]
    return way


def _reached(cells: set[Cell], start: Cell) -> dict[Cell, Cell | None]:
    """Breadth first: every cell that ``start`` reaches, nearest first -> the cell before it."""
    came_from: dict[Cell, Cell | None] = {start: None}
    queue = [start]
    for row, column in queue:
        for down, right in _AROUND:
            cell = row + down, column + right
            if cell in cells and cell not in came_from:
                came_from[cell] = row, column
                queue.append(cell)
    return came_from


@functools.cache
def _keep() -> tuple[np.ndarray, np.ndarray]:
    """For both subiterations: by the bits of a cell's eight neighbours, 1 if it stays and 0 if it goes."""
    tables = np.ones((2, 256), np.uint8)
    for code in range(256):
        n, ne, e, se, s, sw, w, nw = (bool(code >> bit & 1) for bit in range(8))
        crossings = sum((not n and (ne or e), not e and (se or s), not s and (sw or w), not w and (nw or n)))
        pairs = min((nw or n) + (ne or e) + (se or s) + (sw or w), (n or ne) + (e or se) + (s or sw) + (w or nw))
        sides = ((n or ne or not se) and e, (s or sw or not nw) and w)
        for table, side in zip(tables, sides, strict=True):
            table[code] = not (crossings == 1 and 2 <= pairs <= 3 and not side)
    return tables[0], tables[1]
