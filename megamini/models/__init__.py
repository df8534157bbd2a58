"""Families of bodies, the primary model with its exits, and the joint loss."""
