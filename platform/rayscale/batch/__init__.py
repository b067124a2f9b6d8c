"""From a bucket of images to a bucket of larger ones, on Ray Data, restartable at any point.

``run`` is the flow and ``forecast`` its dry run; both open a ``job``. ``inputs`` finds what it is about, ``plan`` says what is
left to do, a ``pool`` of ``actors``, each around a ``worker``, does it, ``outputs`` puts results in their place, ``manifest``
keeps what was done. Importing this package does not import Ray or torch.
"""

from rayscale.batch.forecast import Forecast, forecast_bucket
from rayscale.batch.job import ONE_BY_ONE, check_options
from rayscale.batch.manifest import Row
from rayscale.batch.run import Progress, Summary, upscale_bucket
from rayscale.storage.lease import BusyError

__all__ = [
    "ONE_BY_ONE",
    "BusyError",
    "Forecast",
    "Progress",
    "Row",
    "Summary",
    "check_options",
    "forecast_bucket",
    "upscale_bucket",
]
