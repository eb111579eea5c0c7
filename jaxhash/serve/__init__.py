"""An index as an HTTP service with a page: `app` makes the application, `server` serves it.

It stands on `jaxhash.image_index`: a request becomes a query of an `ImageIndex`, and requests that
arrive together become one. Starlette and uvicorn speak HTTP, pydantic checks what comes in; they
are the extra `serve`.
"""
