"""Sound cards, and what they share: frames moved at a rate, and the way to an audio sink."""
