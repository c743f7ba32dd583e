"""The backend that answers with llama.cpp in this process, from a GGUF copy of each version."""
