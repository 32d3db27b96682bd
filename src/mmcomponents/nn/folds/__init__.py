"""Rectangles of an image tokenizer's ids, each of which is one token of a language model.

ids [N, h, w] ── fold_ids ──► [N * h/rows * w/columns, rows * columns] ── unfold_ids ──► ids [N, h, w]
"""

from mmcomponents.nn.folds.fold_ids import check_fold, fold_ids, unfold_ids

__all__ = ["check_fold", "fold_ids", "unfold_ids"]
