"""Make a benchmark of your own images: HR/ and LR/ of each scale, degraded as Set5 was, for `rayscale evaluate`.

    python benchmarks/make_benchmark.py s3://scenes/held-out s2 --bands 4 3 2 8 --scales 2
    python benchmarks/make_benchmark.py scans mr --scales 2 3 4 --only '*.dcm'

Images, bands and slices are those that jobs/prepare_dataset.py would train on; every one is cropped to a multiple of all
scales and written as TIFF, 8 or 16 bit, to TARGET/x2/HR, TARGET/x2/LR, ... What cannot be used is named and left out.
"""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatch

from rayscale.data import PrepareConfig
from rayscale.data.cutting import columns, crop
from rayscale.data.pictures import pictures
from rayscale.errors import InputError, RayscaleError
from rayscale.imaging import Image, ending_of, read_image, write_image
from rayscale.storage import connect


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", help="folder or s3://bucket/prefix of images")
    add("target", help="folder or s3://bucket/prefix of the benchmark")
    add("--scales", type=int, nargs="+", default=[2, 3, 4], metavar="S")
    add("--bands", type=int, nargs="+", default=(), metavar="N", help="bands from 1, in this order")
    add("--only", default="*", metavar="GLOB", help="images whose key matches")
    add("--every", type=int, default=1, metavar="N", help="of a volume, every Nth slice")
    options = parser.parse_args(arguments)
    try:
        print(f"{make(options)} pictures at {', '.join(map(str, options.scales))}")
    except RayscaleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make(options: argparse.Namespace) -> int:
    """Write the benchmark; the number of its pictures."""
    source, target = connect(options.source), connect(options.target)
    config = PrepareConfig.create(scales=options.scales, bands=options.bands)
    count = 0
    for entry in source.list():
        if not ending_of(entry.key) or not fnmatch(entry.key, options.only):
            continue
        try:
            found = pictures(read_image(source.read(entry.key)), config.bands)
        except InputError as error:
            print(f"{entry.key}: {error}", file=sys.stderr)
            continue
        if any(picture.valid is not None for picture in found):
            print(f"{entry.key}: pixels are missing; cut them off", file=sys.stderr)
            continue
        for number, (whole, _) in enumerate(found[:: options.every]):
            name = entry.key.replace("/", "-") + f"-{number:04d}" * (len(found) > 1)
            hr, *smaller = columns(
                crop(whole, config.grain), config.stored_scales, config.degradation
            )
            for scale, lr in smaller:
                for folder, pixels in (("HR", hr[1]), ("LR", lr)):
                    data = write_image(Image(pixels, container="tiff"))
                    target.write(f"x{scale}/{folder}/{name}.tif", data)
            count += 1
    if not count:
        raise InputError(f"{source.uri} has no picture for a benchmark that matches {options.only}")
    return count


if __name__ == "__main__":
    sys.exit(main())
