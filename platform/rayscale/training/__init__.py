"""From batches of patches to a trained model: plain PyTorch, joined to Ray Train by one file.

``config`` says what a run is (its ``sections``, the ``recipes`` of each system), ``assembly`` makes network and trainer,
``step`` is one update (with ``parallel``, ``optimizer``, ``schedule``, ``guard``; ``failure`` says why one ended a run), ``adversarial`` one against a ``discriminator`` with
``perceptual`` losses, ``loop`` a whole run, ``checkpoint`` and ``run`` what stays in storage, ``group`` what workers tell each other, ``progress`` how fast it goes, ``cost`` what it will take, ``validation`` the scores
meanwhile, ``ray`` the same on a cluster, whose workers meet by ``network``. ``aplus`` trains without gradients, from
``patches``, ``dictionary`` and ``anchors``, and ``task`` runs it on a cluster. Importing this package imports neither
torch nor Ray.
"""
