"""Ollama: one daemon that serves many models, each made to match the inventory."""
