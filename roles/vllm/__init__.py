"""vLLM's OpenAI-compatible server, one systemd unit for each named instance."""
