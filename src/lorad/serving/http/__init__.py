"""HTTP on the Unix socket: routes, bodies within bounds, connections, errors in OpenAI's form. FastAPI lives here alone."""
