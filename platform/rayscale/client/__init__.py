"""The client of a service: :class:`Client`, and :class:`AsyncClient` for asyncio. Neither torch nor Ray here.

``calls`` is what both say and understand, ``retries`` when they say it again.
"""

from rayscale.client.asynchronous import AsyncClient
from rayscale.client.calls import Answer, ServiceError
from rayscale.client.synchronous import Client

__all__ = ["Answer", "AsyncClient", "Client", "ServiceError"]
