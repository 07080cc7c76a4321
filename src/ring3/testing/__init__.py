"""For tests of guests: building blocks that Ring3's own tests are made of."""
