"""Open WebUI, a chat page in the browser for the models that this host serves."""
