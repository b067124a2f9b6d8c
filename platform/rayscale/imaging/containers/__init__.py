"""One module per file format, each with ``probe(data)``, ``read(data, max_pixels)``, ``write(image)``.

``rayscale.imaging.files`` chooses among them by the first bytes and turns whatever a decoding library
raises into ``InputError``; the modules themselves raise only rayscale errors on purpose.
``ifd`` is the tag directory that TIFF and EXIF share.
"""
