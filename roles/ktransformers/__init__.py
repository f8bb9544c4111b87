"""Role ktransformers: mixture-of-experts models whose experts stay with the processors, the rest on a card."""
