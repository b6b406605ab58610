"""Sudoku on a 4x4 grid: four rows of four digits, 0 for a blank, always with one solution only."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from random import Random

from nano_llada.world.item import Item, Skill, Turn
from nano_llada.world.splits import Admits, Key
from nano_llada.world.verifier import Verifier, is_sudoku

SUDOKU_ZH = ("数独：{grid}。", "请填好数独：{grid}。")
SUDOKU_EN = ("Sudoku: {grid}.", "Fill the sudoku: {grid}.")


@cache
def solved_grids() -> tuple[str, ...]:
    """All 288 solved grids, each as 16 digits row by row."""
    rows = ["".join(digits) for digits in permutations("1234")]
    tops = [(a, b) for a in rows for b in rows if len({*a[:2], *b[:2]}) == 4]
    grids = ("".join(top + bottom) for top in tops for bottom in tops)
    return tuple(grid for grid in grids if is_sudoku(grid))


def solutions(puzzle: str) -> list[str]:
    """All solved grids that agree with a puzzle of 16 digits in which 0 is blank."""
    givens = [(place, digit) for place, digit in enumerate(puzzle) if digit != "0"]
    return [grid for grid in solved_grids() if all(grid[place] == digit for place, digit in givens)]


def grouped(grid: str) -> str:
    """16 digits as four rows, a space around each digit so that each is a token of its own."""
    return " / ".join(" ".join(grid[start : start + 4]) for start in range(0, 16, 4))


def _sudoku_key(rng: Random) -> Key:
    return ("sudoku", rng.choice(solved_grids()))


def _puzzle(solution: str, blanks: int, rng: Random) -> str:
    cells = list(solution)
    for place in rng.sample(range(16), 16):
        digit, cells[place] = cells[place], "0"
        if len(solutions("".join(cells))) > 1:
            cells[place] = digit
        if cells.count("0") == blanks:
            break
    return "".join(cells)


def _sudoku(key: Key, rng: Random, admits: Admits) -> Item:
    givens = grouped(_puzzle(key[1], rng.randint(4, 8), rng))
    verifier = Verifier("sudoku", (givens,))
    return Item(
        key,
        Turn(rng.choice(SUDOKU_ZH).format(grid=givens), grouped(key[1]), verifier),
        Turn(rng.choice(SUDOKU_EN).format(grid=givens), grouped(key[1]), verifier),
    )


SUDOKU = Skill("sudoku", _sudoku_key, _sudoku)
