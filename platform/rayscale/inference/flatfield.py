"""The flat-field correction: an image of one colour stays that colour, whatever the weights.

A trained network answers a constant image with another constant, or with a pattern of the period of its output grid, because
nothing in its training forbids it. On photographs the error is below a grey level. On measurements it is a bias of whole
scenes and a grid of dots where nothing varies. As in sensors, the answer to flat images is measured once, for a table of
colours and for each place in the grid, and its difference from the colour is subtracted where that colour is the
source's. The correction of an output pixel depends on one source pixel, so halos, tiles and windows stay what they are.
"""

from __future__ import annotations

import base64
import zlib
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rayscale import strictjson
from rayscale.resampling import exact_scale

if TYPE_CHECKING:
    from rayscale.models.network import SuperResolver

_NODES = {1: 65, 2: 17, 3: 9, 4: 5}
"""Number of channels that are seen together to the nodes of the table along each."""

_SIDE = 4  # of the flat images, in source pixels: not below the padding of any layer
_LARGEST_PERIOD = 16  # of the output grid; beyond, the mean over it is all that is corrected
_COARSE = 3  # nodes along each channel that show whether there is anything to correct
_NEGLIGIBLE = 3e-5  # of the value range: a hundredth of a grey level
_BATCH = 64
_ROWS = 64  # of the source, corrected at a time


