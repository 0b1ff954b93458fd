"""The one writer of Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["markdown_table"]


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    r"""Lines of cells as a Markdown table with aligned columns.

    Args:
        lines: the heading first, then the rows; as many cells in each line.

    Returns:
        the table, without a newline at its end; `|` within a cell is escaped, a newline becomes a blank.

    Raises:
        ValueError: without a heading, or for lines of different length.

    Example:
        >>> print(markdown_table([["arm", "ADI"], ["STD", "0.50"]]))
        | arm | ADI  |
        |-----|------|
        | STD | 0.50 |
    """
    if not lines or len({len(line) for line in lines}) > 1:
        raise ValueError(
            f"a table needs a heading, and as many cells in each line; got lines of {list(map(len, lines))} cells"
        )
    cells = [[" ".join(cell.replace("|", r"\|").splitlines()) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)
