"""The systems: what they compute, how they are named, built, saved and read.

``spec`` describes a network, ``systems`` names and builds it, ``weights`` saves and reads it. The networks
themselves (a file per family) share the base class and the layers of ``network``, those that see luma alone also
``luma``. Nothing here knows images, storage or training. Import from the modules; this package itself imports
nothing heavy.
"""
