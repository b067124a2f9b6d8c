"""Objects in ``s3://`` buckets and local folders behind one small interface.

``store`` has the interface, ``local`` and ``s3`` are the two kinds, ``uri`` opens them; ``lease`` keeps a place to one process.
Settings are in ``docs/storage.md``. Nothing here knows images, models or datasets. Importing this package does not import boto3.
"""

from rayscale.storage.store import Entry, Store, is_hidden
from rayscale.storage.uri import connect, split

__all__ = ["Entry", "Store", "connect", "is_hidden", "split"]
