"""One package per role; see docs/adr/ for why they are cut as they are."""
