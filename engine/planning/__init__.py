"""Proposals, memory and sizes that a plan is made of. No torch."""
