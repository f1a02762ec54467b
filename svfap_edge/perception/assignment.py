"""Matching two sets so that the sum of the costs is the least, without SciPy."""

from __future__ import annotations

import numpy as np


def assign(costs: np.ndarray, unmatched: float) -> list[tuple[int, int]]:
    """Pairs (row, column) with the least sum of costs, in the order of the rows.

    Costs, (rows, columns), are infinite where a pair is impossible. Leaving a row out costs
    `unmatched`, and a pair that costs more than this is never made.

    The Hungarian method by shortest augmenting paths (Kuhn 1955; Jonker and Volgenant 1987): each
    row in turn gets a column, and rows that came before move over where that is cheaper in all.
    """
    rows, columns = costs.shape
    if not rows or not columns:
        return []
    # A column of its own for each row: to take it is to stay out. No pair above it is worth while.
    large = unmatched * (rows + 1) + 1
    table = np.full((rows, columns + rows), large)
    table[:, :columns] = np.where(costs <= unmatched, costs, large)
    table[np.arange(rows), columns + np.arange(rows)] = unmatched
    owner = np.full(columns + rows, -1)  # the row that has each column
    by_row, by_column = np.zeros(rows), np.zeros(columns + rows)
    for row in range(rows):
        _augment(table, owner, by_row, by_column, row)
    pairs = [(int(row), int(column)) for column, row in enumerate(owner[:columns]) if row >= 0]
    return sorted(pair for pair in pairs if costs[pair] <= unmatched)


def _augment(
    table: np.ndarray, owner: np.ndarray, by_row: np.ndarray, by_column: np.ndarray, start: int
) -> None:
    """Give row `start` a column along the cheapest path of exchanges; the arrays change.

    `by_row` and `by_column` are the dual prices: a cost less both prices is never negative.
    """
    count = table.shape[1]
    distance = np.full(count, np.inf)
    came_from = np.full(count, -1)  # the column before, -1 for the start
    done = np.zeros(count, bool)
    row, column, length = start, -1, 0.0
    while True:
        reach = length + table[row] - by_row[row] - by_column
        closer = ~done & (reach < distance)
        distance[closer], came_from[closer] = reach[closer], column
        column = int(np.where(done, np.inf, distance).argmin())
        length = float(distance[column])
        done[column] = True
        if owner[column] < 0:
            break
        row = int(owner[column])
    by_row[start] += length
    taken = np.flatnonzero(done & (owner >= 0))
    by_row[owner[taken]] += length - distance[taken]
    by_column[done] -= length - distance[done]
    while column >= 0:
        before = int(came_from[column])
        owner[column] = start if before < 0 else owner[before]
        column = before
