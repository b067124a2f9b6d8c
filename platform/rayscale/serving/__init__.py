"""The HTTP service on Ray Serve: a request becomes an image, a replica enlarges it, the answer is a file.

``app`` is what Ray Serve runs, as ``config.yaml`` says, and ``deploy`` gives it to a cluster. ``api`` speaks HTTP with
``routes``, ``options``, ``keys``, ``limits`` and ``drain``; ``errors`` is the table of all that is refused and ``refusals``
what is answered then. ``front`` stands before Ray Serve's own proxy. ``batches`` knows the batches, ``rayjobs`` starts
``batchrun`` for each. ``engine`` does the
work with the models that a ``shelf`` keeps; ``jobs`` is what the two sides say to each other. Importing this package
imports none of them.
"""
