"""Objects in ``s3://`` buckets and local folders behind one small interface.

``store`` has the interface and ``connect``; ``local`` and ``s3`` are the two kinds; ``lease`` keeps a place to one process; settings are in ``docs/storage.md``. Nothing here knows
images, models or datasets. Importing this package does not import boto3.
"""

from rayscale.storage.store import Entry, Store, connect, is_hidden, split

__all__ = ["Entry", "Store", "connect", "is_hidden", "split"]
