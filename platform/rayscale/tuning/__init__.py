"""Search of training settings with Ray Tune.

``sweep`` says what is searched and orders the trials, ``spaces`` what may be drawn, ``samplers`` propose it, ``population``
is population based training. ``trials`` keeps what became of each in storage, and ``course`` says which is next.
``search`` runs them on a cluster, through ``tune``; ``trial`` is one in its own process. ``pictures`` shows what came out.
Importing this package imports neither torch nor Ray.
"""
