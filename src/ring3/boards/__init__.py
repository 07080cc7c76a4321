"""One machine per file: a wiring diagram, and the only place with absolute ports, addresses and IRQs."""
