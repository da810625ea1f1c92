"""The embedded demo: drawn pictures, a tiny base model, and scores that need no eye."""