@dataclass(frozen=True, eq=False)
class FlatField:
    """How far a network's answer to flat images is from their colour.

    Attributes:
        table: ``(nodes^C, period^2 * C)``: for each colour, and each place of the output grid row by row, the difference per channel.
        nodes: along each of the ``channels`` that are seen together, from 0 to ``value_range``.
        period: output pixels after which the grid repeats.
        factor: the scale as ``(p, q)``.
    """

    table: Tensor
    channels: int
    nodes: int
    value_range: float
    period: int
    factor: tuple[int, int]

    @classmethod
    @torch.inference_mode()
    def measure(
        cls, model: SuperResolver, scale: float, channels: int, dtype: torch.dtype
    ) -> FlatField | None:
        """The flat field for images of ``channels`` channels, computed in ``dtype``; None where it is nothing but rounding.

        Flat images have no border here: the layers wrap around.
        """
        together = 1 if model.any_channels and channels != 3 else channels
        nodes = _NODES.get(together, _NODES[1])
        value_range = model.spec.value_range
        p, q = exact_scale(scale).as_integer_ratio()
        side = q * -(-_SIDE // q)
        period = 1 if p > _LARGEST_PERIOD else p
        endless = _wrap(model)
        device = next((each.device for each in model.parameters()), torch.device("cpu"))

        def differences(colours: Tensor) -> Tensor:
            found = []
            for some in torch.split(colours, _BATCH):
                flat = some[:, :, None, None].expand(-1, -1, side, side).to(device)
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    answer = endless(flat.contiguous(), scale)
                difference = answer.float().cpu() - some[:, :, None, None]
                if period == 1:
                    difference = difference.mean((2, 3), keepdim=True)
                found.append(difference[..., :period, :period].permute(0, 2, 3, 1).flatten(1))
            return torch.cat(found)

        few = differences(_colours(_COARSE, together, value_range))
        if not few.isfinite().all() or few.abs().max() <= _NEGLIGIBLE * value_range:
            return None
        table = differences(_colours(nodes, together, value_range))
        return cls(table, together, nodes, value_range, period, (p, q))

    def to_text(self) -> str:
        """What :meth:`from_text` makes the same flat field of."""
        facts = {name: value for name, value in vars(self).items() if name != "table"}
        table = self.table.contiguous().numpy().astype("<f4")
        packed = base64.b85encode(zlib.compress(table.tobytes())).decode()
        return strictjson.dumps({**facts, "table": packed})

    @classmethod
    def from_text(cls, text: str) -> FlatField:
        """The inverse of :meth:`to_text`; ValueError, KeyError or TypeError for any other text."""
        facts = strictjson.loads(text)
        period, channels, nodes = (int(facts[name]) for name in ("period", "channels", "nodes"))
        rows = len(_colours(nodes, channels, 1.0))
        size = rows * period**2 * channels
        content = zlib.decompressobj().decompress(base64.b85decode(facts.pop("table")), 4 * size)
        table = torch.from_numpy(np.frombuffer(content, "<f4", size).astype(np.float32))
        p, q = facts.pop("factor")
        return cls(table=table.reshape(rows, -1), factor=(int(p), int(q)), **facts)

    def averaged(self) -> FlatField:
        """That of the self-ensemble: the mean over the eight flips and turns of the output grid."""
        grid = self.table.reshape(len(self.table), self.period, self.period, self.channels)
        turned = [turn for each in (grid, grid.transpose(1, 2)) for turn in (each, each.flip(1))]
        views = [view for turn in turned for view in (turn, turn.flip(2))]
        return replace(self, table=torch.stack(views).mean(0).flatten(1))

    def subtract(self, y: Tensor, x: Tensor) -> None:
        """Correct the output ``y (N, C, h, w)`` of the network for ``x (N, C, H, W)``, in place."""
        p, q = self.factor
        step = q * max(1, _ROWS // q)
        across = torch.arange(y.shape[3])
        columns = (across * q // p).clamp(max=x.shape[3] - 1)
        for top in range(0, x.shape[2], step):
            down = torch.arange(top * p // q, min((top + step) * p // q, y.shape[2]))
            band = x[:, :, top : top + step]
            count, channels, height, width = band.shape
            colours = band.reshape(-1, self.channels, height, width).permute(0, 2, 3, 1)
            field = self._look_up(colours.reshape(-1, self.channels))
            field = field.reshape(-1, height, width, self.period**2, self.channels)
            place = (down % self.period)[:, None] * self.period + across % self.period
            found = field[:, (down * q // p - top)[:, None], columns, place].permute(0, 3, 1, 2)
            y[:, :, down[0] : down[-1] + 1] -= found.reshape(count, channels, len(down), -1)

    def _look_up(self, colours: Tensor) -> Tensor:
        """``(M, C)`` to ``(M, period^2 * C)``, linear between the nodes and constant beyond them."""
        axes = colours if self.channels in _NODES else colours.mean(1, keepdim=True)
        place = (axes / self.value_range).clamp(0, 1) * (self.nodes - 1)
        low = place.floor().clamp(max=self.nodes - 2)
        share = place - low
        low = low.long()
        total: Tensor | None = None
        for corner in product((0, 1), repeat=axes.shape[1]):
            index = torch.zeros(len(axes), dtype=torch.long)
            weight = torch.ones(len(axes))
            for axis, step in enumerate(corner):
                index = index * self.nodes + low[:, axis] + step
                weight = weight * (share[:, axis] if step else 1 - share[:, axis])
            part = self.table[index] * weight[:, None]
            total = part if total is None else total + part
        assert total is not None
        return total


def _colours(nodes: int, channels: int, value_range: float) -> Tensor:
    """The colours of a table ``(M, C)``, the last channel varying first.

    Colours of more channels than there are tables for lie near the grey axis, as those of instruments do: that alone.
    """
    ticks = torch.linspace(0, value_range, nodes)
    if channels not in _NODES:
        return ticks[:, None].expand(-1, channels)
    grid = torch.meshgrid(*[ticks] * channels, indexing="ij")
    return torch.stack(grid, -1).reshape(-1, channels)


def _wrap(model: SuperResolver) -> SuperResolver:
    """A copy whose layers see an image without borders."""
    copy = deepcopy(model).eval()
    for layer in copy.modules():
        if hasattr(layer, "padding_mode"):
            setattr(layer, "padding_mode", "circular")  # noqa: B010  # of convolutions, and of ours
    return copy
