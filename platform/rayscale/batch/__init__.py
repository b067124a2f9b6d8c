"""From a bucket of images to a bucket of larger ones, on Ray Data, restartable at any point.

``run`` is the flow; ``plan`` says what is left to do, ``actors`` does it, ``manifest`` keeps what was done,
``lease`` keeps a second driver out. Importing this package does not import Ray or torch.
"""

from rayscale.batch.lease import BusyError
from rayscale.batch.manifest import Row
from rayscale.batch.run import Progress, Summary, upscale_bucket

__all__ = ["BusyError", "Progress", "Row", "Summary", "upscale_bucket"]
