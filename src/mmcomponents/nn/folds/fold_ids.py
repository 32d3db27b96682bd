"""From grids of ids to folds and back."""

from __future__ import annotations

from torch import Tensor


def fold_ids(ids: Tensor, rows: int, columns: int) -> Tensor:
    """Returns the ids of each rectangle of `rows x columns`, in the order of visual tokens and row by row inside.

    Args:
        ids: `[N, h, w]`.
        rows: Height of a rectangle.
        columns: Width of a rectangle.

    Returns:
        `[N * h/rows * w/columns, rows * columns]`.

    Raises:
        ValueError: The rectangles do not divide the grid.
    """
    height, width = ids.shape[1:]
    check_fold((height, width), rows, columns)
    blocks = ids.unflatten(1, (height // rows, rows)).unflatten(3, (width // columns, columns))
    folds: Tensor = blocks.transpose(2, 3).flatten(3).flatten(0, 2)
    return folds


def unfold_ids(folds: Tensor, hw: tuple[int, int], rows: int, columns: int) -> Tensor:
    """Returns the grids `[N, h, w]` of the ids of their rectangles, the inverse of `fold_ids`.

    Args:
        folds: `[N * h/rows * w/columns, rows * columns]`.
        hw: Height and width of a grid.
        rows: Height of a rectangle.
        columns: Width of a rectangle.

    Raises:
        ValueError: The rectangles do not divide the grid, or are no whole number of grids.
    """
    check_fold(hw, rows, columns)
    if folds.shape[1] != rows * columns or folds.numel() % (hw[0] * hw[1]):
        raise ValueError(
            f"{folds.numel()} ids in folds of {folds.shape[1]} are no whole pictures of {hw[0]} x {hw[1]} ids in folds"
            f" of {rows} x {columns}"
        )
    blocks = folds.unflatten(1, (rows, columns)).unflatten(0, (-1, hw[0] // rows, hw[1] // columns))
    grids: Tensor = blocks.transpose(2, 3).flatten(3).flatten(1, 2)
    return grids


def check_fold(hw: tuple[int, int], rows: int, columns: int) -> None:
    """Checks that rectangles divide a grid.

    Raises:
        ValueError: They do not.
    """
    if hw[0] % rows or hw[1] % columns:
        raise ValueError(f"a fold of {rows} x {columns} does not divide a grid of {hw[0]} x {hw[1]} ids")
