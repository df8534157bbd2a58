"""Optimizers: AdamW and Muon, alike in one process and at every ZeRO stage."""
