"""Role transformers_serve: transformers' own server, for models that no other engine has yet."""
