"""rayscale: distributed super-resolution on Ray, from object storage to HTTP.

The rooms of the library are described in ``docs/architecture.md``. Importing the package is free:
every heavy dependency is imported by the room that needs it.
"""

__version__ = "0.1.0"
