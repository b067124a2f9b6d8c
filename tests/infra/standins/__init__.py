"""Images that stand in for those of the compose file where no registry is at hand: other builds of the same programs.

``postgres`` and ``nginx`` are Debian's, in images that take the variables and files of the official ones; in place of
SeaweedFS runs the S3 server of the local stack.
"""
