"""What a PC's firmware would leave behind for an operating system: memory map, tables, a loaded kernel."""
