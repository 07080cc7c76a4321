"""PCI: configuration space, the host bridge and the ISA bridge."""
