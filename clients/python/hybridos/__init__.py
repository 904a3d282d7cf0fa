# SPDX-License-Identifier: Apache-2.0
"""Answer requests of every protocol that a HybridOS device speaks.

    import hybridos

    app = hybridos.App("hello")

    @app.endpoint("/hello")
    async def hello(request):
        return "hello\\n"

    app.run()
"""
from . import log
from .app import App, Endpoint, Refused, Value
from .request import BodyTooLarge, Request, Response

__all__ = ["App", "BodyTooLarge", "Endpoint", "Refused", "Request", "Response", "Value", "log"]
