"""Role ipex_llm: Intel's archived server for its own cards, as the first guides for the Arc B580 used it."""
