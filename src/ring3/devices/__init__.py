"""The PC's chips, one per file.

Every chip has `state` (a dataclass at its reset values: all the guest can observe, and the checkpoint
record), `restore(state)` and `reset()`.  Byte-wide chips are `read(offset)` and `write(offset, value)`;
wide ones are `read(offset, size)` and `write(offset, value, size)`, sizes in bytes.  A chip with registers
at several places has a face for each, an object with the same two methods.  Wires, clocks, callbacks and
backends are constructor arguments.
"""
