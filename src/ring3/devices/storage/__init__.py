"""Disks, CD drives and their controllers."""
