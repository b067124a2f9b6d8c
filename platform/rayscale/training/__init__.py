"""From batches of patches to a trained model: plain PyTorch, joined to Ray Train by one file.

``config`` says what a run is, ``step`` is one update, ``loop`` a whole run, ``checkpoint`` and ``run`` what
stays in storage, ``validation`` the scores meanwhile, ``ray`` the same on a cluster. A+ is not trained by
gradients: ``aplus`` is its training, of ``patches``, ``dictionary`` and ``anchors``. Importing this package
imports neither torch nor Ray.
"""
