"""What a file says of its picture besides the pixels: EXIF (camera, date, GPS), XMP and IPTC, as the containers share them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rayscale.errors import InputError
from rayscale.imaging.containers import exif, xmp


@dataclass(frozen=True)
class Description:
    """The blocks of one upright picture of ``size``.

    Attributes:
        size: width and height in pixels that the blocks speak of.
        exif: a block as in ``containers.exif``, without the prefix ``Exif``; its orientation is 1.
        xmp: a packet, UTF-8.
        iptc: the records of IPTC-IIM: captions, credits, keywords.
    """

    size: tuple[int, int]
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None

    @classmethod
    def read(
        cls,
        size: tuple[int, int],
        orientation: int = 1,
        *,
        exif_block: bytes | None = None,
        packet: bytes | None = None,
        iptc: bytes | None = None,
    ) -> tuple[Description | None, tuple[str, ...]]:
        """The description of a picture that was turned upright from ``orientation``, and notes of what was lost.

        ``size`` is that of the upright picture. None when the file says nothing.
        """
        notes = []
        turned = orientation != 1
        if exif_block:
            try:
                turned = turned or exif.tells_orientation(exif_block)
                exif_block = exif.resized(exif_block, size, orientation=orientation)
            except InputError as error:
                notes.append(f"the EXIF block is damaged and was left out ({error})")
                exif_block = None
        if packet:
            if xmp.tells_of_more(packet):
                notes.append(
                    "only the main picture was read; the gain map, video or depth map of the file was left out"
                )
            made = xmp.resized(packet, size, turned=turned)
            if made is None:
                notes.append("the XMP packet is not UTF-8 and was left out")
            packet = made
        description = cls(size, exif_block or None, packet or None, iptc or None)
        return description if any(description.blocks) else None, tuple(notes)

    @property
    def blocks(self) -> tuple[bytes | None, ...]:
        """EXIF, XMP and IPTC."""
        return self.exif, self.xmp, self.iptc

    def fitted(self, width: int, height: int) -> Description:
        """The description of the same picture at another size."""
        size = (width, height)
        if size == self.size:
            return self
        scale = (width / self.size[0], height / self.size[1])
        block = self.exif and exif.resized(self.exif, size, scale)
        packet = self.xmp and xmp.resized(self.xmp, size, scale)
        return replace(self, size=size, exif=block, xmp=packet)
