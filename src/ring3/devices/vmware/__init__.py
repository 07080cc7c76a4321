"""VMware's interface between guest and monitor, which stock drivers of many systems know."""
