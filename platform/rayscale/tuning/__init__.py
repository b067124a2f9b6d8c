"""Search of training settings with Ray Tune.

``sweep`` says what is searched and orders the trials, ``spaces`` what is drawn, ``search`` runs the trials on a cluster.
Importing this package imports neither torch nor Ray.
"""
