"""A typed client of the service, sync and async.

Inputs: the service's address and a key. Outputs: its answers, with the types of its own schemas.
Promise: an answer is the service's or an error that has the service's reason; a service that is
busy is asked again, when it says and not before.
"""

from deployments.client.calls import RetryPolicy, ServiceProblemError
from deployments.client.clients import AsyncServiceClient, ServiceClient

__all__ = ["AsyncServiceClient", "RetryPolicy", "ServiceClient", "ServiceProblemError"]
