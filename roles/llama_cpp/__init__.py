"""llama.cpp's HTTP server, one systemd unit for each named instance."""
