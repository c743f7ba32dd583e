"""The backend that lorad brings along: transformers' models in this process, with continuous batching of its own."""
