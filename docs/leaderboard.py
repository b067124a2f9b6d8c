"""The table of the bundled models in docs/zoo.md, from their cards; `python docs/pages.py` puts it there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START, END = "<!-- leaderboard: from the cards, by `make docs-pages` -->", "<!-- end -->"
HEAD = (
    "model",
    "set, protocol",
    "PSNR dB / SSIM",
    "bicubic",
    "published",
    "GMAC/MP",
    "MP/s",
    "MiB",
    "steps, seed",
)
SOURCES = ("model", "weights", "trained on", "licence of the data", "costs of")
FAMILY = {"edsr-baseline": "edsr", "mdsr-baseline": "mdsr"}
"""Whose published figures stand beside those of a smaller network."""


def place(page: Path) -> str:
    """The text of the page with the table as the cards have it now."""
    from rayscale.models.builtin import bundled_names, read_card

    table = render([read_card(name) for name in bundled_names()])
    pattern = f"(?<={re.escape(START)}\n).*?(?={re.escape(END)})"
    text, count = re.subn(pattern, lambda _: f"\n{table}\n\n", page.read_text(), flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{page} needs one {START} and one {END} below it")
    return text


def render(cards: list[dict[str, Any]]) -> str:
    """Figures and costs, then data and licences."""
    rows = [row for card in cards for row in _rows(card)]
    return f"{_table(HEAD, rows)}\n\n{_table(SOURCES, [_source(card) for card in cards])}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    lines.insert(1, f"|{'---|' * len(head)}")
    return "\n".join(lines)


def _rows(card: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    from rayscale.evaluation.published import find

    system = card["specification"]["system"]
    name = f"`{card['name']}`"
    for row in card["figures"]:
        of = FAMILY.get(system, system)
        figure = find(row["set"], row["scale"], of, row["protocol"])
        published = "-"
        if figure is not None:
            ssim = "" if figure.ssim is None else f" / {figure.ssim:.4f}"
            published = f"{figure.psnr:.2f}{ssim}" + f" ({of})" * (of != system)
        cost = card.get("cost", {}).get(f"{row['scale']:g}", {})
        yield (
            name,
            f"{row['set']} x{row['scale']:g}, {row['protocol']}",
            f"**{row['psnr']:.2f}** / {row['ssim']:.4f}",
            f"{row['bicubic_psnr']:.2f} / {row['bicubic_ssim']:.4f}",
            published,
            _number(cost, "gmac_per_mp", ".0f"),
            _number(cost, "mp_per_s", ".3f"),
            _number(cost, "mib", ".0f"),
            f"{card['steps']:,}, {card['recipe'].get('run.seed', 0)}",
        )


def _number(values: dict[str, Any], key: str, how: str) -> str:
    return format(values[key], how) if key in values else "-"


def _source(card: dict[str, Any]) -> tuple[str, ...]:
    dates = {cost["date"] for cost in card.get("cost", {}).values()}
    return (
        f"`{card['name']}`",
        card["licence"],
        card["data"],
        card["data_licence"],
        max(dates, default="-"),
    )
