"""Vocabularies changed for a further language: pieces added, or put in the place of others."""
