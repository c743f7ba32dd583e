"""A vLLM server as backend: lorad starts it or is pointed to it, and talks to it over HTTP."""
