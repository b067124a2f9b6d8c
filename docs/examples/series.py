"""Upscale a folder of DICOM slices, and check that the result is the same series at the same place.

python docs/examples/series.py slices/ larger/ series.png
"""

import subprocess
import sys
from pathlib import Path

import pydicom
from picture import draw

slices, larger, picture = sys.argv[1:]
subprocess.run(["rayscale", "upscale", slices, larger, "--model", "aplus"], check=True)

sources = [pydicom.dcmread(path) for path in sorted(Path(slices).iterdir())]
results = [pydicom.dcmread(path) for path in sorted(Path(larger).iterdir())]
assert len({each.SeriesInstanceUID for each in results}) == 1
for source, result in zip(sources, results, strict=True):
    assert [2 * spacing for spacing in result.PixelSpacing] == list(source.PixelSpacing)
    assert result.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID

middle = len(sources) // 2
images = {}
for title, each in (("slice", sources[middle]), ("A+ x2", results[middle])):
    rows, columns = (slice(size * 3 // 8, size * 5 // 8) for size in (each.Rows, each.Columns))
    images[title] = each.pixel_array[rows, columns]
draw(picture, images)
