"""Dify, a platform for applications of language models, as upstream's compose file has it."""
