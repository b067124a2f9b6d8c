"""The paths of the service, one noun a module; each has ``router``, a function of the :class:`Service`."""
