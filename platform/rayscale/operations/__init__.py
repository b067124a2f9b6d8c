"""What those who run rayscale ask: is this set-up sound, what does it do, what may be deleted, what happened to an id.

``doctor`` examines a set-up by trying it: ``facts`` are what a machine says of itself, ``rights`` what object storage allows.
``leftovers`` finds what nothing needs any longer.
"""
