"""Screens, and what shows them: text, damage, consoles."""
