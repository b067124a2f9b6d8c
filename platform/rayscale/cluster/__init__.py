"""A Ray cluster, as every part of rayscale that runs on one sees it; nothing about what runs there.

``connection`` joins or starts one, ``resources`` says what it has room for and who takes GPUs, ``errors`` brings an error
for the user back from a task. Importing this package imports no Ray.
"""

from rayscale.cluster.connection import connect, scratch, shutdown
from rayscale.cluster.errors import await_or_error, raise_error, return_error
from rayscale.cluster.resources import check_room, see_nodes, take_gpus, wants_gpus

__all__ = [
    "await_or_error",
    "check_room",
    "connect",
    "raise_error",
    "return_error",
    "scratch",
    "see_nodes",
    "shutdown",
    "take_gpus",
    "wants_gpus",
]
