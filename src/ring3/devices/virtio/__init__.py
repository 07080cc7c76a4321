"""Virtio devices: split queues, the PCI transport, and the devices on it."""
